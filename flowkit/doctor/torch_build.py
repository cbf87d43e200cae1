"""Torch: its build, and the devices that it finds or should find."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from flowkit.doctor.findings import Finding, State

OLDEST = (2, 7)
GB = 1_000_000_000


def gpu_count(torch: dict[str, Any]) -> int:
    """Return the number of working CUDA devices."""
    return sum(not device["error"] for device in torch.get("devices", ()))


def look_at_torch(torch: dict[str, Any]) -> list[Finding]:
    """torch: the result of its probe."""
    if "error" in torch:
        absent = "No module named 'torch'" in torch["error"]
        fix = "pip install torch" if absent else "reinstall it: pip install --force-reinstall torch"
        return [_finding("torch", "not installed" if absent else torch["error"], "problem", fix)]
    cuda = torch["cuda"]
    findings = [_version(torch["version"], f"CUDA {cuda} build" if cuda else "CPU build")]
    driver, seen = nvidia()
    if driver or seen:
        devices = f"{seen} device{'s' if seen != 1 else ''}"
        findings.append(_finding("driver", f"NVIDIA {driver or 'of unknown version'} · {devices}"))
    if torch["devices"]:
        findings += [_device(number, device) for number, device in enumerate(torch["devices"])]
    elif seen or driver:
        findings.append(_unseen(torch, seen))
    elif torch["mps"]:
        findings.append(_finding("device", "CPU; the Apple GPU is only used for sampling, since it has no float64"))
    else:
        threads = torch["threads"]
        findings.append(_finding("device", f"CPU, {threads} thread{'s' if threads != 1 else ''}; no GPU"))
    if not torch["gloo"]:
        findings.append(
            _finding(
                "gloo",
                "not in this build",
                "problem",
                "required for several processes on CPUs: install torch from PyPI",
            )
        )
    return findings


def _finding(name: str, found: str, state: State = "ok", fix: str = "") -> Finding:
    return Finding("torch", name, state, found, fix)


def _version(version: str, build: str) -> Finding:
    found = f"{version} · {build}"
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return _finding(
            "torch", found, "problem", f"flowkit needs torch {wanted} or newer: pip install 'torch>={wanted}'"
        )
    return _finding("torch", found)


def _device(number: int, device: dict[str, Any]) -> Finding:
    name = f"cuda:{number}"
    if device["error"]:
        fix = "found, but not usable: another process may hold it, or this torch was not built for it (see nvidia-smi)"
        return _finding(name, f"{device['name']}: {_first_line(device['error'])}", "problem", fix)
    major, minor = device["capability"]
    found = f"{device['name']} · {device['memory'] / GB:.0f} GB · compute capability {major}.{minor}"
    if not device["bf16"]:
        return _finding(
            name,
            f"{found} · no bf16",
            "note",
            'bf16 is emulated on this GPU, and slow: train.precision = "fp16" or "fp32"',
        )
    return _finding(name, f"{found} · bf16")


def _unseen(torch: dict[str, Any], seen: int) -> Finding:
    """Explain why torch does not find an NVIDIA device."""
    what = f"{seen} NVIDIA device{'s' if seen != 1 else ''}, but torch finds none"
    said = " ".join(torch["said"])
    if torch["cuda"] is None:
        fix = "this torch is built without CUDA: pip uninstall torch, then install the CUDA build from pytorch.org"
        return _finding("device", what, "problem", fix)
    if "driver" in said and "too old" in said:
        fix = f"the driver is too old for CUDA {torch['cuda']}: update it, or install a torch for an older CUDA"
        return _finding("device", what, "problem", fix)
    reason = f": {_first_line(said)}" if said else ""
    fix = "check that CUDA_VISIBLE_DEVICES is not empty, that the container has GPUs (docker run --gpus all), and nvidia-smi"
    return _finding("device", what + reason, "problem", fix)


def _first_line(text: str) -> str:
    line = next(iter(text.splitlines()), "")
    return line if len(line) <= 160 else line[:160] + " ..."


def nvidia() -> tuple[str, int]:
    """Return the driver's version (or "") and its number of devices."""
    devices = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdecimal()])
    if shutil.which("nvidia-smi") is None:
        return "", devices
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "", devices
    lines = done.stdout.split()
    return (lines[0], len(lines)) if lines else ("", devices)
