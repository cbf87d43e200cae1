"""The folder of an evaluation, named after its settings."""

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
    """Return the settings that decide which rows are compared and how. Kept in the results, to recognize equal settings."""
    source = None if data is None else str(data_files(data)[0].resolve())
    return {"data": source, "split": split, "num_samples": num_samples, "decode": decode}


def setting_words(asked: dict[str, Any], usual_split: str) -> str:
    """Return the unusual settings as part of a folder name: "-test-n200-seed1"."""
    likelihood = asked.get("likelihood") or {}
    words = [
        asked["data"] and data_words(asked["data"]),
        asked["split"] != usual_split and asked["split"],
        asked["num_samples"] != DEFAULT_ROWS and f"n{asked['num_samples']}",
        asked.get("seed") and f"seed{asked['seed']}",
        likelihood and f"likelihood{likelihood['rows']}",
        asked.get("completion") and f"completion{asked['completion']['rows']}",
        likelihood.get("probes", 1) > 1 and f"probes{likelihood['probes']}",
        not asked["decode"] and "no-decode",
    ]
    return "".join(f"-{word}" for word in words if word)


def data_words(path: Path | str) -> str:
    return f"data-{data_files(path)[0].stem}"


def free_folder(folder: Path, name: str, asked: dict[str, Any], other: str = "") -> Path:
    """Return a folder with that name, or one made from it, that has no results or those of the same settings.

    other: added to the name if that holds results of other settings; after that numbers are added. Results that do not say
    their settings (older ones) are not overwritten.
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
    """Return the folder of all evaluations of a run, or of a single checkpoint."""
    return model.files.home / "evaluation"


def drawn_words(model: LoadedModel, settings: SampleSettings) -> str:
    """Return `step-00001000-ema-heun25-w1`, prefixed with the file's name if it is not the default one.

    Differences to the recipe come last: `-grid-shifted-shift2-interval-0.2-0.8`.
    """
    from flowkit.conditions import scale_words

    file, used = model.files.model.stem, settings.to_info()
    prefix = "" if file == "model" else f"{file}-"
    solver, *more = _word(used["solver"]).split("-", 1)
    scale = scale_words(settings.guidance_scale).replace("=", "").replace(",", "-")
    drawn = "-".join([f"{solver}{used.get('steps', '')}", *more, f"w{scale}"])
    recipe = model.settings(solver=settings.solver).to_info()
    others = [f"-{name.removeprefix('guidance_')}-{_word(used.get(name, 'default'))}" for name in {**recipe, **used}
              if name not in ("solver", "steps", "guidance_scale") and used.get(name) != recipe.get(name)]  # fmt: skip
    return f"{prefix}step-{model.info.get('step', 0):08d}-{model.weights.replace(':', '-')}-{drawn}{''.join(others)}"


def _word(value: Any) -> str:
    """Format a setting as part of a name: for a table its name first, for a path the last part, and no lists."""
    if isinstance(value, dict):
        rest = [f"{key}{_word(of)}" for key, of in value.items() if key != "name" and not isinstance(of, list | tuple)]
        return "-".join([value["name"], *rest])
    if isinstance(value, list | tuple):
        return "-".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else Path(value).name if isinstance(value, str) else str(value)
