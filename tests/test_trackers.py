"""Trackers: TensorBoard and Weights & Biases for real, others by what accelerate's classes are called with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest

from flowkit.errors import UserError
from flowkit.events import Notice
from flowkit.recipe import recipe_from_dict
from flowkit.training.train import train
from tests.conftest import Recorder


def recipe_with(tiny: dict[str, Any], to: Any, **train_keys: Any) -> Any:
    tiny = {**tiny, "train": {**tiny["train"], "val_every": 4, "val_rows": 8, **train_keys}, "track": {"to": to}}
    return recipe_from_dict({**tiny, "sample": {**tiny["sample"], "every": 8, "num_samples": 2}})


def events(run_dir: Path) -> Any:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_shows_numbers_in_groups_a_picture_and_the_recipe(tiny: dict[str, Any]) -> None:
    run_dir = train(recipe_with(tiny, "tensorboard")).run_dir
    found = events(run_dir)
    names = found.Tags()["scalars"]
    assert {"train/loss", "train/lr", "val/loss", "val/zero_loss", "val/bin_0.0", "samples/nfe"} - {*names} <= {
        "samples/nfe"
    }
    losses = [(one.step, one.value) for one in found.Scalars("train/loss")]
    assert [step for step, _ in losses] == [4, 8] and all(value > 0 for _, value in losses)
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    assert [value for _, value in losses] == pytest.approx([line["loss"] for line in lines if "loss" in line])
    (sheet,) = found.Images("samples/sheet")
    assert sheet.step == 8 and sheet.encoded_image_string.startswith(b"\x89PNG") and sheet.width > 100
    assert len([path for path in (run_dir / "tensorboard").iterdir() if path.is_dir()]) == 0, "one run, not two"


def test_resumed_run_continues_its_curves(tiny: dict[str, Any]) -> None:
    run_dir = train(recipe_with(tiny, ["tensorboard"], save_every=4)).run_dir
    for name in ("step-00000008", "latest", "best"):  # as if the last checkpoint had never been written
        path = run_dir / "checkpoints" / name
        path.unlink() if path.is_symlink() else path.rename(run_dir / "gone")
    train(recipe_with(tiny, ["tensorboard"], save_every=4, steps=12), resume=True)
    assert [one.step for one in events(run_dir).Scalars("train/loss")] == [4, 8, 12], "step 8 once, not twice"


def test_unknown_and_missing_trackers_are_told_before_anything_is_written(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"track\.to: 'tensorbord' is unknown; expected .*did you mean 'tensorboard'"):
        train(recipe_with(tiny, "tensorbord"))
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(UserError, match=r"track\.to: comet_ml is not installed; run `pip install comet-ml`"):
        train(recipe_with(tiny, ["comet_ml"]))
    with pytest.raises(UserError, match=r"wandb is not installed"):
        train(recipe_from_dict({**tiny, "track": {"wandb": True}}))
    assert not Path(tiny["run"]["dir"]).exists()


def test_names_are_one_or_several_and_wandb_is_a_short_form(tiny: dict[str, Any]) -> None:
    of = lambda table: recipe_from_dict({**tiny, "track": table}).track.names  # noqa: E731
    assert (
        of({}) == ()
        and of({"to": "aim"}) == ("aim",)
        and of({"to": ["aim", "wandb"], "wandb": True}) == ("aim", "wandb")
    )
    assert of({"wandb": True}) == ("wandb",)
    for wrong in (3, [1], [""], {"name": "aim"}):
        with pytest.raises(UserError, match=r"track\.to: expected a name or a list of names"):
            of({"to": wrong})


class Service(accelerate.tracking.GeneralTracker):
    """A tracker that records its calls and can be made to fail."""

    name, requires_logging_directory, main_process_only = "mlflow", False, True
    made: list[Service] = []  # noqa: RUF012
    fails: tuple[str, ...] = ()

    def __init__(self, **arguments: Any):
        super().__init__(_blank=True)
        self.arguments, self.told, self.finished = arguments, [], False
        Service.made.append(self)

    @property
    def tracker(self) -> Any:
        return type("Run", (), {"info": type("Info", (), {"run_id": "abc123"})})

    def start(self) -> None:
        self._may_fail("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._may_fail("log")
        self.told.append((step, values))

    def finish(self) -> None:
        self.finished = True

    def _may_fail(self, where: str) -> None:
        if where in Service.fails:
            raise ConnectionError(f"no {where}")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[Service]:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "mlflow", Service)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", ["mlflow"])
    monkeypatch.setattr(Service, "made", [])
    monkeypatch.setattr(Service, "fails", ())
    return Service


def test_service_receives_recipe_and_numbers_and_resumes_by_id(tiny: dict[str, Any], service: type[Service]) -> None:
    run_dir = train(recipe_with(tiny, "mlflow")).run_dir
    train(recipe_with(tiny, "mlflow", steps=12), resume=True)
    first, second = service.made
    assert (
        first.arguments["run_id"] is None
        and second.arguments["run_id"] == "abc123"
        and first.finished
        and second.finished
    )
    assert (run_dir / "mlflow_id").read_text() == "abc123\n"
    described, *numbers = first.told
    assert described["optim.lr"] == 1e-3 and described["flow.path"] == "linear" and described["num_parameters"] > 1000
    assert all(isinstance(value, float) for _, values in numbers for value in values.values())
    assert [step for step, values in numbers if "train/loss" in values] == [4, 8]


def test_unreachable_service_is_reported_once(
    tiny: dict[str, Any], service: type[Service], monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.setattr(service, "fails", ("log",))
    outcome = train(recipe_with(tiny, "mlflow"), listeners=lambda: [recorder])
    assert outcome.reason == "done" and service.made[0].finished
    told = [event.text for event in recorder.of(Notice) if "mlflow" in event.text]
    assert len(told) == 1 and re.search(r"cannot be reached \(no log\); training continues", told[0])


def test_a_service_that_cannot_start_is_one_message(
    tiny: dict[str, Any], service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "fails", ("start",))
    with pytest.raises(UserError, match=r"track\.to: mlflow cannot start \(no start\), or remove it from track.to"):
        train(recipe_with(tiny, "mlflow"))
