"""A run on the Hugging Face Hub: its weights, what they are (model.json), and a model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import tomli_w

from flowkit.checkpoint import MODEL, SIDECAR, find_checkpoint, read_model_json, verify_weights
from flowkit.data.checksums import write_checksums
from flowkit.data.files import read_json, write_json
from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.hub import REPOSITORY, hub_errors, hub_package
from flowkit.recipe.load import saved_settings
from flowkit.runs.evaluations import EvaluationResults, FigureResult, Interval, read_evaluations

if TYPE_CHECKING:
    from flowkit.checkpoint import CheckpointFiles

PICTURES = ("sheet.png", "scatter.png")  # of samples


@dataclass(frozen=True)
class Published:
    url: str
    public: bool | None  # None: as it was
    files: tuple[str, ...]
    hidden: int  # absolute paths that were shortened to their last part


def publish(
    ckpt: Path | str, repository: str, *, public: bool = False, license: str = "", update: bool = False
) -> Published:
    """Upload a checkpoint to `repository`, "user/name". Only tensors, JSON, a picture and the card are uploaded.

    public: whether a new repository is public. update: add a version to an existing one. Raises UserError without a login, and
    if the repository exists and `update` is False.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository}: is not a name on the Hub; expected user/name")
    if update and public:
        raise UserError(
            "--public and --update are mutually exclusive; change the visibility in the model's settings on the Hub"
        )
    files = find_checkpoint(ckpt)
    for which in ("ema", "raw"):
        verify_weights(files, which)
    hub = hub_package("push")
    with tempfile.TemporaryDirectory(prefix="flowkit-push-") as name:
        folder = Path(name)
        hidden = stage(files, folder, repository, license)
        api = hub.HfApi(library_name="flowkit")
        with hub_errors(repository):
            api.whoami()
            if api.repo_exists(repository) and not update:
                raise UserError(
                    f"{repository}: exists already. To add a version, add --update; earlier ones stay in its history"
                )
            api.create_repo(repository, private=not public, exist_ok=update)
        with hub_errors(f"{repository} was created, but the upload failed. To continue, add --update. {repository}"):
            step = read_json(folder / SIDECAR).get("step")
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Checkpoint of step {step}")
        names = tuple(sorted(path.name for path in folder.iterdir()))
    return Published(f"{api.endpoint}/{repository}", None if update else public, names, hidden)


def stage(files: CheckpointFiles, folder: Path, repository: str, license: str = "") -> int:
    """Write what is uploaded to `folder`. Return how many absolute paths in the sidecar were shortened."""
    info = read_model_json(files.sidecar)
    named = {files.model: MODEL, **({} if files.ema is None else {files.ema: files.ema.name})}
    named |= {path: path.name for path in files.averages().values()}
    if "file" in info["normalizer"]:
        named[files.sidecar.with_name(info["normalizer"]["file"])] = info["normalizer"]["file"]
    for path, name in named.items():
        shutil.copyfile(path, folder / name)
    saved = {name: value for name, value in read_json(files.sidecar).items() if name != "format"}
    shortened, hidden = _shortened(saved)
    if isinstance((shortened.get("recipe") or {}).get("run"), dict):
        shortened["recipe"]["run"]["dir"] = "runs"
    write_json(folder / SIDECAR, shortened)
    write_checksums(folder)
    picture = _picture(files.run_dir)
    if picture is not None:
        shutil.copyfile(picture, folder / "samples.png")
    evaluation = None
    if files.run_dir is not None:
        found = read_evaluations(files.run_dir, [])
        evaluation = max(found, key=lambda one: (one.step == info.get("step"), one.step, one.time), default=None)
    text = card(shortened, files, repository, license, evaluation, picture is not None)
    (folder / "README.md").write_text(text, "utf-8")
    return hidden


def _shortened(value: Any) -> tuple[Any, int]:
    """Replace absolute paths by their last part: they name people and machines. Return how many there were."""
    if isinstance(value, dict):
        parts = {name: _shortened(one) for name, one in value.items()}
        return {name: one for name, (one, _) in parts.items()}, sum(count for _, count in parts.values())
    if isinstance(value, list):
        items = [_shortened(one) for one in value]
        return [one for one, _ in items], sum(count for _, count in items)
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() or value.startswith("~/"):
                return kind(value).name, 1
    return value, 0


def _picture(run_dir: Path | None) -> Path | None:
    """Return the newest picture of samples in a run."""
    found = [] if run_dir is None else [path for name in PICTURES for path in (run_dir / "samples").glob(f"*/{name}")]
    return max(found, key=lambda path: (path.parent.name == "last", path.parent.name), default=None)


def card(
    info: dict[str, Any], files: CheckpointFiles, repository: str, license: str, evaluation: EvaluationResults | None,
    picture: bool,
) -> str:  # fmt: skip
    """Return the model card, as Markdown. info: the content of model.json."""
    domain = get_domain(info["kind"])
    name, data = repository.rpartition("/")[2], info.get("data") or {}
    flow, sampling = saved_settings(files.sidecar, read_model_json(files.sidecar))
    front = ["---", *([f"license: {json.dumps(license)}"] if license else []), "library_name: flowkit", "tags:",
             "- flow-matching", f"- {json.dumps(domain.name)}", "---"]  # fmt: skip
    source = data.get("source", "unknown data")
    rows = f", {data['train_rows']:,} rows" if "train_rows" in data else ""
    classes = info.get("class_names") or []
    facts = {
        "Makes": f"{domain.noun}, rows of shape {tuple(info['shape'])}",
        "Data": f"{source}{rows}",
        "Classes": ", ".join(classes[:40]) + (f", ... ({len(classes)})" if len(classes) > 40 else ""),
        "Conditions": f"vectors of shape {tuple(info['condition_shape'])}" if info.get("condition_shape") else "",
        **{
            f"{kind.capitalize()}s": f"encoded by {one.get('encoder', 'an unknown encoder')}"
            for kind, one in (info.get("encoded") or {}).items()
        },
        "Network": f"{info['architecture']}, {info.get('num_parameters', 0):,} parameters",
        "Objective": f"{flow.objective.tag()}, path {flow.path.tag()}, predicts the {flow.prediction}",
        "Trained for": f"{info.get('step')} updates",
        "Samples are drawn with": sampling.words,
        "License": license or "not stated by the author",
    }
    lines = [*front, "", f"# {name}", "", f"A flow-matching model of {domain.noun}, trained with flowkit.", ""]
    if picture:
        lines += ["![Samples](samples.png)", "", "Uncurated samples.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {_cell(text)} |" for key, text in facts.items() if text), ""]
    lines += ["## How to use it", "", "```bash", f"flowkit sample --ckpt hf://{repository}", "```", ""]
    load = f'flowkit.load("hf://{repository}"{", model=YourModule()" if info.get("custom") else ""})'
    labels = f", class_label={json.dumps(classes[0])}" if classes else ""
    lines += ["```python", "import flowkit", f"model = {load}", f"samples = model.sample(16{labels})", "```", ""]
    if info.get("custom"):
        lines += [
            f"The network is the author's own module, {info['architecture']}, whose code is not part of this model.",
            "",
        ]
    lines += ["## Sample quality", "", *_figures(evaluation, info.get("step"))]
    lines += ["## Limits", "", *_limits(info, evaluation)]
    if isinstance(info.get("recipe"), dict):
        lines += ["## Recipe", "", "```toml", tomli_w.dumps(_without_none(info["recipe"])).strip(), "```", ""]
    return "\n".join(lines)


def _figures(evaluation: EvaluationResults | None, step: Any) -> list[str]:
    if evaluation is None:
        return ["Not evaluated.", ""]
    lines = ["| | samples | real data | Gaussian | |", "|---|---|---|---|---|"]
    for figure in evaluation.figures.values():
        if figure.samples is not None:
            cells = [_interval(one, figure) for one in (figure.samples, figure.real, figure.gaussian)]
            lines.append(f"| {_cell(figure.name)} | {' | '.join(cells)} | {_cell(figure.good)} |")
    about = (
        "In parentheses: 90% intervals. Real data: other real rows in place of samples. Gaussian: draws from a Gaussian "
        "fitted to the data."
    )
    other = f" Measured at step {evaluation.step}, not at that of these weights." if evaluation.step != step else ""
    return [*lines, "", about + other, ""]


def _interval(interval: Interval | None, figure: FigureResult) -> str:
    if interval is None:
        return ""
    value, low, high = (one * figure.scale for one in (interval.value, interval.low, interval.high))
    return f"{value:.3g}{figure.unit} ({low:.3g} to {high:.3g})"


def _limits(info: dict[str, Any], evaluation: EvaluationResults | None) -> list[str]:
    rows = (info.get("data") or {}).get("train_rows")
    found = [f"- It knows only what is like its {'' if rows is None else f'{rows:,} '}training rows."]
    if evaluation is None:
        found.append("- Its samples have not been measured.")
    if isinstance(rows, int) and rows < 2000:
        found.append("- The data set is small, so samples may repeat training rows.")
    if info.get("class_names"):
        found.append("- It knows no classes other than those listed.")
    return [*found, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in table.items()
        if value is not None
    }
