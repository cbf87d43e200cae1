"""Ctrl-C and SIGTERM: one line says what was kept and how to continue; nothing half-written stays; a second ends at once."""

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

_received: list[int] = []  # signals, of which the first asked for the end
_again: list[threading.Timer] = []  # which repeat a signal that a callback of the interpreter has swallowed


def interruptible(command: Callable[..., Any], kept: str) -> Callable[..., Any]:
    """The command with an end for Ctrl-C: exit status 130 (143 after SIGTERM) and a line. `kept` is said by default."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        gc.freeze()  # what is loaded stays: no need to look through it
        gc.enable()  # which `flowkit.__main__` has switched off
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt as stop:
            _leave(str(stop) if stop.args else kept)
        except (typer.Exit, UserError, SystemExit):
            raise
        except Exception:  # what extensions make of an interrupt that comes while they are loaded
            if not _received:
                raise
            _leave(kept)

    return run


def status() -> int:
    """What a shell expects of a process that a signal has ended."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _leave(said: str) -> None:
    _nothing_again()
    if said and os.environ.get("LOCAL_RANK", "0") == "0":
        say("interrupted", said, 33)
    raise typer.Exit(status()) from None


def _nothing_again() -> None:
    """The interrupt has arrived after all: repeated, it would meet a process that is about to end."""
    while _again:
        again = _again.pop()
        again.cancel()
        again.join()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once, and the second ends the process. Training has its own meanwhile."""
    process, hook = os.getpid(), sys.unraisablehook
    numbers = [signal.SIGINT, signal.SIGTERM]

    def at_once(number: int, frame: Any) -> None:
        if os.getpid() == process and sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # the cursor, which a progress bar has hidden
        os._exit(128 + number)

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a forked worker: its parent says what there is to say
            os._exit(128 + number)
        _received.append(number)
        for one in numbers:
            signal.signal(one, at_once)
        raise Interrupted  # a plain one in code that C has started makes Python end by SIGINT, whatever status we leave with

    def lost(unraisable: Any) -> None:
        """An interrupt that came inside a callback of the interpreter would be printed and forgotten: it comes again."""
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
    with contextlib.suppress(ValueError):  # not the main thread: whoever runs us there keeps the signals
        # SIGINT that is ignored (nohup, a background job of a script) stays ignored
        wanted = [one for one in numbers if signal.getsignal(one) != signal.SIG_IGN]
        numbers[:] = wanted
        earlier = {one: signal.signal(one, stop) for one in numbers}
        sys.unraisablehook = lost
    try:
        yield
    finally:
        for one in earlier:
            signal.signal(one, at_once)  # for one that is under way
        _nothing_again()
        sys.unraisablehook = hook
        for one, handler in earlier.items():
            signal.signal(one, handler)
