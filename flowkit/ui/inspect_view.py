"""Terminal views of the reports of `flowkit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from flowkit.checkpoint import average_files, decay_in_effect
from flowkit.errors import listing
from flowkit.registry import domain_name
from flowkit.ui.facts import Facts, FactsBlock, settings
from flowkit.ui.heading import heading
from flowkit.ui.parameter_tree import parameter_tree
from flowkit.ui.quantities import NOTHING, shape, size, value
from flowkit.ui.sparkline import chart, sparkline
from flowkit.ui.wording import averaged, plural


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report of `flowkit.inspect.inspect`."""
    console.print(heading(_title(report), report["path"], console.width), no_wrap=True, overflow="ellipsis")
    for remark in report.get("remarks", ()):
        console.print(Text.assemble(("note  ", "yellow"), remark))
    match report["what"]:
        case "data":
            from flowkit.ui.inspect_data_view import data_view

            data_view(report, console)
        case "recipe":
            console.print(FactsBlock(_recipe_facts(report)))
            console.print(Text())
            console.print(recipe_view(report["recipe"], report["given"]))
        case "metrics":
            _metrics(report["metrics"], console)
        case "file":
            console.print(FactsBlock([*report["facts"].items(), *_content(report["content"])]))
        case "tensors":
            console.print(FactsBlock(_weights_facts(report["weights"])))
            console.print(parameter_tree(report["weights"], "numbers"), crop=True)
        case _:
            _model(report, console)


def _title(report: dict[str, Any]) -> str:
    if report["what"] == "run":
        return report["run"]["name"]
    if report["what"] == "data":
        return f"{domain_name(report['kind'])} data"
    return report.get("holds", report["what"])


def _model(report: dict[str, Any], console: Console) -> None:
    """Print a run or a checkpoint."""
    run, model = report.get("run"), report.get("model")
    if model:
        console.print(FactsBlock(_model_facts(model, report)))
    if run and run["metrics"]:
        console.print(heading("losses", "", console.width))
        console.print(FactsBlock(_metrics_facts(run["metrics"])))
    if report.get("recipe"):
        left = ("run", "data", "aux_loss", "optim", "train") if model else tuple(report["recipe"])
        console.print(heading("recipe", "", console.width))
        console.print(recipe_view({name: report["recipe"][name] for name in left if name in report["recipe"]}))
    if report.get("weights"):
        console.print(heading("parameters", Path(report["weights"]["path"]).name, console.width))
        console.print(parameter_tree(report["weights"]), crop=True)
    if run and run["checkpoints"]:
        console.print(heading("checkpoints", "", console.width))
        console.print(FactsBlock(_checkpoints(run["checkpoints"]) + _snapshots(run["snapshots"])))
    elif report.get("files"):
        console.print(heading("files", size(sum(report["files"].values())), console.width))
        console.print(FactsBlock([(name, f"{size(count):>8}") for name, count in report["files"].items()]))


def _model_facts(model: dict[str, Any], report: dict[str, Any]) -> Facts:
    weights, names = report["weights"], model.get("class_names") or []
    counted = model.get("num_parameters")
    count = f"{counted:,} parameters" if isinstance(counted, int) else f"{weights['elements']:,} numbers"
    dtypes = ", ".join(weights["dtypes"])
    facts: Facts = [
        (
            "architecture",
            Text.assemble((str(model["architecture"]), "bold"), f" · {count} · {dtypes} · {size(weights['bytes'])}"),
        ),
        ("arguments", settings(model["model_args"])),
        ("data", _data_of(model)),
    ]
    if names:
        facts.append(("classes", Text.assemble((f"{len(names)}: ", "dim"), listing(names, 40))))
    if model.get("condition_shape"):
        facts.append(("condition", shape(model["condition_shape"])))
    facts += [
        (kind, f"{one.get('encoder', 'an unknown encoder')}, {shape(one['shape'])}")
        for kind, one in (model.get("encoded") or {}).items()
    ]
    facts += [
        ("normalizer", settings(model["normalizer"])),
        ("flow", settings(model["flow"])),
        ("sampling", settings(model.get("sampling") or {})),
        ("EMA", settings(_ema_of(model)) if isinstance(model.get("ema"), dict) else Text("none", "dim")),
        ("step", _step_of(model, report)),
    ]  # fmt: skip
    if found := model.get("validation"):
        shown = _against_zero(found.get("loss"), found.get("zero_loss"))
        if isinstance(found.get("raw_loss"), float):
            shown.append(f"  without EMA {value(found['raw_loss'])}", "dim")
        facts.append(("validation", shown))
    if len(averages := _averages(model, report["files"])) > 1:
        facts.append(("averages", settings(averages)))
    return facts


def _ema_of(model: dict[str, Any]) -> dict[str, Any]:
    """Return the EMA settings, and how many updates each average covers at this step."""
    ema, step = model["ema"], model.get("step")
    if not isinstance(step, int):
        return ema
    decays = ema.get("decay") if isinstance(ema.get("decay"), list) else [ema.get("decay")]
    try:
        found = [averaged(decay_in_effect(ema, decay, step)) for decay in decays if decay]
    except (ArithmeticError, LookupError, TypeError):  # a damaged sidecar, or one of another program
        return ema
    return {**ema, "averages": " and ".join(found)} if found else ema


def _averages(model: dict[str, Any], files: dict[str, int]) -> dict[str, str]:
    """Return the validation loss of each stored average, by label. Sampling uses the first."""
    found = model.get("validation") or {}
    losses = dict(found.get("ema_losses") or {})
    labels = [label for label, name in average_files(model.get("ema")).items() if name in files]
    return {
        label: value(loss) if isinstance(loss := losses.get(label, found.get("loss")), int | float) else NOTHING
        for label in labels
    }


def _step_of(model: dict[str, Any], report: dict[str, Any]) -> Text:
    step = model.get("step")
    text = Text(f"{step:,}" if isinstance(step, int) else NOTHING)
    if model.get("flowkit"):
        text.append(f" · by flowkit {model['flowkit']}", "dim")
    if report["what"] == "run":
        text.append(f" · {Path(report['checkpoint']).resolve().name}", "dim")
        if ended := report["run"].get("ended"):
            text.append(f" · {ended['reason']}", "dim" if ended["reason"] == "done" else "yellow")
    return text


def _data_of(model: dict[str, Any]) -> Text:
    data = model.get("data") or {}
    text = Text(f"{domain_name(model['kind'])} {shape(model['shape'])}")
    if "source" in data:
        text.append(f" · {data['source']}")
    if "train_rows" in data:
        text.append(f" · {data['train_rows']:,} training rows, {data.get('val_rows', 0):,} for validation", "dim")
    return text


def _against_zero(loss: Any, zero: Any) -> Text:
    text = Text.assemble((value(loss) if isinstance(loss, int | float) else NOTHING, "bold magenta"))
    if isinstance(loss, int | float) and isinstance(zero, int | float) and zero > 0:
        text.append(f"  {100 * loss / zero:.1f}% of predicting zero, {value(zero)}", "dim")
    return text


def _metrics_facts(metrics: dict[str, Any]) -> Facts:
    last, validation, best = metrics["last"], metrics["last_validation"], metrics["best_validation"]
    facts: Facts = []
    if last:
        curve = sparkline([loss for _, loss in metrics["loss_curve"]], 40)
        facts.append(("loss", Text.assemble((f"{value(last['loss']):<8}", "bold"), (curve, "cyan"), _at(last))))
    if validation:
        curve = sparkline([loss for _, loss in metrics["validation_curve"]], 40)
        shown = Text.assemble(
            (f"{value(validation['val_loss']):<8}", "bold magenta"), (curve, "magenta"), _at(validation)
        )
        facts.append(("validation", shown))
    if best:
        shown = _against_zero(best["val_loss"], best.get("val_zero_loss"))
        facts.append(("best", shown.append_text(_at(best))))
    if metrics["unreadable_lines"]:
        facts.append(
            ("", Text(f"{plural(metrics['unreadable_lines'], 'line')} of metrics.jsonl cannot be read", "yellow"))
        )
    return facts


def _metrics(metrics: dict[str, Any] | None, console: Console) -> None:
    """Print the losses of a metrics.jsonl, and their curves."""
    if metrics is None:
        console.print("no losses were logged yet")
        return
    console.print(FactsBlock(_metrics_facts(metrics)))
    curves = (metrics["loss_curve"], "cyan"), (metrics["validation_curve"], "magenta")
    last = max((points[-1][0] for points, _ in curves if points), default=0)
    if any(len(points) > 1 for points, _ in curves):
        for line in chart(curves, last, min(console.width, 80), 10):
            console.print(line)


def _content(content: dict[str, Any] | None) -> Facts:
    """Return the values of a JSON file that fit on a line."""
    shown = {name: found for name, found in (content or {}).items() if name != "format"}
    return [(name, str(found)) for name, found in shown.items() if isinstance(found, str | int | float)]


def _at(row: dict[str, Any]) -> Text:
    return Text(f"  step {row['step']:,}", "dim")


def _weights_facts(weights: dict[str, Any]) -> Facts:
    dtypes = ", ".join(f"{name} {count:,}" for name, count in weights["dtypes"].items())
    return [("file", f"{size(weights['bytes'])} · {weights['tensors']:,} tensors"), ("numbers", dtypes or "none")]


def _checkpoints(checkpoints: list[dict[str, Any]]) -> Facts:
    facts: Facts = []
    for one in checkpoints:
        marks = [("  latest", "cyan")] * one["latest"] + [("  best", "green")] * one["best"]
        loss = one["validation_loss"]
        shown = "" if loss is None else f"  validation {value(loss)}"
        facts.append((one["name"], Text.assemble(f"{size(one['bytes']):>8}", (shown, "magenta"), *marks)))
    return facts


def _snapshots(names: list[str]) -> Facts:
    """Return snapshots of the power-function averages, for `flowkit ema`."""
    if not names:
        return []
    first, last = (f"{int(name.removeprefix('step-')):,}" for name in (names[0], names[-1]))
    between = f"  step {first} to {last}" if len(names) > 1 else f"  step {last}"
    return [("snapshots", Text.assemble(f"{len(names):>8}", (between, "dim")))]


def _recipe_facts(report: dict[str, Any]) -> Facts:
    facts, recipe = report["facts"], report["recipe"]
    shown: Facts = [
        ("trains", Text.assemble((recipe["model"]["arch"], "bold"), " on ", (recipe["data"]["source"], "bold"))),
        ("into", facts["run_dir"] + (" (exists)" if facts["run_exists"] else "")),
    ]
    if "steps" in facts:
        rows, batch = facts["train_rows"], recipe["train"]["batch_size"]
        shown.append(("for", f"{facts['steps']:,} updates of {batch:,} rows: {facts['epochs']:,.1f} epochs of {rows:,} rows"
                             if facts["epochs"] else f"{facts['steps']:,} updates of {batch:,} rows"))  # fmt: skip
    return shown


def recipe_view(recipe: dict[str, Any], given: dict[str, list[str]] | None = None) -> RenderableType:
    """Return one paragraph per section. With `given`, the keys that the file itself sets are bold."""
    facts: Facts = []
    for section, keys in recipe.items():
        if isinstance(keys, dict):
            own = {} if given is None else {key: "bold" for key in given.get(section, ())}
            facts.append((f"[{section}]", settings(keys, own, "" if given is None else "dim")))
    block = FactsBlock(facts, style="cyan")
    return block if given is None else Group(block, Text("bold: set in this file; all others are defaults", "dim"))
