"""Which system packages do the tests lean on? A pytest plugin that records them, and a report that refuses unknown ones.

pip cannot install a system package, so a test that needs one fails on a fresh machine although it passes here.
`FLOWKIT_SYSTEM_LIBRARIES=FILE pytest -p system_libraries` appends to FILE what each test process has loaded and started;
`python system_libraries.py FILE` lists it and ends with status 1 where something is not expected below.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# Every Linux that runs the wheels of torch has these; Python's own modules link the rest.
OF_THE_SYSTEM = (
    *("ld-linux-x86-64", "ld-linux-aarch64", "libanl", "libc", "libdl", "libgcc_s", "libm", "libmvec", "libpthread"),
    *("libresolv", "librt", "libstdc++", "libutil"),
)
OF_PYTHON = (
    *("libbz2", "libcrypt", "libcrypto", "libdb", "libexpat", "libffi", "libgdbm", "libgdbm_compat", "liblzma"),
    *(
        "libncursesw",
        "libnsl",
        "libpanelw",
        "libreadline",
        "libsqlite3",
        "libssl",
        "libtinfo",
        "libtirpc",
        "libuuid",
        "libz",
    ),
)
OPTIONAL = ("libfribidi", "libcuda", "libnvidia")  # used where they are found: by Pillow for text, by torch for a GPU
COMMANDS = {"ip": "iproute2; the test of two machines is skipped without it", "git": "git", "sh": "the shell",
            "bash": "the shell of accelerate_configs/slurm.sbatch",
            "node": "Node.js; the tests of the page's modules are skipped without it",
            "g++": "a C++ compiler; the tests of compiled updates and sampling are skipped without it",
            "openssl": "OpenSSL, which torch's compiler calls; the same tests are skipped without it",
            "nvidia-smi": "the GPU's driver", "uname": "coreutils", "ldconfig": "libc-bin", "lscpu": "util-linux"}  # fmt: skip

_started: set[str] = set()


def pytest_configure(config: Any) -> None:
    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            executable, words = arguments[0], arguments[1]
            _started.add(os.fsdecode(executable or (words if isinstance(words, str | bytes) else words[0])))

    sys.addaudithook(note)


def pytest_sessionfinish(session: Any) -> None:
    loaded = {
        line.split(maxsplit=5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line
    }
    with open(os.environ["FLOWKIT_SYSTEM_LIBRARIES"], "a") as file:
        file.writelines(f"library {path}\n" for path in loaded)
        file.writelines(f"command {path}\n" for path in _started)


def main(recorded: Path) -> int:
    """Print what `recorded` holds, by kind. Returns the exit status."""
    own = tuple({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1] / "lib" / "python")})
    seen = {tuple(line.rstrip("\n").split(" ", 1)) for line in recorded.read_text().splitlines()}
    unexpected = []
    print("System libraries and commands that the tests used (those of the environment are left out):")
    for kind, path in sorted(seen):
        name = Path(path).name
        if kind == "library":
            if path.startswith(own) or name.startswith("libpython") or not path.startswith(("/lib", "/usr")):
                continue
            stem = re.sub(r"-\d+\.\d+$", "", name.split(".so")[0])
            known = stem in (*OF_THE_SYSTEM, *OF_PYTHON, *OPTIONAL)
            print(f"  {stem}: {_package(path)}{'' if known else '  <- not expected'}")
        else:
            if (
                path.startswith((*own, "/tmp"))
                or name.startswith("python")
                or shutil.which(name, path=f"{sys.prefix}/bin")
            ):
                continue
            known = name in COMMANDS
            print(f"  {name}: {COMMANDS.get(name, 'a command')}{'' if known else '  <- not expected'}")
        if not known:
            unexpected.append(name)
    if unexpected:
        print(f"The tests lean on {', '.join(unexpected)}, which pip does not install.", file=sys.stderr)
    return 1 if unexpected else 0


def _package(path: str) -> str:
    """The Debian package that owns a file, where dpkg is there to ask."""
    if shutil.which("dpkg-query") is None:
        return "?"
    for name in (path, path.removeprefix("/usr")):
        found = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    return "no package"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
