"""Ctrl-C and SIGTERM: print one line about what was kept and how to continue. A second signal quits at once."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import typer

from flowkit.errors import Interrupted, UserError
from flowkit.ui.message import say

_received: list[int] = []  # signals so far
_again: list[threading.Timer] = []  # each repeats a signal that a callback of the interpreter has swallowed


def interruptible(command: Callable[..., Any], kept: str) -> Callable[..., Any]:
    """Wrap a command: after Ctrl-C it prints `kept`, or a message of its own, and exits with 130 (SIGTERM: 143)."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        gc.freeze()  # loaded modules stay, so the collector can skip them
        gc.enable()  # `flowkit.__main__` has turned it off
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt as stop:
            _leave(str(stop) if stop.args else kept)
        except (typer.Exit, UserError, SystemExit):
            raise
        except Exception:  # extensions turn an interrupt during their import into other errors
            if not _received:
                raise
            _leave(kept)

    return run


def status() -> int:
    """Return the exit status that a shell expects after a signal."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _leave(said: str) -> None:
    _nothing_again()
    if said and os.environ.get("LOCAL_RANK", "0") == "0":
        say("interrupted", said, 33)
    raise typer.Exit(status()) from None


def _nothing_again() -> None:
    """Cancel the repeats: the interrupt has arrived, and the process is about to end."""
    while _again:
        again = _again.pop()
        again.cancel()
        again.join()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into KeyboardInterrupt. The second ends the process. Training has its own handlers."""
    process, hook = os.getpid(), sys.unraisablehook
    numbers = [signal.SIGINT, signal.SIGTERM]

    def at_once(number: int, frame: Any) -> None:
        if os.getpid() == process and sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # show the cursor, which a progress bar has hidden
        os._exit(128 + number)

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a forked worker: its parent prints the message
            os._exit(128 + number)
        _received.append(number)
        for one in numbers:
            signal.signal(one, at_once)
        raise Interrupted  # in code called from C, a plain KeyboardInterrupt would make Python exit by SIGINT

    def lost(unraisable: Any) -> None:
        """Repeat an interrupt that came inside a callback of the interpreter, which would print and forget it."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return hook(unraisable)
        number = _received.pop() if _received else signal.SIGINT
        for one in numbers:
            signal.signal(one, stop)
        again = threading.Timer(0.02, lambda: os.kill(process, number))
        again.daemon = True
        _again.append(again)
        again.start()
        return None

    _received.clear()
    earlier = {}
    with contextlib.suppress(ValueError):  # not the main thread: the caller keeps its signal handlers
        # SIGINT that is ignored (nohup, a background job of a script) stays ignored
        wanted = [one for one in numbers if signal.getsignal(one) != signal.SIG_IGN]
        numbers[:] = wanted
        earlier = {one: signal.signal(one, stop) for one in numbers}
        sys.unraisablehook = lost
    try:
        yield
    finally:
        for one in earlier:
            signal.signal(one, at_once)  # in case one is pending
        _nothing_again()
        sys.unraisablehook = hook
        for one, handler in earlier.items():
            signal.signal(one, handler)
