"""Check this machine: what it has, what would fail, and how to fix it. Torch-free: packages are imported elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowkit.doctor.findings import Finding
from flowkit.doctor.launching import look_at_launching
from flowkit.doctor.machine import look_at_machine
from flowkit.doctor.packages import look_at_packages
from flowkit.doctor.probes import Probes
from flowkit.doctor.self_test import look_at_two_processes
from flowkit.doctor.torch_build import gpu_count, look_at_torch

__all__ = ["Finding", "Report", "examine"]


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        return sum(finding.state == "problem" for finding in self.findings)

    @property
    def notes(self) -> int:
        return sum(finding.state == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": "doctor", "problems": self.problems, "notes": self.notes,
            "findings": [asdict(finding) for finding in self.findings],
        }  # fmt: skip


def examine(runs: Path, *, self_test: bool = False) -> Report:
    """Check this machine. Never raises for what is missing or broken.

    runs: folder for runs. self_test: also train on two processes, and compare with one.
    """
    probes = Probes()  # each takes seconds, so they run in parallel with the rest
    machine = look_at_machine(runs)
    torch = probes.result("torch")
    gpus = gpu_count(torch)
    findings = [*machine, *look_at_torch(torch), *look_at_packages(probes), *look_at_launching(gpus)]
    if self_test:
        findings.append(look_at_two_processes(gpus))
    return Report(tuple(findings))
