"""Evaluate samples next to real rows and a Gaussian baseline: from a checkpoint, or from two data files.

The data's domain decides what is measured. This module chooses the rows, draws the samples and makes the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.dataset import Dataset, data_files, read_dataset, write_dataset
from flowkit.data.files import write_json
from flowkit.data_source import with_split
from flowkit.decode import check_writable
from flowkit.domain import builtin_sets, get_domain
from flowkit.errors import UserError
from flowkit.evaluation_folder import (
    asked_for,
    data_words,
    drawn_words,
    free_folder,
    results_of,
    setting_words,
)
from flowkit.metrics.comparison import (
    DEFAULT_ROWS,
    Comparison,
    Sides,
    choose_sides,
    default_split,
    match_samples,
    pick_samples,
    without_null,
)
from flowkit.metrics.gaussian import sample_class_gaussians
from flowkit.metrics.report import Evaluation
from flowkit.outputs import EVALUATION, one_call
from flowkit.progress import Tell

if TYPE_CHECKING:
    from flowkit.flow.inversion import Inversion
    from flowkit.recipe import Recipe
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.load import LoadedModel

INVERTED = 256  # reference rows to invert and reconstruct


def _silent(what: str, done: int, total: int) -> None:
    pass


def evaluate_checkpoint(
    ckpt: Path | str,
    *,
    data: Path | str | None = None,
    split: str | None = None,
    num_samples: int = DEFAULT_ROWS,
    weights: str = "ema",
    seed: int = 0,
    settings: SampleSettings | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    decode: bool = True,
    out: Path | None = None,
    likelihood: int | None = None,
    probes: int = 1,
    completion: int | None = None,
    scales: Sequence[float] = (),
    tell: Tell = _silent,
    **changes: Any,
) -> Evaluation:
    """Draw samples in the classes of the reference rows and measure them; write the results to `out` and return them.

    data: a prepared file instead of the training data. split, num_samples: see `choose_sides`. likelihood: number of held-out
    rows to measure the likelihood of, with `probes` probes in high dimensions. completion: number of
    held-out rows to begin and complete. scales: more guidance scales at which to measure whether samples show what was asked for,
    for models of images or texts. decode: also measure decoded text, for text data. out: by default a folder in the run's
    `evaluation/` named by the settings. Results of the same settings are replaced. The other arguments, including `changes`, are
    those of `LoadedModel.sample`.

    Raises UserError for a missing checkpoint or data, or rows that do not fit each other.
    """
    from flowkit.sampling.draw import invert
    from flowkit.sampling.likelihood import held_out_rows, likelihood_figures
    from flowkit.sampling.load import load

    model = load(ckpt, weights=weights, device=device)
    settings = model.settings(settings, **changes)
    rows, notes = training_data(model, data)
    notes += [model.files.notice] if model.files.notice else []
    sides = choose_sides(rows, split, num_samples, preferred=model.domain.compared_with)
    held_out = split if split in ("validation", "test") else "validation"
    asked = {
        "weights": weights, "step": model.info.get("step", 0), "sampling": settings.to_info(), "seed": seed,
        **asked_for(data, sides.split, num_samples, decode),
        "likelihood": likelihood and {"rows": likelihood, "split": held_out, "probes": probes},
        **({} if completion is None else {"completion": {"rows": completion, "split": held_out}}),
        **({"scales": list(scales)} if scales else {}),
    }  # fmt: skip
    if out is None:
        words = setting_words(asked, default_split(rows, model.domain.compared_with))
        out = free_folder(results_of(model), f"{drawn_words(model, settings)}{words}", asked)
    check_writable(out)
    if likelihood is not None:  # fail before minutes of sampling
        held_out_rows(model, rows, held_out)
    if model.class_names and rows.class_label is None:
        raise UserError(
            "the model has classes, but the data has none; give data with class_label (--data), or draw samples of the null "
            "class (flowkit sample --class-label null) and evaluate their file against the data"
        )
    given = model.given_with(rows, sides.reference, "the reference rows")
    samples = model.sample(
        len(sides.reference), seed=seed, settings=settings, batch_size=batch_size, conditions=given,
        progress=partial(tell, f"sampling {model.domain.noun}"),
    )  # fmt: skip
    if (
        not model.class_names and given.kinds and rows.class_label is not None
    ):  # drawn from images or texts of these rows
        samples = replace(
            samples, class_label=np.asarray(rows.class_label)[sides.reference], class_names=rows.class_names
        )
    matched = match_samples(samples, rows)
    if sides.split == "all":
        beside = "; read the figures together with the memorization ratio" if model.domain.measures_memorization else ""
        notes.append(f"the model was trained on most of the reference rows{beside}")
    title = f"{ckpt}: {model.info['architecture']}, step {model.info.get('step', 0):,}"
    tell("inverting real rows to noise", 0, 1)
    count = min(INVERTED, len(sides.reference))
    indices = np.arange(count) * len(sides.reference) // count
    found, zero = invert(model, rows, sides.reference[indices], settings)
    more: dict[str, tuple[str, dict[str, Any]]] = {"reconstruction": (
        _inversion_fact(found, zero),
        {"rows": count, "passes": found.passes, "model": asdict(found), "zero_field": asdict(zero)},
    )}  # fmt: skip
    if likelihood is not None:
        figures = likelihood_figures(
            model, rows, likelihood, split=held_out, probes=probes, seed=seed,
            progress=partial(tell, "likelihood of held-out rows"),
        )  # fmt: skip
        more["likelihood"] = (figures.words, figures.to_json())
    if completion is not None:
        begun = rows.rows(held_out)[:completion]
        completed = model.domain.completed(
            model, rows, begun, seed=seed, settings=settings, batch_size=batch_size,
            progress=partial(tell, "completing held-out rows"),
        )  # fmt: skip
        more["completion"] = (completed.words, completed.to_json())
    pictures: list[Callable[[Path], list[Path]]] = []
    if model.info.get("encoded"):
        shown = model.domain.shown(model, rows, scales=scales, settings=settings, seed=seed, batch_size=batch_size,
                                   device=device, tell=tell)  # fmt: skip
        more |= {name: (words, {}) for name, words in shown.facts.items()}
        more["shown"] = ("", shown.to_json())
        pictures.append(shown.write)
    elif scales:
        raise UserError("--scales: this model was trained without images and texts; leave it out")
    return _evaluate(title, rows, sides, matched, out, asked, tell, notes, device=device, drawn=samples, more=more,
                     pictures=pictures)  # fmt: skip


def evaluate_files(
    samples: Path | str,
    data: Path | str,
    *,
    split: str | None = None,
    num_samples: int = DEFAULT_ROWS,
    device: str = "auto",
    decode: bool = True,
    out: Path | None = None,
    tell: Tell = _silent,
) -> Evaluation:
    """Measure the samples of one file against the real rows of another, class by class in equal numbers.

    device, decode: for a decoder, as in `evaluate_checkpoint`. out: by default `evaluation` next to the samples (with their name,
    unless that is "samples"), and unusual settings. Raises UserError as `evaluate_checkpoint`, and for samples of classes that
    the data does not have.
    """
    from flowkit.recipe.data import Data

    default = Data()
    real = _real(data, default.num_samples, default.seed)
    if real.split is None and str(data) in builtin_sets():
        real = with_split(real, default.val_fraction, None, default.seed, str(data))
    classed, unconditional = without_null(_read(samples), real)
    matched = match_samples(classed, real)
    sides = choose_sides(real, split, num_samples, matched, get_domain(real.kind).compared_with)
    file, _ = data_files(samples)
    asked = asked_for(data, sides.split, num_samples, decode)
    if out is None:
        name = "evaluation" if file.stem == "samples" else f"{file.stem}-evaluation"
        words = setting_words({**asked, "data": None}, default_split(real, get_domain(real.kind).compared_with))
        out = free_folder(file.parent, f"{name}{words}", asked, other=data_words(data))
    check_writable(out)
    labels = None if real.class_label is None else np.asarray(real.class_label)[sides.reference]
    used = pick_samples(matched, np.zeros(len(sides.reference), np.int64) if labels is None else labels)
    notes = []
    if unconditional:
        notes.append(
            f"{unconditional:,} samples of the null class were left out: the data has no such class. A file of only such samples "
            "is compared with all of the data"
        )
    if (matched.class_label is None) and real.class_label is not None:
        notes.append("the samples have no classes: all were compared as one class, without class fidelity")
    title = f"{file} against {data_files(data)[0]}"
    beside = file.resolve().parent == out.resolve()
    return _evaluate(title, real, sides, used, out, asked, tell, notes, of=len(matched), device=device, beside=beside)


def _real(data: Path | str, num_samples: int, seed: int) -> Dataset:
    """Return the rows of a prepared file, or of a built-in data set by name."""
    if str(data) in builtin_sets() and not data_files(data)[0].exists():
        return get_domain(builtin_sets()[str(data)]).generate(str(data), num_samples, seed)
    return _read(data)


def _read(path: Path | str) -> Dataset:
    data = read_dataset(path)
    get_domain(data.kind).check(data, str(data_files(path)[0]))
    return data


def training_data(model: LoadedModel, path: Path | str | None = None) -> tuple[Dataset, list[str]]:
    """Return the data with its training split, and notes for the user.

    path: a file instead of the one in the model's sidecar. Raises UserError if that is missing or has changed.
    """
    from flowkit.data_source import open_data

    recipe = _recipe(model)
    if path is None:
        known = (model.info.get("data") or {}).get("source")
        if known not in (None, recipe.data.source):  # rows given from Python, not from the recipe's source
            raise UserError(
                f"{model.files.sidecar}: the model was trained on {known}; give that data as a file with --data"
            )
        try:
            data = open_data(recipe, model.folders)
        except UserError as error:
            raise UserError(f"{error}; give the data that the model was trained on with --data") from None
    else:
        settings = recipe.data
        read = _real(path, settings.num_samples, settings.seed)
        data = with_split(read, settings.val_fraction, settings.subset, settings.seed, str(path))
    trained_on, rows = (model.info.get("data") or {}).get("train_rows"), len(data.rows("train"))
    if trained_on in (None, rows):
        return data, []
    if path is None:
        raise UserError(
            f"data.source: {recipe.data.source!r} has {rows:,} training rows, but the model was trained on "
            f"{trained_on:,}, so it is not the same data; give the right file with --data"
        )
    return data, [
        f"this is not the data that the model was trained on ({trained_on:,} rows): 'training' refers to this file"
    ]


def _recipe(model: LoadedModel) -> Recipe:
    from flowkit.recipe import recipe_from_dict

    if not isinstance(model.info.get("recipe"), dict):
        raise UserError(f"{model.files.sidecar}: has no 'recipe', so its training data and split are unknown; "
                        "evaluate a samples file against a data file instead")  # fmt: skip
    return recipe_from_dict(model.info["recipe"])


def _evaluate(
    title: str, data: Dataset, sides: Sides, samples: Dataset, out: Path, asked: dict[str, Any], tell: Tell, notes: list[str],
    of: int | None = None, *, device: str, drawn: Dataset | None = None, beside: bool = False,
    more: dict[str, tuple[str, dict[str, Any]]] | None = None, pictures: Sequence[Callable[[Path], list[Path]]] = (),
) -> Evaluation:  # fmt: skip
    """Evaluate and write the results. drawn: samples to write with them. beside: the measured samples are in `out` already.

    more: other measurements, each in words and as saved; without words it is only saved, without content only said. pictures:
    write more files to a folder.
    """
    domain = get_domain(data.kind)
    comparison = Comparison(data, sides, samples, _gaussian_draws(data, sides))
    evaluator = domain.evaluator(comparison, decode=asked["decode"], device=device)
    figures = evaluator.figures(tell)
    tell("done", 3, 3)
    per_class = "" if data.class_label is None else " per class"
    facts = {
        "samples": _samples_fact(samples, of),
        "reference": sides.words["reference"],
        "real": sides.words["real"],
        "Gaussian": f"{len(comparison.gaussian):,} draws from a full Gaussian{per_class}, fitted on the training rows",
    }
    settings = {
        "asked": asked,
        "split": sides.split,
        "rows": len(sides.reference),
        "train_rows": len(sides.train),
        "held_out_rows": len(sides.held_out),
        "classes": len(np.unique(_labels(data)[sides.reference])),
        "samples": samples.info,
    }
    for name, (words, kept) in (more or {}).items():
        facts |= {name: words} if words else {}
        settings |= {name: kept} if kept else {}
    with one_call(out, EVALUATION, only_part=beside) as call:
        files = [call.partial / "evaluation.json", *evaluator.write(call.partial)]
        files += [path for write in pictures for path in write(call.partial)]
        if drawn is not None:
            files.append(write_dataset(call.partial / "samples.safetensors", drawn))
        evaluation = Evaluation(
            evaluator.protocol,
            title,
            facts,
            tuple(figures),
            evaluator.legend,
            (*notes, *evaluator.notes),
            settings,
            tuple(str(out / path.name) for path in files),
        )
        write_json(files[0], evaluation.to_json())
    return replace(evaluation, notes=(*evaluation.notes, call.said)) if call.said else evaluation


def _inversion_fact(found: Inversion, zero: Inversion) -> str:
    verdict = "passes" if found.passes else "fails"
    return (
        f"{verdict}. Real rows inverted to noise and back: MSE {found.mse:.3g} per dimension (limit 0.1), variance of the noise "
        f"{found.variance:.3g} (0.8 to 1.2), {found.effective_dimensions:,.0f} effective dimensions. Without a model: MSE 0, "
        f"variance {zero.variance:.3g}, {zero.effective_dimensions:,.0f} dimensions"
    )


def _labels(data: Dataset) -> np.ndarray:
    return np.zeros(len(data), np.int64) if data.class_label is None else np.asarray(data.class_label)


def _gaussian_draws(data: Dataset, sides: Sides) -> np.ndarray:
    """Draw from Gaussians fitted on the training rows, or on the real side if those lack the classes."""
    labels = _labels(data)
    fit, wanted = sides.train, labels[sides.reference]
    if not np.isin(wanted, labels[fit]).all():
        fit = sides.real
    return sample_class_gaussians(data.x[fit], labels[fit], wanted)


def _samples_fact(samples: Dataset, of: int | None) -> str:
    made = samples.info
    parts = [f"{len(samples):,}" if of in (None, len(samples)) else f"{len(samples):,} of {of:,} (as classes match)"]
    if "solver" in made:
        from flowkit.recipe.sample import SampleSettings

        parts.append(f"{made.get('weights', '')} weights, {SampleSettings.of(made).words}, NFE {made.get('nfe')}")
        parts.append(f"seed {made.get('seed')}")
    return ", ".join(parts)
