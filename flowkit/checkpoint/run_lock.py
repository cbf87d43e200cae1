"""One run, one trainer: two that write to the same directory would tear each other's checkpoints and metrics apart."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from flowkit.errors import UserError

LOCK = ".lock"  # in the run directory; the system lets go of it when the process ends, however it ends
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # what file systems without them answer
HANDOVER = 60.0  # seconds that a resume waits for the one before, which may still be saving


class RunLock:
    """Holds a run directory, on the main process, from `take` to the end of the `with` block."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self._lock: FileLock | None = None
        self._made: list[Path] = []  # folders that were not there before

    def take(self, *, wait: float) -> None:
        """Nothing where it is held already. Raises UserError where another process holds it for `wait` seconds more."""
        if self._lock is not None:
            return
        lock = FileLock(self.run_dir / LOCK, thread_local=False)
        try:
            self._made = [path for path in (self.run_dir, *self.run_dir.parents) if not path.exists()]
            self.run_dir.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=wait)
        except Timeout:
            raise UserError(
                f"{self.run_dir}: another process is training this run; wait for it, stop it, or give this one another run.name"
            ) from None
        except NotImplementedError:
            return  # a file system without locks
        except OSError as error:
            if error.errno in NO_LOCKS:
                return
            raise UserError(
                f"{self.run_dir}: cannot be written ({error.strerror}); name a folder that you may write to"
            ) from None
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the directory may be gone
                if self._made and all(path.name == LOCK for path in self.run_dir.iterdir()):
                    (self.run_dir / LOCK).unlink()  # a run that never began leaves nothing
                    for path in self._made:
                        path.rmdir()
            with contextlib.suppress(OSError):
                self._lock.release()
