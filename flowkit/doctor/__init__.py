"""What this machine has, what would fail on it, and how to mend that. Torch-free: packages are tried in other processes."""

from flowkit.doctor.report import Finding, Report, examine

__all__ = ["Finding", "Report", "examine"]
