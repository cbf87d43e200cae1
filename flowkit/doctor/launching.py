"""What `accelerate launch` does without options, and whether several processes can reach each other."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from flowkit.doctor.findings import Finding, State

PLAIN = ("NO", "MULTI_GPU", "MULTI_CPU")
OWN = "accelerate_configs/"
ENVIRONMENT = (
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
)


def look_at_launching(gpus: int) -> list[Finding]:
    """Check the configuration of accelerate, environment variables and the host name. gpus: number of working GPUs."""
    return [_configuration(gpus), *_variables(), _host_name()]


def _finding(name: str, found: str, state: State = "ok", fix: str = "") -> Finding:
    return Finding("launching", name, state, found, fix)


def default_config() -> Path | None:
    """Return the file that `accelerate launch` reads by default; None if there is none."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser() / "accelerate"
    files = (folder / "default_config.yaml", folder / "default_config.yml", folder / "default_config.json")
    return next((path for path in files if path.is_file()), None)


def _configuration(gpus: int) -> Finding:
    path = default_config()
    if path is None:
        does = f"uses the {gpus} GPUs" if gpus > 1 else "starts one process"
        return _finding("accelerate", f"no default configuration: `accelerate launch` {does}")
    rename = f"fix or remove {path}, or use one of flowkit's: --config_file {OWN}..."
    try:
        config = _read(path)
    except Exception as error:  # errors of YAML, or of reading a file that is not YAML
        return _finding(
            "accelerate", f"{path}: cannot be read ({' '.join(str(error).split())[:120]})", "problem", rename
        )
    kind, processes = str(config.get("distributed_type", "NO")), config.get("num_processes", 1)
    found = f"{path} · {kind}, {processes} process{'es' if processes != 1 else ''}"
    problem = _contradiction(config, kind, processes, gpus)
    if problem:
        return _finding("accelerate", f"{found}: {problem}", "problem", rename)
    if note := _remark(config, gpus):
        return _finding("accelerate", f"{found}: {note}", "note", rename)
    return _finding("accelerate", found)


def _contradiction(config: dict[str, Any], kind: str, processes: Any, gpus: int) -> str:
    """Return what would fail; "" if nothing would."""
    if kind == "FSDP" and (config.get("fsdp_config") or {}).get("fsdp_version") != 2:
        return f"flowkit requires FSDP2, and this selects FSDP1; use {OWN}fsdp.yaml"
    if kind not in (*PLAIN, "FSDP"):
        return f"flowkit does not support {kind}; it supports data parallelism and FSDP2"
    if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
        return "num_processes is not a whole number >= 1"
    machines = config.get("num_machines", 1)
    if machines == 1 and kind in ("MULTI_GPU", "FSDP") and not config.get("use_cpu") and 0 < gpus < processes:
        return f"this machine has only {gpus} working GPU{'s' if gpus != 1 else ''}"
    if machines == 1 and kind in ("MULTI_GPU", "FSDP") and not config.get("use_cpu") and not gpus:
        return "no GPU works on this machine"
    return ""


def _remark(config: dict[str, Any], gpus: int) -> str:
    if config.get("use_cpu") and gpus:
        return "selects the CPU, although there is a GPU"
    if config.get("num_machines", 1) != 1:
        return f"waits for {config['num_machines']} machines"
    if str(config.get("mixed_precision", "no")) not in ("no", "False"):
        return f"mixed_precision {config['mixed_precision']} is ignored; set train.precision in the recipe"
    dynamo = config.get("dynamo_config") or {}
    if isinstance(dynamo, dict) and str(dynamo.get("dynamo_backend", "NO")).upper() != "NO":
        return "the dynamo backend is ignored; set train.compile in the recipe"
    return ""


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        content = json.loads(text)
    else:
        import yaml

        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise ValueError("not a table of settings")
    return content


def _variables() -> list[Finding]:
    given = [
        f"{name}={os.environ[name]}"
        for name in ENVIRONMENT
        if os.environ.get(name, "no").lower() not in ("no", "false")
    ]
    if not given:
        return []
    names = " ".join(one.split("=")[0] for one in given)
    fix = f"ignored: the recipe sets precision, compilation and sharding. Remove them: unset {names}"
    return [_finding("environment", ", ".join(given), "note", fix)]


def _host_name() -> Finding:
    """Check that the host name resolves to an address of this machine: Gloo listens on that address."""
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as listening:
            listening.bind((address[4][0], 0))
    except OSError as error:
        fix = f"processes cannot reach each other: add {name} to /etc/hosts, or set GLOO_SOCKET_IFNAME=eth0"
        return _finding("host name", f"{name} · cannot listen on its address ({error.strerror or error})", "note", fix)
    return _finding("host name", f"{name} · {address[4][0]}")
