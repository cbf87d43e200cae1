"""`flowkit doctor`: broken packages, the launcher's configuration, and the self-test."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.doctor import Report, launching, machine, packages, probes, self_test, torch_build
from flowkit.doctor.findings import Finding
from flowkit.ui.doctor_view import show

TORCH = {"version": "2.9.1+cu128", "cuda": "12.8", "available": False, "said": [], "devices": [], "threads": 2, "gloo": True,
         "nccl": True, "mps": False}  # fmt: skip
GPU = {"name": "NVIDIA H100", "memory": 85_000_000_000, "capability": [9, 0], "bf16": True, "error": ""}


def stub(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


class Answers(probes.Probes):
    """What the imports found, without importing."""

    def __init__(self, **found: dict) -> None:
        self.found = found

    def result(self, name: str) -> dict:
        return self.found.get(name, {})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# ---- packages ----


def test_broken_torchvision_is_named_as_the_cause():
    nms = {"error": "RuntimeError: operator torchvision::nms does not exist"}
    found = by_name(
        packages.look_at_packages(Answers(torchvision=nms, timm=nms, accelerate=nms, sonar={"missing": True}))
    )
    assert found["torchvision"].state == "problem" and "pip uninstall torchvision" in found["torchvision"].fix
    assert "torchvision::nms" in found["torchvision"].found
    assert [found[name].fix for name in ("timm", "accelerate")] == ["it imports torchvision. Fix torchvision first"] * 2
    assert found["safetensors"].state == "ok"


def test_missing_or_outdated_packages(monkeypatch):
    versions = {"torch": "2.9.1", "accelerate": "0.30.1", "safetensors": "0.5.0", "wandb": None}
    monkeypatch.setattr(packages, "version_of", versions.get)
    missing = {"error": "ModuleNotFoundError: No module named 'timm'"}
    found = by_name(
        packages.look_at_packages(Answers(timm=missing, torchvision={"missing": True}, sonar={"missing": True}))
    )
    assert found["timm"].found == "not installed" and found["timm"].fix == "pip install 'timm>=1.0.20'"
    assert found["accelerate"].state == "problem" and found["safetensors"].state == "ok"
    assert "torchvision" not in found and found["wandb"].state == "ok" and found["SONAR"].state == "ok"


def test_a_fairseq2n_for_another_torch(monkeypatch):
    monkeypatch.setattr(packages, "version_of", lambda name: "1.2.3")
    reason = "fairseq2n 0.8.1 is built for torch 2.9.1 and does not run with torch 2.7.0: pip install torch==2.9.1"
    monkeypatch.setattr("flowkit.text.sonar_packages.why_not_importable", lambda: reason)
    found = by_name(packages.look_at_packages(Answers(torchvision={"missing": True})))["SONAR"]
    assert (
        found.state == "problem" and "built for torch 2.9.1" in found.found and found.fix == "pip install torch==2.9.1"
    )


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os; os._exit(3)", "status 3"),
        ("import sys; sys.exit()", "SystemExit"),
        ("print('{\"error\": 1}'); import sys; sys.stdout.write('x' * 200_000)", ""),
        ("import time; time.sleep(60)", "more than"),
    ],
)
def test_crashing_imports_are_reported(tmp_path, monkeypatch, code, told):
    stub(tmp_path, "torchvision", code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(probes, "SECONDS", 2.0 if told == "more than" else 60.0)
    found = probes._start("torchvision", probes.CODE["torchvision"]).result()
    assert told in found["error"] if told else found == {}


def test_the_command_with_everything_broken(tmp_path):
    """The packages are stubs that raise; the command still tells of each, and its status is 1."""
    for name in ("torch", "torchvision", "timm", "accelerate", "safetensors", "sonar", "fairseq2n"):
        stub(tmp_path, name, f"raise ImportError('libbroken.so: cannot open {name}')")
    done = subprocess.run(
        [sys.executable, "-m", "flowkit", "doctor", "--json"], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])},
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout)
    broken = {one["name"]: one for one in report["findings"] if one["state"] == "problem"}
    assert {"torch", "torchvision", "timm", "accelerate", "safetensors"} <= broken.keys()
    assert "libbroken.so" in broken["torch"]["found"] and all(one["fix"] for one in broken.values())
    assert report["problems"] == len(broken)


# ---- torch and its devices ----


@pytest.mark.parametrize(
    ("torch", "nvidia", "name", "state", "says"),
    [
        ({"version": "2.6.0+cpu", "cuda": None}, ("", 0), "torch", "problem", "torch>=2.7"),
        ({"version": "2.10.0"}, ("", 0), "torch", "ok", ""),
        ({}, ("", 0), "device", "ok", ""),
        ({"cuda": None}, ("550.54", 2), "device", "problem", "built without CUDA"),
        ({"cuda": None}, ("", 1), "device", "problem", "built without CUDA"),
        ({"said": ["The NVIDIA driver on your system is too old (11040)."]}, ("470.1", 1), "device", "problem", "update it"),
        ({"said": ["something else"]}, ("550.54", 1), "device", "problem", "CUDA_VISIBLE_DEVICES"),
        ({"devices": [GPU]}, ("550.54", 1), "cuda:0", "ok", ""),
        ({"devices": [{**GPU, "bf16": False, "capability": [7, 5]}]}, ("550.54", 1), "cuda:0", "note", "fp16"),
        ({"devices": [{**GPU, "error": "no kernel image"}]}, ("550.54", 1), "cuda:0", "problem", "not built for it"),
        ({"gloo": False}, ("", 0), "gloo", "problem", "several processes"),
    ],
)  # fmt: skip
def test_torch(monkeypatch, torch, nvidia, name, state, says):
    monkeypatch.setattr(torch_build, "nvidia", lambda: nvidia)
    found = by_name(torch_build.look_at_torch({**TORCH, **torch}))[name]
    assert found.state == state and says in found.fix
    assert bool(found.fix) == (state != "ok")


def test_torch_is_missing():
    (found,) = torch_build.look_at_torch({"error": "ModuleNotFoundError: No module named 'torch'"})
    assert found.state == "problem" and found.fix == "pip install torch"


def test_only_devices_that_work_are_counted():
    assert (
        torch_build.gpu_count({"devices": [GPU, {**GPU, "error": "x"}]}) == 1
        and torch_build.gpu_count({"error": ""}) == 0
    )


# ---- launching ----


@pytest.mark.parametrize(
    ("config", "gpus", "state", "says"),
    [
        ({"distributed_type": "NO", "num_processes": 1}, 0, "ok", ""),
        ({"distributed_type": "MULTI_GPU", "num_processes": 2, "use_cpu": True}, 0, "ok", ""),
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, 8, "ok", ""),
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, 2, "problem", "only 2 working GPUs"),
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, 0, "problem", "no GPU works"),
        ({"distributed_type": "DEEPSPEED", "num_processes": 2}, 2, "problem", "does not support DEEPSPEED"),
        ({"distributed_type": "FSDP", "num_processes": 2}, 2, "problem", "fsdp.yaml"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}, "num_processes": 2}, 2, "ok", ""),
        ({"distributed_type": "MULTI_GPU", "num_processes": "many"}, 2, "problem", "not a whole number"),
        ({"distributed_type": "NO", "mixed_precision": "fp16"}, 1, "note", "is ignored"),
        ({"distributed_type": "NO", "dynamo_config": {"dynamo_backend": "INDUCTOR"}}, 1, "note", "train.compile"),
        ({"distributed_type": "NO", "use_cpu": True}, 1, "note", "there is a GPU"),
        ({"distributed_type": "MULTI_GPU", "num_machines": 4, "num_processes": 16}, 2, "note", "waits for 4 machines"),
        ([], 0, "problem", "cannot be read"),
    ],
)
def test_the_launchers_default_configuration(tmp_path, monkeypatch, config, gpus, state, says):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "accelerate").mkdir()
    path = tmp_path / "accelerate" / "default_config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    found = by_name(launching.look_at_launching(gpus))["accelerate"]
    assert found.state == state and says in found.found and str(path) in found.found
    assert bool(found.fix) == (state != "ok")


def test_without_a_default_configuration_or_with_a_broken_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert "starts one process" in by_name(launching.look_at_launching(0))["accelerate"].found
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("a: [")
    assert by_name(launching.look_at_launching(0))["accelerate"].state == "problem"


def test_unresolvable_host_name(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "nowhere.invalid")
    found = by_name(launching.look_at_launching(0))["host name"]
    assert found.state == "note" and "GLOO_SOCKET_IFNAME" in found.fix


# ---- the machine ----


def test_limits_of_a_container(monkeypatch):
    told = {"memory.max": ["max", "1500000000"], "cpu.max": ["max 100000", "150000 100000"]}
    monkeypatch.setattr(machine, "_cgroup_values", lambda second, first: told[second])
    found = by_name(machine.look_at_machine(Path("runs")))
    assert "the container may use 1.5 GB" in found["memory"].found and found["memory"].state == "note"
    assert machine._cpu_share() == 1.5


def test_unusable_runs_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert by_name(machine.look_at_machine(tmp_path / "file"))["runs folder"].state == "problem"
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 5e8, "total": 1e12})())
    found = by_name(machine.look_at_machine(tmp_path / "runs" / "deeper"))["runs folder"]
    assert found.state == "problem" and "keep_last" in found.fix


# ---- the self-test ----


def test_two_processes_agree_with_one_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "7")  # of a launcher that has nothing to do with it
    found = self_test.look_at_two_processes(0)
    assert found.state == "ok" and "gloo" in found.found, found
    assert not list(tmp_path.iterdir())


def test_failing_self_test_shows_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho begins\necho 'ImportError: libbroken.so' >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    found = self_test.look_at_two_processes(0)
    assert found.state == "problem" and "status 3: ImportError: libbroken.so" in found.found and found.fix
    python.write_text("#!/bin/sh\nsleep 60\n")
    monkeypatch.setattr(self_test, "SECONDS", 0.2)
    assert "not done after" in self_test.look_at_two_processes(0).found
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_weights_that_differ_are_a_problem(monkeypatch):
    a, b = {"w": np.ones(4, np.float32)}, {"w": np.ones(4, np.float32) * 1.01}
    assert self_test.distance(a, a) == 0 and self_test.distance(b, a) == pytest.approx(0.01, rel=1e-3)
    assert self_test.distance(a, {"v": a["w"]}) == self_test.distance(a, {"w": np.ones(3)}) == np.inf
    monkeypatch.setattr(self_test, "_train", lambda *_, **__: None)
    monkeypatch.setattr(self_test, "_weights", lambda folder, name: {"one": a, "two": b}[name])
    assert self_test.look_at_two_processes(2).state == "problem"


# ---- what is shown ----

REPORT = Report(
    (
        Finding("torch", "torch", "ok", "2.9.1 · CUDA 12.8 build"),
        Finding("torch", "device", "problem", "1 NVIDIA device, and torch sees none", "update the driver " * 12),
        Finding("packages", "wandb", "note", "not logged in [bold]", "wandb login"),
    )
)


@pytest.mark.parametrize("width", [80, 120])
def test_the_view(width):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show(REPORT, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    assert lines[1].split() == ["ok", "torch", "2.9.1", "·", "CUDA", "12.8", "build"]
    assert any(line.strip().startswith("→ update the driver") for line in lines)
    assert "not logged in [bold]" in "\n".join(lines) and lines[-1].startswith("1 problem") and "1 note" in lines[-1]


def test_the_status(monkeypatch):
    monkeypatch.setattr("flowkit.doctor.examine", lambda runs, self_test: REPORT)
    answer = CliRunner().invoke(app, ["doctor", "--json"])
    assert answer.exit_code == 1 and json.loads(answer.stdout)["problems"] == 1
    well = Report(REPORT.findings[::2])
    monkeypatch.setattr("flowkit.doctor.examine", lambda runs, self_test: well)
    answer = CliRunner().invoke(app, ["doctor"])
    assert answer.exit_code == 0 and "flowkit can run here" in answer.stdout


def test_it_imports_no_torch():
    code = "import sys, flowkit.doctor, flowkit.doctor.self_test, flowkit.doctor.launching, flowkit.doctor.packages, "
    code += "flowkit.ui.doctor_view, flowkit.cli; assert not {'torch', 'numpy', 'accelerate'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
