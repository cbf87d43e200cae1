"""Where an evaluation is kept: a folder for each choice of settings, whose name says those that a reader looks for."""

from __future__ import annotations

import json
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.data.dataset import data_files
from flowkit.data.files import read_json
from flowkit.errors import UserError
from flowkit.metrics.comparison import DEFAULT_ROWS

if TYPE_CHECKING:
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.load import LoadedModel

RESULTS = "evaluation.json"


def asked_for(data: Path | str | None, split: str, num_samples: int, decode: bool) -> dict[str, Any]:
    """What decides which rows are compared and how; kept in the results, so that those of the same settings are known."""
    source = None if data is None else str(data_files(data)[0].resolve())
    return {"data": source, "split": split, "num_samples": num_samples, "decode": decode}


def setting_words(asked: dict[str, Any], usual_split: str) -> str:
    """Those settings in words that are not the usual ones, for the name of a folder: "-test-n200-seed1"."""
    likelihood = asked.get("likelihood") or {}
    words = [
        asked["data"] and data_words(asked["data"]),
        asked["split"] != usual_split and asked["split"],
        asked["num_samples"] != DEFAULT_ROWS and f"n{asked['num_samples']}",
        asked.get("seed") and f"seed{asked['seed']}",
        likelihood and f"likelihood{likelihood['rows']}",
        likelihood.get("probes", 1) > 1 and f"probes{likelihood['probes']}",
        not asked["decode"] and "no-decode",
    ]
    return "".join(f"-{word}" for word in words if word)


def data_words(path: Path | str) -> str:
    return f"data-{data_files(path)[0].stem}"


def free_folder(folder: Path, name: str, asked: dict[str, Any], other: str = "") -> Path:
    """A folder of that name, or of one made from it, that holds no results or those of the same settings.

    other: what is put to the name first, where results of other settings are there; then it is numbers. Results that do not
    say what was asked for, as older ones, are left alone.
    """
    asked = json.loads(json.dumps(asked))
    fuller = f"{name}-{other}" if other else name
    for candidate in chain(dict.fromkeys((name, fuller)), (f"{fuller}-{number}" for number in count(2))):
        path = folder / candidate / RESULTS
        if not path.exists() or _asked_before(path) == asked:
            return path.parent
    raise AssertionError("numbers do not end")


def _asked_before(path: Path) -> Any:
    try:
        return read_json(path)["settings"]["asked"]
    except (UserError, KeyError, TypeError):
        return None


def results_of(model: LoadedModel) -> Path:
    """The folder of all evaluations of a run, or of a checkpoint that is in none."""
    return (model.files.run_dir or model.files.directory) / "evaluation"


def drawn_words(model: LoadedModel, settings: SampleSettings) -> str:
    """`step-00001000-ema-heun25-w1`, after the file's own name where one was named that is not the usual.

    What is not as in the recipe comes last: `-grid-shifted-shift2-interval-0.2-0.8`.
    """
    file, used = model.files.model.stem, settings.to_info()
    prefix = "" if file == "model" else f"{file}-"
    solver, *more = _word(used["solver"]).split("-", 1)
    drawn = "-".join([f"{solver}{used.get('steps', '')}", *more, f"w{used['guidance_scale']:g}"])
    recipe = model.settings(solver=settings.solver).to_info()
    others = [f"-{name.removeprefix('guidance_')}-{_word(used.get(name, 'default'))}" for name in {**recipe, **used}
              if name not in ("solver", "steps", "guidance_scale") and used.get(name) != recipe.get(name)]  # fmt: skip
    return f"{prefix}step-{model.info.get('step', 0):08d}-{model.weights.replace(':', '-')}-{drawn}{''.join(others)}"


def _word(value: Any) -> str:
    """A setting as part of a name: of a table its own name first, of a path the last part, and no lists."""
    if isinstance(value, dict):
        rest = [f"{key}{_word(of)}" for key, of in value.items() if key != "name" and not isinstance(of, list | tuple)]
        return "-".join([value["name"], *rest])
    if isinstance(value, list | tuple):
        return "-".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else Path(value).name if isinstance(value, str) else str(value)
