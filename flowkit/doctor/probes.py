"""Import packages in separate processes: a broken one may raise anything, hang, or crash."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import flowkit

SECONDS = 120.0  # timeout of an import, on a cold disk
_END = "\x1e"  # marks the answer on the last line, since packages may print while they are imported

_TORCH = """
import warnings
import torch
said = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        available = torch.cuda.is_available()
    except Exception as error:
        available, said = False, [str(error)]
    said += [str(one.message) for one in caught]
devices = []
if available:
    for i in range(torch.cuda.device_count()):
        try:
            about = torch.cuda.get_device_properties(i)
            with torch.cuda.device(i):
                bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            works = float(torch.ones(2, device=f"cuda:{i}").sum()) == 2.0
            devices.append({"name": about.name, "memory": about.total_memory, "capability": [about.major, about.minor],
                            "bf16": bf16, "error": "" if works else "1 + 1 is not 2 on it"})
        except Exception as error:
            devices.append({"name": f"cuda:{i}", "memory": 0, "capability": [0, 0], "bf16": False, "error": str(error)})
answer.update(
    version=torch.__version__, cuda=torch.version.cuda, available=available, said=said, devices=devices,
    threads=torch.get_num_threads(), gloo=torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    nccl=torch.distributed.is_available() and torch.distributed.is_nccl_available(),
    mps=bool(getattr(torch.backends, "mps", None)) and torch.backends.mps.is_available(),
)
"""
CODE = {
    "torch": _TORCH,
    "torchvision": "import torchvision",
    "timm": "import timm",
    "accelerate": "import accelerate.commands.launch",
    "safetensors": "import safetensors.torch",
    "sonar": "from flowkit.text.sonar_packages import import_sonar; import_sonar()",
}
_OPTIONAL = ("torchvision", "sonar")  # skipped if they are not installed
_AROUND = """
import json, sys
answer = {}
try:
    exec(compile(sys.argv[1], "probe", "exec"), {"answer": answer})
except BaseException as error:
    answer = {"error": f"{type(error).__name__}: {error}"}
sys.stdout.write("\\n\\x1e" + json.dumps(answer) + "\\n")
"""


@dataclass
class Probe:
    """A running import."""

    name: str
    process: subprocess.Popen[str] | None  # None: not installed
    output: IO[str] | None = None
    _answer: dict[str, Any] | None = field(default=None, repr=False)

    def result(self) -> dict[str, Any]:
        """Wait for the result: {"error": why} if the import failed, {"missing": True} if it is not installed."""
        if self._answer is None:
            self._answer = self._wait()
        return self._answer

    def _wait(self) -> dict[str, Any]:
        if self.process is None or self.output is None:
            return {"missing": True}
        try:
            status = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return {"error": f"importing it took more than {SECONDS:.0f} seconds"}
        self.output.seek(0)
        text = self.output.read()
        self.output.close()
        _, found, answer = text.rpartition(_END)
        if found:
            return json.loads(answer)
        if status < 0:
            return {"error": f"importing it crashed with {signal.Signals(-status).name}"}
        return {"error": f"importing it ended the process with status {status}"}


class Probes:
    """Import all packages in one process, which is fast. If that fails, import each alone, to find the broken one."""

    def __init__(self) -> None:
        whole = [code for name, code in CODE.items() if name != "sonar" and not _absent(name)]
        self._together = _start("together", "\n".join(whole))
        self._own = {"sonar": _start("sonar", CODE["sonar"])}

    def result(self, name: str) -> dict[str, Any]:
        """Return the same as `Probe.result` for a package."""
        if name == "sonar" or "error" in self._together.result():
            if len(self._own) == 1 and name != "sonar":
                self._own |= {name: _start(name, code) for name, code in CODE.items() if name != "sonar"}
            return self._own[name].result()
        return {"missing": True} if _absent(name) else self._together.result()


def environment() -> dict[str, str]:
    """Return this process's environment, changed so that another process imports the same flowkit."""
    here = str(Path(flowkit.__file__).resolve().parent.parent)
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # flowkit's folder goes last: it may be site-packages, and the user's own paths must still come before it.
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths[1:], here])}


def _start(name: str, code: str) -> Probe:
    if _absent(name):
        return Probe(name, None)
    # A file, since a pipe that is not read fills up and blocks the process.
    output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-c", _AROUND, code], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL,
        text=True, env={**environment(), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return Probe(name, process, output)


def _absent(name: str) -> bool:
    """Return whether it is an optional package that is not installed."""
    try:
        return name in _OPTIONAL and importlib.util.find_spec(name) is None
    except (ImportError, ValueError):
        return False  # installed, but broken
