"""One message on stderr, such as an error. Without Rich: a message may come before it is worth loading."""

from __future__ import annotations

import os
import re
import shutil
import sys

# A command to type stays on one line, so that it can be copied: `flowkit train runs/a --resume`.
PIECE = re.compile(r"flowkit [a-z]+(?: (?:--?[a-z][\w-]*|\S*[/=]\S*))*\S*|\S+")


def say(label: str, text: str, color: int) -> None:
    """Print `label: text`. A terminal gets lines that break between words, and the label in an ANSI color."""
    if sys.stderr is None:
        return
    said = f"{label}: {text}"
    if sys.stderr.isatty():
        said = wrapped(said, shutil.get_terminal_size().columns)
        if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            said = said.replace(label, f"\x1b[1;{color}m{label}\x1b[0m", 1)
    print(said, file=sys.stderr)


def wrapped(text: str, width: int) -> str:
    """Break the lines of `text` between words. A longer word or command gets a line that the terminal wraps."""
    done = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in PIECE.findall(paragraph):
            if line and len(line) + 1 + len(piece) > width:
                done.append(line)
                line = piece
            else:
                line = f"{line} {piece}" if line else piece
        done.append(line)
    return "\n".join(done)
