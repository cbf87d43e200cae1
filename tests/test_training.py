"""The loop against a loop written out by hand, and the promises: steps, resume, checkpoints, skipped updates."""

import copy
import json
import math
import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import flowkit
from flowkit.checkpoint import list_checkpoints
from flowkit.components import choose
from flowkit.errors import UserError
from flowkit.events import Doing, Finished, Logged, Notice, RunStarted, Sampled, Saved, Stepped, Validated
from flowkit.inspect import inspect
from flowkit.models import create_model
from flowkit.recipe import recipe_from_dict
from flowkit.rng import RowOrder, key, seed_generator
from flowkit.sketch.losses import bending
from flowkit.training.optimizer import AdamW, lr_schedule, step_optimizer
from tests.conftest import Recorder, sketch_rows


def weights(run_dir, name="model", step=None):
    folder = "latest" if step is None else f"step-{step:08d}"
    return load_file(run_dir / "checkpoints" / folder / f"{name}.safetensors")


def distance(a, b):
    """Norm of the difference over norm of the parameters."""
    top = math.sqrt(sum((a[name].double() - b[name].double()).square().sum().item() for name in b))
    return top / math.sqrt(sum(tensor.double().square().sum().item() for tensor in b.values()))


def by_hand(recipe, rows, train_rows, updates):
    """The whole of training in plain PyTorch: AdamW unfused, EMA by its recursion, losses by their formula.

    Returns parameters, EMA, and the loss and gradient norm of every update.
    """
    normalizer = choose("normalizer", "global").fit(rows["x"], train_rows)
    torch.manual_seed(key(0, "initial weights"))
    arguments = {"num_strokes": rows["x"].shape[1], "stroke_dim": 8, "num_classes": 3, "clip_dim": 0}
    model = create_model("bezier_sketch_dit", **{k: v for k, v in recipe["model"].items() if k != "arch"}, **arguments)
    ema = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    named = dict(model.named_parameters())
    undecayed = {
        n for n, p in named.items() if p.ndim < 2 or any(word in n for word in ("null", "position", "embedding"))
    }
    groups = [[p for n, p in named.items() if n not in undecayed], [p for n, p in named.items() if n in undecayed]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.05}, {"params": groups[1], "weight_decay": 0.0}],
        lr=1e-3,
        foreach=False,
    )
    x_all = normalizer.normalize(torch.from_numpy(rows["x"][train_rows]))
    labels = torch.from_numpy(rows["class_label"][train_rows])
    batch, losses, norms = 16, [], []
    order = RowOrder(len(train_rows), batch, 0)
    generator = torch.Generator()
    warmup = math.ceil(0.05 * updates)
    for u in range(updates):
        rate = (u + 1) / warmup if u < warmup else 0.01 + 0.99 * (
            1 + math.cos(math.pi * (u - warmup) / (updates - 1 - warmup))) / 2  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        picked = torch.from_numpy(order.batch(u))
        x1 = x_all[picked]
        x0 = torch.randn(x1.shape, generator=seed_generator(generator, key(0, "noise", u)))
        uniform = torch.rand(batch, generator=seed_generator(generator, key(0, "times", u)))
        logit = torch.special.ndtri((uniform - 0.05) / 0.95)
        t = torch.where(uniform < 0.05, uniform / 0.05, torch.sigmoid(logit))
        drop = torch.rand(batch, generator=seed_generator(generator, key(0, "drop", u))) < 0.1
        x_t = t[:, None, None] * x1 + (1 - t[:, None, None]) * x0
        velocity = model(x_t, t, labels[picked], None, drop)
        loss = ((velocity - (x1 - x0)) ** 2).mean()
        predicted = normalizer.denormalize(x_t + (1 - t[:, None, None]) * velocity)
        optimizer.zero_grad()
        (loss + recipe["aux_loss"]["bending"] * (t * bending(predicted)).mean()).backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, 1.0 / (norm.item() + 1e-6))
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
        decay = 0.9999 * u / (u + 10)  # at most a tenth of the updates so far are averaged; 0 at the first
        for name, parameter in model.state_dict().items():
            ema[name] = decay * ema[name] + (1 - decay) * parameter
    return model.state_dict(), ema, losses, norms


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_loop_matches_a_handwritten_one(tiny, rows, tmp_path, recorder, weight):
    tiny["train"].update(steps=12, log_every=1)
    tiny["aux_loss"] = {"bending": weight}
    tiny["data"]["val_fraction"] = 0
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    raw, ema, losses, norms = by_hand(tiny, rows, np.arange(len(rows["x"])), 12)
    run_dir = tmp_path / "runs" / "tiny"
    assert distance(weights(run_dir), raw) < 1e-6
    assert distance(weights(run_dir, "ema"), ema) < 1e-6
    assert distance(weights(run_dir, "ema"), raw) > 1e-4  # the EMA is not the raw weights
    logged = recorder.of(Logged)
    np.testing.assert_allclose([event.loss for event in logged], losses, rtol=1e-5)
    np.testing.assert_allclose([event.grad_norm for event in logged], norms, rtol=1e-4)


@pytest.mark.parametrize("largest", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("missing", [None, 0, 3])  # of every five updates, from which two on
def test_an_update_is_that_of_torch_to_the_bit(largest, missing):
    """Clipping and AdamW by kept lists against torch's functions: with skipped updates, and gradients that are missing."""
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(shape, generator=generator) for shape in ((4, 3), (5,), (2, 2, 2), (1,))]
    models = [torch.nn.ParameterList([tensor.clone() for tensor in first]) for _ in range(2)]
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "fused": True}
    made = []
    for kind, model in zip((AdamW, torch.optim.AdamW), models, strict=True):
        groups = [{"params": [*model][:2], "weight_decay": 0.1}, {"params": [*model][2:], "weight_decay": 0.0}]
        made.append(kind(groups, **settings))
    ours, theirs = made
    recipe = SimpleNamespace(optim=SimpleNamespace(max_grad_norm=largest))
    environment = SimpleNamespace(accelerator=SimpleNamespace(scaler=None))
    session = SimpleNamespace(optimizer=ours, environment=environment, recipe=recipe, parameters=list(models[0]))
    for update in range(12):
        gradients = [torch.randn(tensor.shape, generator=generator) for tensor in first]
        if update in (3, 8):
            gradients[1][2] = math.nan
        for group in (*ours.param_groups, *theirs.param_groups):
            group["lr"] = 0.1 / (update + 1)
        for model in models:
            for number, (parameter, gradient) in enumerate(zip(model, gradients, strict=True)):
                without = number == 2 and missing is not None and update % 5 in (missing, missing + 1)
                parameter.grad = None if without else gradient.clone()
        wanted = torch.nn.utils.get_total_norm([p.grad for p in models[1] if p.grad is not None])
        if largest:
            torch.nn.utils.clip_grads_with_norm_(list(models[1]), largest, wanted)
        if torch.isfinite(wanted):
            theirs.step()
        norm, skipped = step_optimizer(session)
        assert torch.equal(norm.nan_to_num(-1), wanted.nan_to_num(-1)) and bool(skipped) == (update in (3, 8))
        assert all(parameter.grad is None for parameter in models[0])
        assert all(map(torch.equal, *models)), update
        for one, other in zip(*models, strict=True):
            assert ours.state[one].keys() == theirs.state[other].keys()
            assert all(torch.equal(ours.state[one][part], theirs.state[other][part]) for part in theirs.state[other])


def test_logged_losses_are_means_over_all_updates_since_the_last(tiny, rows, recorder):
    each, every_four = Recorder(), recorder
    tiny["train"]["steps"] = 10
    flowkit.train(tiny, data=rows, overrides=["train.log_every=1"], listeners=lambda: [each])
    flowkit.train(tiny, data=rows, overwrite=True, listeners=lambda: [every_four])
    losses = [event.loss for event in each.of(Logged)]
    found = [(event.step, event.loss) for event in every_four.of(Logged)]
    wanted = [(4, np.mean(losses[:4])), (8, np.mean(losses[4:8])), (10, np.mean(losses[8:]))]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("arch", ["bezier_sketch_dit", "bezier_sketch_transformer"])
def test_accumulation_changes_nothing_but_rounding(tiny, rows, tmp_path, arch):
    tiny["model"]["arch"] = arch
    found = []
    for micro in (16, 8, 4):
        tiny["run"]["name"] = f"micro-{micro}"
        flowkit.train(tiny, data=rows, overrides=[f"train.micro_batch_size={micro}", "aux_loss.bending=0.1"])
        found.append(weights(tmp_path / "runs" / f"micro-{micro}"))
    assert distance(found[1], found[0]) < 1e-5 and distance(found[2], found[0]) < 1e-5


def test_schedule_in_closed_form(tiny):
    recipe = recipe_from_dict({**tiny, "optim": {"lr": 2.0, "warmup": 0.1, "min_lr_factor": 0.25}})
    lr = lr_schedule(recipe, total_steps=101, steps_per_epoch=10)
    assert lr(0) == pytest.approx(2.0 / 11) and lr(10) == pytest.approx(2.0) and lr(11) == pytest.approx(2.0)
    assert lr(100) == pytest.approx(0.5)
    assert lr(11 + 89 // 2) == pytest.approx(0.5 + 0.75 * (1 + math.cos(math.pi * 44 / 89)), abs=1e-12)
    constant = lr_schedule(recipe_from_dict({**tiny, "optim": {"schedule": "constant", "warmup": 0}}), 100, 10)
    assert {constant(u) for u in (0, 50, 99)} == {1e-4}


def test_epochs_are_counted_in_rows(tiny, rows, recorder):
    del tiny["train"]["steps"]
    tiny["train"].update(epochs=1.5, val_every="1 epoch")  # 72 training rows, 16 a batch: 6.75 updates
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    assert recorder.of(Finished)[0].step == 7
    assert [event.step for event in recorder.of(Validated)] == [5, 7]


@pytest.mark.parametrize("change", [{}, {"model": {"dropout": 0.2}}, {"train": {"micro_batch_size": 4}}])
def test_resume_is_bit_equal(tiny, rows, tmp_path, change):
    for section, keys in change.items():
        tiny[section].update(keys)
    tiny["train"].update(steps=9, save_every=3, log_every=1, val_every=3)
    flowkit.train(tiny, data=rows)
    run_dir = tmp_path / "runs" / "tiny"
    whole = {name: weights(run_dir, name) for name in ("model", "ema", "optimizer")}
    metrics = (run_dir / "metrics.jsonl").read_text()
    # what a kill between the saves at 3 and 6 leaves: one checkpoint, metrics that run ahead of it, half a line
    for path in list_checkpoints(run_dir)[1:]:
        shutil.rmtree(path)
    (run_dir / "checkpoints" / "latest").unlink()
    (run_dir / "checkpoints" / ".step-00000006.partial").mkdir()
    (run_dir / "metrics.jsonl").write_text(metrics[: metrics.index('{"step": 6')] + '{"step": 6, "lo')
    flowkit.train(tiny, data=rows, resume=True)
    for name, tensors in whole.items():
        again = weights(run_dir, name)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[k], tensors[k]) for k in tensors), name
    untimed = ("loss", "lr", "grad_norm", "ema_decay", "val_loss", "step", "skipped")
    lines, wanted = ([{k: v for k, v in json.loads(line).items() if k in untimed} for line in text.splitlines()]
                     for text in ((run_dir / "metrics.jsonl").read_text(), metrics))  # fmt: skip
    assert lines == wanted


def test_resume_refuses_another_recipe_unless_allowed(tiny, rows, tmp_path):
    flowkit.train(tiny, data=rows)
    longer = ["train.log_every=1", "sample.num_samples=2", "train.micro_batch_size=8", "train.steps=10"]
    with pytest.raises(UserError, match=r"run\.seed: 0 -> 4; optim\.lr: 0\.001 -> 0\.01.*allow_changes=True"):
        flowkit.train(tiny, data=rows, resume=True, overrides=[*longer, "optim.lr=0.01", "run.seed=4"])
    flowkit.train(tiny, data=rows, resume=True, overrides=longer)
    assert list_checkpoints(tmp_path / "runs" / "tiny")[-1].name == "step-00000010"
    changed = [*longer[:-1], "train.steps=12", "optim.lr=0.01"]
    flowkit.train(tiny, data=rows, resume=True, allow_changes=True, overrides=changed)
    assert list_checkpoints(tmp_path / "runs" / "tiny")[-1].name == "step-00000012"


def test_existing_run_is_not_touched(tiny, rows, tmp_path):
    flowkit.train(tiny, data=rows)
    before = weights(tmp_path / "runs" / "tiny")
    with pytest.raises(UserError, match=r"resume=True.*overwrite=True.*run\.name=tiny-2"):
        flowkit.train(tiny, data=rows)
    with pytest.raises(UserError, match="mutually exclusive"):
        flowkit.train(tiny, data=rows, resume=True, overwrite=True)
    with pytest.raises(UserError, match="already trained 8 of 8"):
        flowkit.train(tiny, data=rows, resume=True)
    # a run that fails to start costs the one it was to replace nothing
    with pytest.raises(UserError, match="training rows"):
        flowkit.train(tiny, data=rows, overwrite=True, overrides=["train.batch_size=512"])
    after = weights(tmp_path / "runs" / "tiny")
    assert all(torch.equal(before[name], after[name]) for name in before)
    (tmp_path / "runs" / "thesis").mkdir()
    (tmp_path / "runs" / "thesis" / "chapter.tex").touch()
    with pytest.raises(UserError, match="is not a run"):
        flowkit.train(tiny, data=rows, overwrite=True, overrides=["run.name=thesis"])
    with pytest.raises(UserError, match=r"init_from are mutually exclusive"):
        flowkit.train(tiny, data=rows, resume=True, init_from=tmp_path / "runs" / "tiny")
    with pytest.raises(UserError, match="has no checkpoint to resume from"):
        flowkit.train(tiny, data=rows, resume=True, overrides=["run.name=new"])


def test_checkpoints_are_kept_and_linked(tiny, rows, tmp_path, recorder):
    tiny["train"].update(steps=10, save_every=2, keep_last=2, keep_every=4)
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    folder = tmp_path / "runs" / "tiny" / "checkpoints"
    saved = recorder.of(Saved)
    assert [event.step for event in saved] == [2, 4, 6, 8, 10]
    validated = {event.step: event.loss for event in recorder.of(Validated)}
    best = min(validated, key=validated.__getitem__)
    assert (folder / "best").resolve().name == f"step-{best:08d}"
    assert (folder / "latest").readlink().name == "step-00000010"  # a relative link: the run may be moved
    names = {path.name for path in folder.iterdir()}
    assert names == {"step-00000004", "step-00000008", "step-00000010", f"step-{best:08d}", "latest", "best"}
    assert [event.best for event in saved] == [
        event.step == min((s for s in validated if s <= event.step), key=validated.__getitem__) for event in saved
    ]


def test_the_best_is_one_that_was_saved(tiny, rows, tmp_path, recorder):
    tiny["train"].update(steps=9, save_every=6, val_every=1)
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    claimed = [event.step for event in recorder.of(Validated) if event.best]
    assert claimed and claimed == [event.step for event in recorder.of(Saved) if event.best]
    folder = tmp_path / "runs" / "tiny" / "checkpoints"
    assert (folder / "best").resolve().name == f"step-{claimed[-1]:08d}"
    plain = (folder / "latest" / "state.json").stat().st_mode
    assert {path.stat().st_mode for path in (folder / "latest").iterdir()} == {plain}  # safetensors would say 0600


def test_a_save_that_fails_loses_no_earlier_checkpoint(tiny, rows, tmp_path, recorder, monkeypatch):
    from flowkit.checkpoint import saving

    written = []

    def failing(tensors, path):
        written.append(path)
        if len(written) == 5:  # the second file of the second checkpoint
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")  # what a full disk is to it
        original(tensors, path)

    original = saving.save_file
    monkeypatch.setattr(saving, "save_file", failing)
    tiny["train"].update(save_every=2, keep_last=0)
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])  # it resumes
    (notice,) = recorder.of(Notice)
    assert re.search(
        r"step-00000004: .*No space left on device.*earlier checkpoints are untouched. Training continues", notice.text
    )
    run_dir = tmp_path / "runs" / "tiny"
    saved = ["step-00000002", "step-00000006", "step-00000008"]
    assert [path.name for path in list_checkpoints(run_dir)] == saved
    assert [event.path.name for event in recorder.of(Saved)] == saved
    assert not [path for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
    written.clear()  # and the same once more, with the last checkpoint
    tiny["train"].update(steps=10, save_every=9)
    with pytest.raises(UserError, match=r"No space left on device.*earlier checkpoints are untouched. Free some space"):
        flowkit.train(tiny, data=rows, resume=True)
    assert (run_dir / "checkpoints" / "latest").readlink().name == "step-00000009"
    assert flowkit.load(run_dir).sample(2, steps=1).x.shape == (2, 6, 8)
    monkeypatch.undo()
    flowkit.train(tiny, data=rows, resume=True)
    assert list_checkpoints(run_dir)[-1].name == "step-00000010"


def test_nonfinite_update_is_skipped(tiny, rows, recorder, monkeypatch):
    from flowkit.training import step as module

    seen = []
    original = module.flow_loss

    def poisoned(session, *arguments):
        loss, terms = original(session, *arguments)
        state = session.model.state_dict(), session.optimizer.state_dict()["state"], session.ema.module.state_dict()
        seen.append(copy.deepcopy(state))
        return (loss * float("nan"), terms) if len(seen) == 3 else (loss, terms)

    monkeypatch.setattr(module, "flow_loss", poisoned)
    tiny["train"].update(steps=5, log_every=1)
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    (before, moments, average), (after, moments_after, average_after) = seen[2], seen[3]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(average[name], average_after[name]) for name in average)
    for index, state in moments.items():
        assert all(torch.equal(state[part], moments_after[index][part]) for part in state)
    assert [event.skipped for event in recorder.of(Logged)] == [0, 0, 1, 1, 1]
    assert [math.isfinite(event.grad_norm) for event in recorder.of(Logged)] == [True, True, False, True, True]
    assert any((a != b).any() for a, b in zip(seen[4][0].values(), after.values(), strict=True))
    assert any((a != b).any() for a, b in zip(seen[4][2].values(), average_after.values(), strict=True))
    seen.clear()
    tiny["train"].update(log_every=5)
    flowkit.train(tiny, data=rows, overwrite=True, listeners=lambda: [recorder])
    (logged,) = [event for event in recorder.of(Logged) if event.step == 5][1:]
    assert math.isfinite(logged.loss) and math.isfinite(logged.grad_norm)  # means over the four that were made


def test_repeated_nonfinite_updates_end_the_run_and_name_the_rows(tiny, rows, tmp_path, monkeypatch):
    from flowkit.training import step as module

    original, number = module.flow_loss, 5
    x = np.asarray(rows["x"])

    def poisoned(session, batch, *arguments):
        loss, terms = original(session, batch, *arguments)
        bad = torch.from_numpy(x[number]).float()
        there = (session.normalizer.denormalize(batch.x) - bad).abs().flatten(1).amax(1) < 1e-4
        return loss + torch.where(there, torch.inf, 0.0).max(), terms

    monkeypatch.setattr(module, "flow_loss", poisoned)
    count = len(x)
    tiny["data"]["val_fraction"] = 0.0
    tiny["train"].update(
        steps=9, log_every=2, max_skipped=3, batch_size=count, micro_batch_size=count // 2, save_every=1
    )
    with pytest.raises(
        UserError, match=r"4 consecutive updates, up to 4.*not finite for rows 5;.*resume=True"
    ) as error:
        flowkit.train(tiny, data=rows)
    assert "nonfinite.json" in str(error.value)
    report = json.loads((tmp_path / "runs" / "tiny" / "nonfinite.json").read_text())
    assert report["updates"] == [1, 4] and report["rows"] == [number] and report["parameters"] == []
    assert len(report["gradients"]) > 3


def test_loss_spike_is_reported(tiny, rows, recorder, monkeypatch):
    from flowkit.events import Notice
    from flowkit.training import step as module

    original, calls = module.flow_loss, []

    def spiked(session, *arguments):
        loss, terms = original(session, *arguments)
        calls.append(loss)
        return (loss, {"loss": terms["loss"] * 100}) if len(calls) == 7 else (loss, terms)

    monkeypatch.setattr(module, "flow_loss", spiked)
    tiny["train"].update(steps=10, log_every=2)
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    (notice,) = [event.text for event in recorder.of(Notice) if "spike" in event.text]
    assert "in one of the updates 7 to 8" in notice


def test_validation_does_not_depend_on_the_caller(tiny, rows, recorder):
    again = Recorder()
    tiny["train"]["val_every"] = 2
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    flowkit.train(tiny, data=rows, overwrite=True, listeners=lambda: [again],
                  overrides=["train.micro_batch_size=4", "train.log_every=1"])  # fmt: skip
    one, two = recorder.of(Validated), again.of(Validated)
    np.testing.assert_allclose([e.loss for e in one], [e.loss for e in two], rtol=1e-4)
    # predicting zero: E|x1 - x0|^2 = var(x1) + 1 an element, here of data normalized to about 1
    assert one[0].zero_loss == pytest.approx(2.0, rel=0.1) and len({e.zero_loss for e in one}) == 1
    assert len(one[0].bins) == 5 and one[-1].loss < one[0].zero_loss
    weighted = np.mean([loss for _, _, loss in one[0].bins])
    assert weighted == pytest.approx(one[0].loss, rel=0.02)  # equal bins of stratified times


def test_a_small_validation_split_meets_several_noises_and_times_a_row(tiny, rows, monkeypatch):
    from flowkit.training import validation

    times, original = [], validation.call_model
    monkeypatch.setattr(
        validation, "call_model", lambda model, x, t, *rest: times.append(t) or original(model, x, t, *rest)
    )
    monkeypatch.setattr(validation, "MIN_EVALUATIONS", 50)
    tiny["train"]["steps"] = 1
    flowkit.train(tiny, data=rows)
    whole = torch.cat(times).reshape(2, -1)  # the weights' and their average's: 24 rows three times, for 50 are asked
    assert torch.equal(whole[0], whole[1])
    strata = (whole[0] - 0.02) / 0.96 * 72
    assert sorted(set(strata.floor().tolist())) == list(range(72))


@pytest.mark.parametrize("order", ["shuffled", "stored"])
def test_data_that_does_not_fit_is_read_ahead_to_the_same_end(tiny, rows, tmp_path, monkeypatch, order):
    from flowkit.training import batches

    flowkit.train(tiny, data=rows, overrides=[f"data.order={order}"])
    whole = weights(tmp_path / "runs" / "tiny")
    monkeypatch.setattr(batches, "_room", lambda device: 0)
    flowkit.train(tiny, data=rows, overwrite=True, overrides=[f"data.order={order}"])
    mapped = weights(tmp_path / "runs" / "tiny")
    assert all(torch.equal(whole[name], mapped[name]) for name in whole)


def test_rows_in_the_order_that_they_are_stored_in(tiny, rows, tmp_path):
    # Held-out rows aside, an update's rows follow one another: the stored rows in reverse are another training, and rows
    # that only a later update would see change nothing.
    overrides = [
        "data.order=stored",
        "data.val_fraction=0",
        "data.normalizer=none",
        "train.steps=2",
        "train.batch_size=8",
    ]
    seen = []
    for change in (slice(0, 0), slice(16, None), slice(8, 16)):
        x = rows["x"].copy()
        x[change] = x[change][::-1]
        flowkit.train(tiny, data={**rows, "x": x}, overwrite=True, overrides=overrides)
        seen.append(weights(tmp_path / "runs" / "tiny"))
    whole, later, now = seen
    assert distance(whole, later) == 0 and distance(whole, now) > 0


def test_init_from_starts_with_the_weights_and_the_normalizer_of_another_run(tiny, rows, tmp_path):
    flowkit.train(tiny, data=rows)
    first = tmp_path / "runs" / "tiny"
    moved = {**rows, "x": rows["x"] * 0.5 + 0.2}
    flowkit.train(tiny, data=moved, init_from=first, overrides=["run.name=tuned", "train.steps=1", "optim.lr=1e-9"])
    assert distance(weights(tmp_path / "runs" / "tuned"), weights(first, "ema")) < 1e-6
    sidecars = [
        json.loads((tmp_path / "runs" / run / "checkpoints/latest/model.json").read_text()) for run in ("tiny", "tuned")
    ]
    assert sidecars[0]["normalizer"] == sidecars[1]["normalizer"] and sidecars[1]["step"] == 1
    with pytest.raises(UserError, match="does not fit the architecture"):
        flowkit.train(tiny, data=rows, init_from=first, overrides=["run.name=wide", "model.embed_dim=64"])
    with pytest.raises(UserError, match=r"trained on rows of shape \[6, 8\]"):
        flowkit.train(tiny, data=sketch_rows(num_strokes=5), init_from=first, overrides=["run.name=other"])


def test_events_of_a_run(tiny, rows, recorder, tmp_path):
    tiny["train"].update(save_every=4)
    tiny["sample"].update(every=4)
    flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    kinds = [type(event) for event in recorder.events if not isinstance(event, Stepped | Doing)]
    saved = [at for at, kind in enumerate(kinds) if kind is Saved]
    part = [Logged, Validated, Sampled]
    assert [kind for kind in kinds if kind is not Saved] == [RunStarted, *part, *part, Finished]
    assert len(recorder.of(Stepped)) == 8
    part = ["saving", "validating", "sampling", ""]
    assert [event.what for event in recorder.of(Doing)] == [*part, *part, "saving"]
    # A checkpoint is written beside the training, so that later events may come before it is said to be there;
    # but it is not said before its own step's, and the last is waited for.
    assert [event.step for event in recorder.of(Saved)] == [4, 8]
    assert saved[0] > kinds.index(Sampled) and saved[1] == len(kinds) - 2
    sampled = recorder.of(Sampled)[0]
    assert (
        sampled.nfe == 4
        and sampled.image.is_file()
        and [p.title for p in sampled.previews] == ["anchor", "boat", "cat"]
    )
    assert flowkit.Dataset and recorder.closed
    started = recorder.of(RunStarted)[0]
    assert (started.train_rows, started.val_rows, started.x_shape) == (72, 24, (6, 8))
    assert started.num_parameters == sum(tensor.numel() for tensor in weights(tmp_path / "runs" / "tiny").values())


def test_previews_are_drawn_by_the_label_and_the_condition_of_one_row(rows):
    from flowkit.training.preview import _conditions

    labels = rows["class_label"][::-1]
    data = flowkit.Dataset(
        "sketch", rows["x"], labels, np.eye(3, dtype=np.float32)[labels], class_names=("a", "b", "c")
    )
    told = _conditions(data, 5)
    picked, condition = told.class_label, told.tokens
    assert picked is not None and condition is not None
    assert condition.shape == (5, 3) and condition.argmax(1).tolist() == picked.tolist()


def test_custom_module_and_tensors(tmp_path, tiny):
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x, t):
            return self.layer(torch.cat((x, t[:, None]), dim=1))

    torch.manual_seed(0)
    recipe = {**tiny, "model": {"arch": "custom"}, "train": {**tiny["train"], "steps": 300}, "optim": {"lr": 1e-2}}
    x = torch.randn(500, 3) * torch.tensor([0.1, 1.0, 2.0]) + torch.tensor([5.0, 0.0, -3.0])
    trained = flowkit.train(recipe, model=Linear(), data=x)
    samples = trained.sample(2000, seed=1, solver="rk4", steps=20).x
    np.testing.assert_allclose(samples.mean(0), [5, 0, -3], atol=0.4)
    with pytest.raises(UserError, match=r"flowkit.load"):
        flowkit.load(tmp_path / "runs" / "tiny")
    again = flowkit.load(tmp_path / "runs" / "tiny", model=Linear())
    np.testing.assert_array_equal(again.sample(5, seed=3).x, trained.sample(5, seed=3).x)


class Tied(torch.nn.Module):
    """Two layers that share one matrix."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.outer.weight = self.inner.weight
        self.dtypes = []

    def forward(self, x, t):
        hidden = self.inner(x + t[:, None])
        self.dtypes.append(hidden.dtype)
        return self.outer(hidden.relu())


def test_custom_module_changes_only_its_weights(tiny):
    recipe = {**tiny, "model": {"arch": "custom"}, "data": {"val_fraction": 0}}
    module = Tied()
    trained = flowkit.train(recipe, model=module, data=torch.randn(64, 4), overrides=["train.precision=bf16"])
    assert set(module.dtypes) == {torch.bfloat16} and trained.model is not module
    assert all(parameter.requires_grad for parameter in module.parameters())
    module.dtypes.clear()
    before = module.inner.weight.detach().clone()
    flowkit.train(recipe, model=module, data=torch.randn(64, 4), overwrite=True)  # now in fp32, with the same module
    assert set(module.dtypes) == {torch.float32} and not torch.equal(module.inner.weight, before)
    assert module.outer.weight is module.inner.weight


def test_python_data_is_checked(tiny):
    for data, says in [
        ({"y": 1}, "expected x, and optionally class_label"),
        ({"x": np.zeros((4, 2)), "class_label": np.zeros(3, int)}, "class_label has 3 rows and x has 4"),
        ({"x": np.full((4, 2), np.nan)}, "holds NaN"),
        ({"x": np.zeros((4, 2)), "class_label": np.array([0, 1, 2, -1])}, "expected integers >= 0"),
        ({"x": np.zeros((4, 2)), "class_label": np.arange(4), "class_names": ["a"]}, "goes up to 3"),
        ({"x": np.zeros((4, 2)), "kind": "sketch"}, r"expected \(N, S, 8\)"),
        ({"x": np.zeros((4, 2))}, "requires|does not fit array data"),
    ]:
        with pytest.raises(UserError, match=says):
            flowkit.train({**tiny, "train": {"steps": 1, "batch_size": 1}}, data=data)


def test_a_batch_larger_than_the_data(tiny, rows):
    with pytest.raises(UserError, match=r"train\.batch_size: 128, but .*72 training rows"):
        flowkit.train(tiny, data=rows, overrides=["train.batch_size=128"])


def test_run_stops_before_max_hours_and_resumes(tiny, tmp_path, monkeypatch, recorder):
    from flowkit.training import train as module

    ticks = iter(range(1000))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    tiny["train"].update(
        steps=200, max_hours=10 / 3600
    )  # ten ticks of that clock, one of which is reserved for the save
    outcome = module.train(recipe_from_dict(tiny), listeners=lambda: [recorder])
    assert outcome.reason == "out of time" and outcome.signal is None
    run_dir = tmp_path / "runs" / "tiny"
    (checkpoint,) = list_checkpoints(run_dir)
    step = int(checkpoint.name.removeprefix("step-"))
    assert 0 < step < 20
    assert [(one.step, one.reason) for one in recorder.of(Finished)] == [(step, "out of time")]
    assert inspect(run_dir)["run"]["ended"] == {"step": step, "reason": "out of time"}
    monkeypatch.undo()
    tiny["train"].update(steps=20, max_hours=2.0)
    assert module.train(recipe_from_dict(tiny), resume=True).reason == "done"
    assert inspect(run_dir)["run"]["ended"] == {"step": 20, "reason": "done"}


def test_run_records_how_it_ended_until_it_resumes(tiny, tmp_path):
    from flowkit.training import train as module

    run_dir, recorder = tmp_path / "runs" / "tiny", Recorder()
    tiny["train"]["steps"] = 10**5

    class Stops(Recorder):
        def __call__(self, event):
            if isinstance(event, Stepped) and event.step == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            if isinstance(event, Stepped) and event.step == self.at - 1:
                self.before = inspect(run_dir)["run"]["ended"]
            recorder(event)

    for at, resume in ((3, False), (7, True)):
        stops = Stops()
        stops.at = at
        outcome = module.train(recipe_from_dict(tiny), resume=resume, listeners=lambda s=stops: [s])
        assert outcome.reason == "interrupted" and outcome.signal == signal.SIGTERM
        assert stops.before is None
        assert inspect(run_dir)["run"]["ended"] == {"step": at, "reason": "interrupted"}
    assert [(one.step, one.reason) for one in recorder.of(Finished)] == [(3, "interrupted"), (7, "interrupted")]


def test_resume_auto_starts_resumes_and_ends(tiny, tmp_path):
    from flowkit.training.train import train

    run_dir = tmp_path / "runs" / "tiny"
    tiny["train"]["steps"] = 2
    assert train(recipe_from_dict(tiny), resume="auto").reason == "done"
    assert train(recipe_from_dict(tiny), resume="auto").reason == "already done"
    tiny["train"]["steps"] = 4
    before = (run_dir / "checkpoints" / "step-00000002" / "model.safetensors").stat().st_mtime_ns
    assert train(recipe_from_dict(tiny), resume="auto").reason == "done"
    assert [path.name for path in list_checkpoints(run_dir)] == ["step-00000002", "step-00000004"]
    assert (run_dir / "checkpoints" / "step-00000002" / "model.safetensors").stat().st_mtime_ns == before
    shutil.rmtree(run_dir / "checkpoints")  # as if it had been killed before its first
    assert train(recipe_from_dict(tiny), resume="auto").reason == "done"
    other = tmp_path / "runs" / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not a run"):
        train(recipe_from_dict(tiny, ["run.name=letters"]), resume="auto")
    assert (other / "letter.txt").exists()


@pytest.mark.parametrize("name", ["model", "ema", "optimizer"])
def test_flipped_bit_in_a_checkpoint_is_detected(tiny, rows, tmp_path, name):
    tiny["train"].update(steps=4, save_every=2)
    flowkit.train(tiny, data=rows)
    run_dir = tmp_path / "runs" / "tiny"
    damaged = run_dir / "checkpoints" / "step-00000004" / f"{name}.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 0x10
    damaged.write_bytes(content)
    tiny["train"]["steps"] = 5
    if name == "ema":
        with pytest.raises(UserError, match="checksum mismatch"):
            flowkit.load(damaged.parent)  # what is named outright is not replaced
        older = flowkit.load(run_dir)
        assert older.info["step"] == 2 and "checksum mismatch" in older.files.notice
        assert flowkit.load(run_dir, weights="raw").info["step"] == 4
    recorder = Recorder()
    flowkit.train(tiny, data=rows, resume=True, listeners=lambda: [recorder])
    assert recorder.of(RunStarted)[0].start_step == 2
    assert [f"{name}.safetensors: checksum mismatch" in one.text for one in recorder.of(Notice)] == [True]
    assert [path.name for path in list_checkpoints(run_dir)] == ["step-00000002", "step-00000004", "step-00000005"]


def test_changed_json_in_a_checkpoint_is_detected(tiny, rows, tmp_path):
    tiny["train"]["steps"] = 2
    flowkit.train(tiny, data=rows)
    checkpoint = tmp_path / "runs" / "tiny" / "checkpoints" / "step-00000002"
    state = (checkpoint / "state.json").read_text()
    (checkpoint / "state.json").write_text(state.replace('"step": 2', '"step": 3'))
    tiny["train"]["steps"] = 5
    with pytest.raises(UserError, match=r"state\.json: checksum mismatch"):
        flowkit.train(tiny, data=rows, resume=True)


@pytest.mark.parametrize(
    ("threads", "set_outside", "used"), [("auto", False, 1), (3, False, 3), (3, True, 3), ("auto", True, 2)]
)
def test_the_threads_of_a_run_are_the_recipes_and_are_restored(tmp_path, tiny, monkeypatch, threads, set_outside, used):
    """A small network takes one, unless OMP_NUM_THREADS says otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2") if set_outside else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    class Looks(Recorder):
        def __call__(self, event):
            if isinstance(event, Stepped):
                seen.append(torch.get_num_threads())

    try:
        tiny["run"]["threads"] = threads
        flowkit.train({**tiny, "train": {**tiny["train"], "steps": 1}}, data=sketch_rows(), listeners=lambda: [Looks()])
        assert seen == [used] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
