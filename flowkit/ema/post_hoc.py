"""Reconstruct an average of any width after the run, from snapshots of a few (EDM2, arXiv 2312.02696): `flowkit ema`."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.checkpoint import SNAPSHOT, checkpoint_step, find_checkpoint, list_snapshots, read_model_json
from flowkit.data.files import read_json, replacing, tensor_file_errors, write_json
from flowkit.data.tensors import load_tensors, save_file
from flowkit.ema.power import WIDEST, Profile, power_gamma, solve
from flowkit.errors import UserError, listing

MAX_ERROR = 0.1  # relative to the wanted profile; beyond this the result is a different average


@dataclass(frozen=True)
class Reconstruction:
    path: Path
    sigma_rel: float
    step: int
    snapshots: int  # number of files used
    error: float  # of the profile, relative to its norm


def reconstruct_ema(
    run: Path | str, sigma_rel: float, *, step: int | None = None, out: Path | str | None = None
) -> Reconstruction:
    """Write the average of width `sigma_rel` at `step` (default: the last snapshot's) as a weight file with its sidecar.

    run: directory of a run trained with `ema.power`. out: a .safetensors file, by default
    `ema/sigma-rel-0.13-step-00005000.safetensors` in the run. --ckpt accepts that file everywhere.
    Raises UserError for missing or corrupt snapshots, or a width that they cannot reconstruct.
    """
    run_dir = Path(run)
    power_gamma(sigma_rel)  # report an invalid width first
    sources, step = _sources(run_dir, step)
    profiles = list(sources)
    coefficients, error = solve(profiles, Profile(sigma_rel, step))
    if error > MAX_ERROR:
        widths = sorted({profile.sigma_rel for profile in profiles})
        raise UserError(
            f"sigma_rel: {sigma_rel:g} at step {step} cannot be reconstructed from the {len(profiles)} snapshots up to there, of "
            f"widths {listing(f'{width:g}' for width in widths)}: the closest combination is off by {error:.0%}. Choose a closer "
            "width, or train with more widths in ema.power or a shorter ema.snapshot_every"
        )
    out = run_dir / "ema" / f"sigma-rel-{sigma_rel:g}-step-{step:08d}.safetensors" if out is None else Path(out)
    if out.suffix != ".safetensors":
        raise UserError(
            f"{out}: expected a file name ending in .safetensors (its sidecar gets the same name with .json)"
        )
    tensors = _combined(sources, coefficients.tolist(), step)
    with replacing(out) as partial, tensor_file_errors():
        save_file(tensors, partial)
    _write_sidecar(run_dir, out, step, {
        "sigma_rel": sigma_rel, "post_hoc": True, "snapshots": len(profiles), "profile_error": error,
    })  # fmt: skip
    return Reconstruction(out, sigma_rel, step, len(profiles), error)


def _sources(run_dir: Path, step: int | None) -> tuple[dict[Profile, Path], int]:
    """Return the snapshot files up to `step` by their profiles, and the step."""
    directories = {checkpoint_step(path): path for path in list_snapshots(run_dir)}
    if not directories:
        raise UserError(
            f"{run_dir}: has no snapshots of averages; train with ema.power, such as [0.05, 0.1], to save them"
        )
    step = max(directories) if step is None else step
    if step not in directories:
        raise UserError(
            f"step: {run_dir} has no snapshot of step {step}; it has {listing(map(str, sorted(directories)))}"
        )
    found = {}
    for number, directory in sorted(directories.items()):
        if number <= step:
            for label in _listed(directory, "averages"):
                width = _width(label)
                if width is None:
                    raise UserError(
                        f"{directory / SNAPSHOT}: {label!r} is not the label of an average; remove the folder"
                    )
                found[Profile(width, number)] = directory / f"{label}.safetensors"
    if not any(profile.step == step for profile in found):
        raise UserError(f"{run_dir}: the snapshot of step {step} lists no averages; it is corrupt")
    return found, step


def _listed(directory: Path, what: str) -> list[str]:
    listed = read_json(directory / SNAPSHOT).get(what)
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise UserError(f"{directory / SNAPSHOT}: {what!r} is not a list of names; the file is corrupt")
    return listed


def _width(label: str) -> float | None:
    """Return 0.05 for "power-0.05"; None for anything else, which might be a path to another file."""
    found = re.fullmatch(r"power-(\d{1,3}(\.\d{1,20})?(e-\d{1,2})?)", label, re.ASCII)
    width = float(found[1]) if found else 0.0
    return width if 1e-4 < width <= WIDEST else None


def _combined(sources: dict[Profile, Path], coefficients: list[float], step: int) -> dict[str, Tensor]:
    """Return the sum of the files' parameters times the coefficients, summed in float64, as fp32. Buffers are those at `step`."""
    last = next(path for profile, path in sources.items() if profile.step == step)
    averaged, newest = set(_listed(last.parent, "averaged")), load_tensors(last)
    if odd := sorted(name for name in averaged if name not in newest or not newest[name].is_floating_point()):
        raise UserError(f"{last.parent / SNAPSHOT}: {listing(odd, 3)} cannot be averages; the file is corrupt")
    total = {
        name: torch.zeros_like(tensor, dtype=torch.float64) if name in averaged else tensor
        for name, tensor in newest.items()
    }
    for coefficient, path in zip(coefficients, sources.values(), strict=True):
        tensors = load_tensors(path)
        if {name: tensor.shape for name, tensor in tensors.items()} != {n: t.shape for n, t in total.items()}:
            raise UserError(f"{path}: has other tensors than {last}, so it belongs to another model; remove its folder")
        for name in averaged:
            total[name].add_(tensors[name], alpha=coefficient)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in total.items()}


def _write_sidecar(run_dir: Path, out: Path, step: int, ema: dict[str, Any]) -> None:
    """Write the sidecar of the run's checkpoint with the new step and average, and copy the normalizer's file."""
    files = find_checkpoint(run_dir)
    sidecar = {**read_model_json(files.sidecar), "step": step, "ema": ema, "validation": None}
    normalizer = sidecar["normalizer"]
    if "file" in normalizer:
        copy = out.with_name(f"{out.stem}-{normalizer['file']}")
        with replacing(copy) as partial:
            shutil.copyfile(files.sidecar.with_name(normalizer["file"]), partial)
        sidecar["normalizer"] = {**normalizer, "file": copy.name}
    sidecar.pop("format", None)
    write_json(out.with_suffix(".json"), sidecar)
