"""Impossible combinations: keys that are valid by themselves but contradict each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowkit.conditions import scale_words
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.recipe.recipe import Recipe


def contradictions(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (key, what is wrong and how to fix it) for every impossible combination."""
    parts = (_length, _batch, _divisions, _guidance, _flow, _averages, _mean_flow, _sampling, _coupling, _augment)
    found = [problem for part in parts for problem in part(recipe)]
    if recipe.run.device == "cpu" and recipe.train.precision == "fp16":
        found.append(("train.precision", '"fp16" requires a GPU, but run.device is "cpu"; use "bf16" or "fp32"'))
    return found


def check_batch(batch_size: int, micro_batch_size: int | None, num_processes: int) -> tuple[int, int]:
    """Return how an update's rows are split: (rows per process and accumulation step, accumulation steps).

    Raises UserError with the nearest valid sizes if `batch_size` is not a multiple of `num_processes`, or a process's share
    is not a multiple of `micro_batch_size`.
    """
    if batch_size % num_processes:
        raise UserError(
            f"train.batch_size: {batch_size} rows cannot be split evenly among {num_processes} processes; "
            f"the nearest sizes that can are {_multiples(batch_size, num_processes)}"
        )
    share = batch_size // num_processes
    micro = micro_batch_size or share
    if share % micro:
        of = f"a process's share of {share} rows ({batch_size} over {num_processes})" if num_processes > 1 else ""
        raise UserError(f"train.micro_batch_size: {_no_divisor(micro, share, of or f'a batch_size of {share}')}")
    return micro, share // micro


def _length(recipe: Recipe) -> list[tuple[str, str]]:
    train, warmup = recipe.train, recipe.optim.warmup
    if train.steps is None and train.epochs is None:
        return [("train.steps", "missing; set train.steps or train.epochs, the length of the run")]
    if train.steps is not None and train.epochs is not None:
        return [("train.steps", f"{train.steps}, but train.epochs = {train.epochs} is set too; remove one of them")]
    length = {"steps": train.steps, "epochs": train.epochs}.get(warmup.unit)
    if length is not None and warmup.count >= length:
        return [("optim.warmup", f"{warmup.plain()} is not shorter than the run (train.{warmup.unit} = {length}); "
                                 "use a fraction of the run, such as 0.05")]  # fmt: skip
    return []


def _batch(recipe: Recipe) -> list[tuple[str, str]]:
    batch, micro = recipe.train.batch_size, recipe.train.micro_batch_size
    if micro is None or batch % micro == 0:
        return []
    return [("train.micro_batch_size", _no_divisor(micro, batch, f"train.batch_size = {batch}"))]


def _coupling(recipe: Recipe) -> list[tuple[str, str]]:
    batch = recipe.train.batch_size
    block = recipe.flow.coupling.rows(batch)
    if block < batch and batch % block:
        return [("flow.coupling.block", _no_divisor(block, batch, f"train.batch_size = {batch}"))]
    if block > batch and block % batch:
        return [("flow.coupling.block", f"{block} is not a multiple of train.batch_size = {batch}; "
                                        f"the nearest are {_multiples(block, batch)}")]  # fmt: skip
    return []


def _augment(recipe: Recipe) -> list[tuple[str, str]]:
    coupling = recipe.flow.coupling
    if not recipe.data.augment or coupling.independent:
        return []
    return [("data.augment", f'cannot be used with flow.coupling = "{coupling.tag()}", which pairs noise with rows before they '
                             'are augmented; use "independent" or remove [data.augment]')]  # fmt: skip


def _divisions(recipe: Recipe) -> list[tuple[str, str]]:
    found = []
    for parts, number, total, size in recipe.model.undivided():
        article = "an" if total[0] in "aeiou" else "a"
        found.append((f"model.{parts}", f"{_no_divisor(number, size, f'model.{total} = {size}')}, or {article} {total} of "
                                        f"{_multiples(size, number, 'or')}"))  # fmt: skip
    return found


def _guidance(recipe: Recipe) -> list[tuple[str, str]]:
    scale = recipe.sample.guidance_scale
    if isinstance(scale, dict) and (recipe.sample.guidance.tag() != "cfg" or recipe.sample.solver.averages):
        return [("sample.guidance_scale", "a scale for each kind of condition needs plain guidance (cfg) of velocities; give one "
                                          "number")]  # fmt: skip
    if _drops_any(recipe) or scale == 1 or recipe.sample.guidance.another:
        return []
    return [("sample.guidance_scale", f"{scale_words(scale)} needs a model trained with dropped conditions, but flow.cond_drop "
                                      "is 0; set flow.cond_drop = 0.1 or sample.guidance_scale = 1.0")]  # fmt: skip


def _drops_any(recipe: Recipe) -> bool:
    """Return whether conditions are ever dropped, for any kind of data."""
    drop = recipe.flow.cond_drop
    return any(drop.values()) if isinstance(drop, dict) else drop > 0


def _sampling(recipe: Recipe) -> list[tuple[str, str]]:
    why = recipe.flow.why_not(recipe.sample.solver)
    return [("sample.solver", f'{why}; use an ODE solver such as "midpoint"')] if why else []


def _flow(recipe: Recipe) -> list[tuple[str, str]]:
    from flowkit.flow.objective import needs_gaussian

    flow = recipe.flow
    prediction = "velocity" if flow.prediction == "auto" else flow.prediction
    return needs_gaussian(flow.path, prediction, flow.loss.space, flow.loss.weights)


def _mean_flow(recipe: Recipe) -> list[tuple[str, str]]:
    flow, sample = recipe.flow, recipe.sample
    if not flow.objective.averages:
        return []
    found, objective = [], flow.objective.tag()
    for key, value, plain in (
        ("prediction", flow.prediction, "velocity"),
        ("loss.space", flow.loss.space, "velocity"),
        ("loss.error", flow.loss.error, "squared"),
        ("loss.weights", flow.loss.weights, "uniform"),
    ):
        name = value if isinstance(value, str) else value.tag()
        if name not in (plain, "auto"):
            found.append((f"flow.{key}", f'"{name}" cannot be used with flow.objective = "{objective}", '
                                         f'which has its own loss; use "{plain}"'))  # fmt: skip
    if flow.completes:
        found.append(("flow.given", f'cannot be used with flow.objective = "{objective}"; use "flow_matching"'))
    for name in recipe.aux_loss.used:
        found.append((f"aux_loss.{name}", f'needs predicted data, which flow.objective = "{objective}" does not '
                                             f"provide; set aux_loss.{name} = 0"))  # fmt: skip
    if sample.solver.averages and sample.guidance.another:
        found.append(("sample.guidance", f'"{sample.guidance.tag()}" cannot be used with sample.solver = '
                                         f'"{sample.solver.tag()}"; use an ODE solver such as "midpoint", or "cfg"'))  # fmt: skip
    if getattr(flow.objective, "omega", 1) != 1 and sample.guidance_scale != 1:
        found.append(("sample.guidance_scale", f"{scale_words(sample.guidance_scale)} would guide once more what "
                                               "flow.objective.omega already guides; set sample.guidance_scale = 1"))  # fmt: skip
    guides = [name for name in ("omega", "omega_max") if getattr(flow.objective, name, 1) != 1]
    if len(guides) == 2:
        found.append(
            ("flow.objective.omega", "cannot be used with omega_max, which teaches all scales; remove one of them")
        )
    if guides and not _drops_any(recipe):
        found.append((f"flow.objective.{guides[0]}", "needs an unconditional velocity, but flow.cond_drop is 0; set "
                                                     f"flow.cond_drop = 0.1 or remove {guides[0]}"))  # fmt: skip
    if flow.objective.guidance_max > 1 and (why := flow.why_not_guided(sample)):
        found.append(("sample.guidance_scale", why))
    return found


def _averages(recipe: Recipe) -> list[tuple[str, str]]:
    several = {"ema.decay": recipe.ema.decays, "ema.power": recipe.ema.power}
    return [(key, f"lists {one:g} twice; remove one of them") for key, found in several.items()
            for one in sorted(set(found)) if found.count(one) > 1]  # fmt: skip


def _no_divisor(size: int, total: int, of: str) -> str:
    """Return a message such as `6 does not divide train.batch_size = 64; the nearest that do are 4 and 8`."""
    divisors = {d for n in range(1, math.isqrt(total) + 1) if total % n == 0 for d in (n, total // n)}
    below = max((d for d in divisors if d < size), default=None)
    above = min((d for d in divisors if d > size), default=None)
    near = [d for d in (below, above) if d is not None]
    verb = "nearest that do are" if len(near) > 1 else "nearest that does is"
    return f"{size} does not divide {of}; the {verb} {' and '.join(map(str, near))}"


def _multiples(size: int, unit: int, link: str = "and") -> str:
    """Return the multiples of `unit` on either side of `size`, without 0: `248 and 256`."""
    below = size // unit * unit
    return f" {link} ".join(str(multiple) for multiple in (below, below + unit) if multiple > 0)
