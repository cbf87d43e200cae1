"""Processor, memory, disks and limits, as the system and the container report them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from pathlib import Path

from flowkit.doctor.findings import Finding

GB = 1_000_000_000
PYTHON = (3, 11)
SMALL_DISK, NO_DISK = 10 * GB, 1 * GB
SMALL_SHM = 256_000_000
FEW_FILES = 1024
UNLIMITED = 1 << 60  # cgroups v1 report this or more for unlimited memory


def look_at_machine(runs: Path) -> list[Finding]:
    return [_python(), _processor(), _memory(), *_shared_memory(), *_files(), _disk(runs)]


def _finding(name: str, found: str, state: str = "ok", fix: str = "") -> Finding:
    return Finding("machine", name, state, found, fix)  # type: ignore[arg-type]


def _python() -> Finding:
    found = f"{platform.python_version()} · {platform.system()} {platform.release()} · {platform.machine()}"
    if sys.version_info[:2] < PYTHON:
        return _finding("Python", found, "problem", f"flowkit needs Python {PYTHON[0]}.{PYTHON[1]} or newer")
    return _finding("Python", found)


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{cores} core{'s' if cores > 1 else ''}"
    share = _cpu_share()
    if share is not None and share < cores:
        found += f", the container may use {share:g}"
    threads = os.environ.get("OMP_NUM_THREADS")
    found += f" · OMP_NUM_THREADS {threads or 'not set'}"
    if threads and threads.isdecimal() and int(threads) > cores:
        return _finding(
            "processor", found, "note", f"more threads than cores slow each other down: OMP_NUM_THREADS={cores}"
        )
    return _finding("processor", found)


def _memory() -> Finding:
    total, available = _meminfo()
    if total is None:
        return _finding("memory", "unknown")
    found = f"{total / GB:.0f} GB" + (f", {available / GB:.0f} GB free" if available is not None else "")
    limit = _memory_limit()
    if limit is not None and limit < total:
        found += f" · the container may use {limit / GB:.1f} GB"
    smallest = min(total, limit or total)
    if smallest < 2 * GB:
        return _finding("memory", found, "note", "torch alone needs 1 GB. Give the container more, or use small models")
    return _finding("memory", found)


def _shared_memory() -> list[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return []
    size = shutil.disk_usage(folder).total
    found = f"{size / GB:.1f} GB" if size >= GB else f"{size / 1e6:.0f} MB"
    if size < SMALL_SHM:
        fix = "too small for several processes. For a container: docker run --shm-size=1g, or --ipc=host"
        return [_finding("shared memory", found, "note", fix)]
    return [_finding("shared memory", found)]


def _files() -> list[Finding]:
    try:
        import resource
    except ImportError:
        return []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} at a time"
    if 0 <= soft < FEW_FILES:
        wanted = min(hard, 4096) if hard > 0 else 4096
        return [_finding("open files", most, "note", f"too few for several processes: ulimit -n {wanted}")]
    return [_finding("open files", most)]


def _disk(runs: Path) -> Finding:
    place = next(place for place in (runs.absolute(), *runs.absolute().parents) if place.exists())
    name = "runs folder"
    if not place.is_dir():
        return _finding(name, f"{runs} is a file", "problem", "name another folder: run.dir in the recipe")
    if not os.access(place, os.W_OK | os.X_OK):
        fix = "use another folder: run.dir in the recipe, or --set run.dir=/some/folder"
        return _finding(name, f"{runs} cannot be written to", "problem", fix)
    free = shutil.disk_usage(place).free
    found = f"{runs} · {free / GB:,.0f} GB free" if free >= 10 * GB else f"{runs} · {free / GB:.1f} GB free"
    fix = "free some space, keep fewer checkpoints (train.keep_last), or use another folder (run.dir)"
    return _finding(name, found, "problem" if free < NO_DISK else "note" if free < SMALL_DISK else "ok",
                    fix if free < SMALL_DISK else "")  # fmt: skip


def _meminfo() -> tuple[int | None, int | None]:
    """Return (total bytes, available bytes)."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
    if not found:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    return found.get("MemTotal"), found.get("MemAvailable")


def _cgroup_values(second: str, first: str) -> list[str]:
    """Return the values of a setting in all control groups of this process. Names of it in cgroups v2 and v1."""
    places = [Path("/sys/fs/cgroup") / second, Path("/sys/fs/cgroup") / first]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            inside = Path("/sys/fs/cgroup") / line.rpartition(":")[2].lstrip("/")
            places += [
                folder / second for folder in (inside, *inside.parents) if folder.is_relative_to("/sys/fs/cgroup")
            ]
    values = []
    for place in dict.fromkeys(places):
        with contextlib.suppress(OSError):
            values.append(place.read_text().strip())
    return values


def _memory_limit() -> int | None:
    """Return the memory limit of the container in bytes, or None without one."""
    limits = [int(value) for value in _cgroup_values("memory.max", "memory/memory.limit_in_bytes") if value.isdecimal()]
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def _cpu_share() -> float | None:
    """Return the limit of the container in cores, or None without one."""
    shares = []
    for value in _cgroup_values("cpu.max", "cpu/cpu.cfs_quota_us"):
        quota, _, period = value.partition(" ")
        if quota.isdecimal() and int(quota) > 0:
            shares.append(int(quota) / int(period or 100_000))
    return min(shares, default=None)
