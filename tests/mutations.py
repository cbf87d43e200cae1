"""Strangers' files: valid ones, changed by plan; and a guard in which a reader may succeed or raise a UserError, no more."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import resource
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from flowkit.errors import UserError

MEMORY = 2_000_000_000  # bytes that a reader may ask for, beyond what the process has
SECONDS = 10.0  # of the processor's time: a hang, on however busy a machine
TIMES = int(os.environ.get("FLOWKIT_FUZZ", "1"))  # so many times the examples, and other ones each time


def examples(count: int) -> Callable[[Any], Any]:
    """So many examples, the same in each run of the suite; with FLOWKIT_FUZZ=20 twenty times as many, and new ones."""
    return settings(
        max_examples=count * TIMES, derandomize=TIMES == 1, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# ---- the guard ----


class Hang(BaseException):
    """No Exception, so that no reader takes it for a broken file."""


_written: list[str] | None = None


def _note_writing(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which can never be taken away again: it only looks while `_written` is a list."""
    if _written is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes) and (
            (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            _written.append(os.path.realpath(os.fsdecode(path)))
    elif event == "os.symlink":
        _written.append(os.path.realpath(os.path.dirname(os.fsdecode(arguments[1]))))  # what it names is not written to
    elif event in ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "shutil.rmtree"):
        at = arguments[-1] if isinstance(arguments[-1], int) and arguments[-1] >= 0 else None  # the folder's descriptor
        folder = "" if at is None else os.path.realpath(f"/proc/self/fd/{at}")
        _written.extend(
            os.path.realpath(os.path.join(folder, os.fsdecode(one)))
            for one in arguments
            if isinstance(one, str | bytes | os.PathLike)
        )


sys.addaudithook(_note_writing)


def read(action: Callable[[], Any], target: Path | None = None) -> bool:
    """Whether `action` succeeded; False for a UserError. Anything else fails: another exception, a hang, two gigabytes,
    or something written outside of the folder `target`.
    """
    with _bounded() as written:
        try:
            action()
            done = True
        except UserError as error:
            assert str(error).strip(), "a message that says nothing"
            done = False
    ours = [] if target is None else [str(target.resolve())]
    outside = [path for path in written if not path.startswith((*ours, "/dev/")) and "__pycache__" not in path]
    assert not outside, f"written outside of {target}: {outside}"
    return done


@contextlib.contextmanager
def _bounded() -> Iterator[list[str]]:
    global _written

    def ring(*_: object) -> None:
        raise Hang(f"more than {SECONDS:g} seconds of the processor")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, ring)
    _written = []
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, hard))
    try:
        yield _written
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        _written = None


# ---- mutations ----

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 255, 10_000, 2**31, 10**12, 2**63, 2**64 + 1, 10**30, 10**400, 0.5, -0.5, 1e-320, 1e308,
    float("inf"), float("nan"), "", "x", "cat", "../x", "/tmp/x", "a/b", "a\0b", "\ud800", "[bold]", "\x1b[2J",
    "9" * 5000, [], {},
    [[]], [None], [1, 2], [1e308, -1e308], [10**30], ["x"], {"x": 1}, {"name": "x"}, {"name": ["x"]}, {"name": None},
]  # fmt: skip


def deep(levels: int) -> Any:
    """A list in a list in a list ..., deeper than recursion goes."""
    content: Any = []
    for _ in range(levels):
        content = [content]
    return content


values = (
    st.sampled_from(VALUES).map(copy.deepcopy)
    | st.builds(deep, st.sampled_from([70, 400]))
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
)


def _places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    if isinstance(content, dict):
        for key in content:
            yield from _places(content[key], (*way, key))
    elif isinstance(content, list):
        for place in range(min(len(content), 4)):
            yield from _places(content[place], (*way, place))


@st.composite
def changed(draw: st.DrawFn, content: Any, most: int = 3) -> Any:
    """A JSON-able structure with some of its values replaced, removed, doubled, or moved to other keys."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, most))):
        ways = [way for way in _places(content) if way]
        if not ways:
            return draw(values)
        *way, last = draw(st.sampled_from(ways))
        holder = content
        for step in way:
            holder = holder[step]
        kind = draw(st.sampled_from(["value", "value", "value", "drop", "double", "key", "other"]))
        if kind == "value":
            holder[last] = draw(values)
        elif kind == "drop":
            del holder[last]
        elif kind == "double" and isinstance(holder, list):
            holder.append(holder[last])
        elif kind == "key" and isinstance(holder, dict):
            holder[str(draw(values))[:50]] = holder.pop(last)
        elif kind == "other":
            holder[last] = json.loads(json.dumps(_at(content, draw(st.sampled_from(ways)))))
    return content


def _at(content: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


@st.composite
def mangled(draw: st.DrawFn, raw: bytes, most: int = 4) -> bytes:
    """Bytes with stretches cut out, doubled, overwritten or put in; or truncated."""
    content = bytearray(raw)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(content)))
        to = min(len(content), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "double", "write", "insert", "end", "zero"]))
        if kind == "cut":
            del content[at:to]
        elif kind == "double":
            content[at:to] = content[at:to] * 2
        elif kind == "write":
            some = draw(st.binary(max_size=8))
            content[at : at + len(some)] = some
        elif kind == "insert":
            content[at:at] = draw(
                st.sampled_from([b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"{", b"\x80", b"9" * 300])
            )
        elif kind == "end":
            del content[at:]
        else:
            content[at:to] = bytes(to - at)
    return bytes(content)


@st.composite
def changed_tensors(draw: st.DrawFn, raw: bytes) -> bytes:
    """A .safetensors whose header lies, about its own length too, or whose bytes were mangled."""
    if draw(st.booleans()) and draw(st.booleans()):
        return draw(mangled(raw))
    length = int.from_bytes(raw[:8], "little")
    header = as_json(draw(changed(json.loads(raw[8 : 8 + length]))))
    if draw(st.booleans()):
        header += b" " * (-len(header) % 8)
    claimed = draw(st.sampled_from([len(header)] * 6 + [0, 1, len(header) + 1, 2**32, 2**63, 2**64 - 1]))
    body = raw[8 + length :]
    body = draw(st.sampled_from([body, body, body[:-3], body + b"xyz", b""]))
    return claimed.to_bytes(8, "little") + header + body


NAMES = ["../x.svg", "a/../../x.svg", "/tmp/x.svg", "..\\x.svg", "C:\\x.svg", "cat/\ud800.svg",
         "cat/" + "n" * 400 + ".svg", "", "/",
         ".", "..", "a//b.svg", "cat/1.svg", "cat\0.svg", "\x1b[2J/x.svg", "cat/x.npz", "x.ndjson"]  # fmt: skip


@st.composite
def changed_zip(draw: st.DrawFn, files: Mapping[str, bytes]) -> bytes:
    """A zip with members that lead elsewhere, are links, zips or bombs, and whose directory may be mangled."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
                info = zipfile.ZipInfo(draw(st.sampled_from([name] * 4 + NAMES)).encode("utf-8", "replace").decode())
                info.compress_type = draw(
                    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
                )
                if draw(st.integers(0, 9)) == 0:
                    info.external_attr = 0o120777 << 16  # a symbolic link, whose content is where it leads
                    content = b"/etc/passwd"
                elif draw(st.integers(0, 9)) == 0:
                    info.compress_type = zipfile.ZIP_DEFLATED
                    content = draw(st.sampled_from([b" " * 11_000_000, stream.getvalue(), b"<svg>" * 100_000]))
                with contextlib.suppress(UserWarning):
                    archive.writestr(info, content)
    raw = bytearray(stream.getvalue())
    directory = raw.rfind(b"PK\1\2")
    if directory >= 0 and draw(st.booleans()):  # sizes, flags and offsets of the last member, or of the directory
        at = draw(st.sampled_from([6, 8, 10, 20, 24, 28, 30, 32, 42]))
        raw[directory + at : directory + at + 4] = draw(
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\1\0\0\0", b"\xff\xff\0\0"])
        )
    if draw(st.integers(0, 3)) == 0:
        end = raw.rfind(b"PK\5\6")
        at = draw(st.sampled_from([4, 8, 10, 12, 16, 20]))
        raw[end + at : end + at + 2] = draw(st.sampled_from([b"\xff\xff", b"\0\0", b"\1\0"]))
    return draw(mangled(bytes(raw), 2)) if draw(st.integers(0, 3)) == 0 else bytes(raw)


@st.composite
def changed_lines(draw: st.DrawFn, rows: list[Any]) -> bytes:
    """Lines of JSON, some of them changed or mangled, in whatever encoding."""
    lines = [as_json(draw(changed(row)) if draw(st.booleans()) else row) for row in rows]
    raw = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"", b"\0", b"\n\n"])).join(lines)
    if draw(st.integers(0, 4)) == 0:
        with contextlib.suppress(UnicodeError):
            raw = raw.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "latin1", "utf-7"])))
    return draw(mangled(raw)) if draw(st.booleans()) else raw
