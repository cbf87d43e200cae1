"""Required and optional packages: installed, recent enough and importable?"""

from __future__ import annotations

import netrc
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from flowkit.doctor.findings import Finding, State
from flowkit.doctor.probes import Probes

NEEDED = {"accelerate": "1.10", "timm": "1.0.20", "safetensors": "0.5"}  # as in the project's metadata
WANDB_HOSTS = ("api.wandb.ai", "wandb.ai")


def look_at_packages(probes: Probes) -> list[Finding]:
    vision = probes.result("torchvision")
    findings = [_needed(name, least, probes.result(name), vision) for name, least in NEEDED.items()]
    if "missing" not in vision:
        findings.append(_torchvision(vision))
    return [*findings, _wandb(), _sonar(probes)]


def _finding(name: str, found: str, state: State = "ok", fix: str = "") -> Finding:
    return Finding("packages", name, state, found, fix)


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is missing or its metadata is damaged."""
    try:
        return metadata.version(name)
    except Exception:  # PackageNotFoundError, or anything if the metadata is damaged
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Parse a version: "1.15.0.dev0+cpu" -> (1, 15, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _needed(name: str, least: str, probe: dict[str, Any], vision: dict[str, Any]) -> Finding:
    version = version_of(name)
    if "error" in probe:
        if f"No module named '{name}" in probe["error"]:
            return _finding(name, "not installed", "problem", f"pip install '{name}>={least}'")
        if "error" in vision:
            return _finding(
                name,
                f"{version or ''} cannot be imported".strip(),
                "problem",
                "it imports torchvision. Fix torchvision first",
            )
        why = " ".join(probe["error"].split())[:200]
        return _finding(name, why, "problem", f"reinstall it: pip install --force-reinstall --no-deps {name}")
    if version and numbers(version) < numbers(least):
        return _finding(name, version, "problem", f"flowkit needs {least} or newer: pip install '{name}>={least}'")
    return _finding(name, version or "unknown version")


def _torchvision(probe: dict[str, Any]) -> Finding:
    version, torch = version_of("torchvision") or "", numbers(version_of("torch") or "0")
    pair = (
        f"0.{torch[1] + 15}" if torch[:1] == (2,) and len(torch) > 1 else None
    )  # torch 2.9 goes with torchvision 0.24
    if "error" not in probe:
        return _finding("torchvision", version)
    why = " ".join(probe["error"].split())[:120]
    right = f", or install the version for this torch: pip install 'torchvision=={pair}.*'" if pair else ""
    fix = f"timm and accelerate import it if it is installed, but flowkit does not need it: pip uninstall torchvision{right}"
    return _finding("torchvision", f"{version} does not fit this torch ({why})".strip(), "problem", fix)


def _wandb() -> Finding:
    version = version_of("wandb")
    if version is None:
        return _finding("wandb", "not installed; only needed for track.wandb", "ok")
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled", "dryrun"):
        return _finding("wandb", f"{version} · WANDB_MODE {mode}")
    if os.environ.get("WANDB_API_KEY") or _in_netrc():
        return _finding("wandb", f"{version} · logged in")
    return _finding(
        "wandb",
        f"{version} · not logged in",
        "note",
        "before a run with track.wandb, run `wandb login` or set WANDB_MODE=offline",
    )


def _in_netrc() -> bool:
    """Return whether the file holds a login for wandb. Reads only the host names."""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            hosts = netrc.netrc(Path(path).expanduser()).hosts if path else {}
        except (OSError, netrc.NetrcParseError, ValueError, RuntimeError):
            continue
        if any(host in hosts for host in WANDB_HOSTS):
            return True
    return False


def _sonar(probes: Probes) -> Finding:
    from flowkit.text.sonar_packages import why_not_importable

    versions = {name: version for name in ("sonar-space", "fairseq2", "fairseq2n") if (version := version_of(name))}
    found = " · ".join(f"{name} {version}" for name, version in versions.items())
    try:
        reason = why_not_importable()
    except Exception as error:  # metadata that is damaged
        reason = f"cannot tell what is installed ({error})"
    if not versions:
        return _finding("SONAR", "not installed; only needed for sentences: pip install 'flowkit[sonar]'")
    if reason is not None:
        why, _, fix = reason.rpartition(": ")
        return _finding("SONAR", f"{found} · {why or reason}", "problem", fix)
    answer = probes.result("sonar")
    if "error" in answer:
        why = " ".join(answer["error"].removeprefix("UserError: ").split())[:300]
        return _finding(
            "SONAR", f"{found} · {why}", "problem", "reinstall it: pip install --force-reinstall 'flowkit[sonar]'"
        )
    return _finding("SONAR", f"{found} · compatible with this torch")
