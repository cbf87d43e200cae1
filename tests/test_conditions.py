"""Conditions as one value, against plain indexing; masks and attention against plain PyTorch; what is dropped, by kind."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import flowkit
from flowkit.cli import app
from flowkit.components import choose
from flowkit.conditions import Conditions
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.errors import UserError
from flowkit.evaluate import evaluate_checkpoint
from flowkit.flow import mean_flow
from flowkit.flow.guidance import guided
from flowkit.flow.objective import FlowObjective
from flowkit.inspect.dataset import data_report
from flowkit.models import create_model
from flowkit.models.calls import call_model
from flowkit.models.conditioning import condition_memory
from flowkit.models.layers import CrossAttention
from flowkit.sampling.conditioning import resolve_condition
from flowkit.sampling.draw import as_network
from flowkit.sampling.likelihood import likelihood_figures
from flowkit.training import session

GIVEN = {
    "nothing": {}, "label": {"class_label": torch.tensor([3, 1, 2, 0])}, "vector": {"tokens": torch.arange(8.0).view(4, 2)},
    "tokens": {"tokens": torch.arange(24.0).view(4, 3, 2), "mask": torch.arange(12).view(4, 3) % 5 > 0},
}  # fmt: skip
GIVEN["both"] = GIVEN["label"] | GIVEN["tokens"]
DROPPED = {"none": None, "rows": torch.arange(4) % 2 > 0, "kinds": torch.arange(16).view(4, 4) % 3 > 0}
each = pytest.mark.parametrize(("given", "dropped"), [*itertools.product(GIVEN, DROPPED)])


def made(given: str, dropped: str) -> Conditions:
    return Conditions(**GIVEN[given], dropped=None if given == "nothing" else DROPPED[dropped])


def same(found: Conditions, wanted: dict) -> None:
    for name in ("class_label", "tokens", "mask", "dropped"):
        value, expected = getattr(found, name), wanted.get(name)
        assert (value is None) == (expected is None), name
        assert value is None or (value.dtype == expected.dtype and torch.equal(value, expected)), name


@each
def test_slicing_conditions_slices_every_tensor(given, dropped):
    whole = made(given, dropped)
    tensors = {name: value for name, value in vars(whole).items() if value is not None}
    rows = torch.tensor([2, 0, 2])
    same(whole.slice(1, 3), {name: value[1:3] for name, value in tensors.items()})
    same(whole.take(rows), {name: value[[2, 0, 2]] for name, value in tensors.items()})
    found = whole.to(torch.device("cpu"), torch.float64)
    same(found, {name: value.double() if name == "tokens" else value for name, value in tensors.items()})
    assert whole.kinds == {"nothing": (), "label": ("class",), "both": ("class", "condition")}.get(
        given, ("condition",)
    )


@pytest.mark.parametrize(
    ("given", "dropped"), [*itertools.product([name for name in GIVEN if name != "nothing"], DROPPED)]
)
def test_dropped_and_doubled(given, dropped):
    whole, before = made(given, dropped), DROPPED[dropped]
    tensors = GIVEN[given]
    same(whole.drop(), tensors | {"dropped": torch.ones(4, 4) > 0 if dropped == "kinds" else torch.ones(4) > 0})
    for more in (
        torch.tensor([True, False, False, True]),
        torch.tensor([[True, False, True, False], [False, True, True, False]] * 2),
    ):
        by_kind = torch.zeros(4, 4, dtype=torch.bool)
        for one in (more, before):
            if one is not None:
                by_kind = by_kind | (one[:, None] if one.ndim == 1 else one)
        found = whole.drop(more)
        assert found.dropped is not None
        wide = found.dropped.ndim == 2
        assert wide == (more.ndim == 2 or dropped == "kinds")
        same(found, tensors | {"dropped": by_kind if wide else by_kind[:, 0]})
        told = [["class", "condition"].index(kind) for kind in found.kinds]
        assert found.nothing().tolist() == [all(row[kind] for kind in told) for row in by_kind.long().tolist()]
    halves = whole.doubled()
    first = torch.zeros(4) > 0 if before is None else before
    same(halves.slice(0, 4), tensors | {"dropped": first})
    same(halves.slice(4, 8), tensors | {"dropped": torch.ones_like(first)})


def test_no_conditions_nothing_dropped():
    nothing = Conditions()
    assert nothing.drop() == nothing == nothing.drop(torch.ones(3) > 0) and not nothing.kinds


# Networks. Rows have 3, 1, 0 and 4 of four tokens.
MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
SKETCH = {"num_strokes": 6, "embed_dim": 16, "num_layers": 2, "num_heads": 2, "clip_dim": 5}
NETWORKS = {
    "mlp": {"input_dim": 6, "hidden_dim": 16, "condition_dim": 5},
    "dit": {"input_dim": 8, "hidden_dim": 24, "num_heads": 3, "num_tokens": 4, "condition_dim": 5},
    "selu_mlp": {"input_dim": 2, "hidden_dim": 16, "condition_dim": 5},
    "residual_mlp": {"input_dim": 2, "hidden_dim": 16, "condition_dim": 5},
    "bezier_sketch_dit": SKETCH,
    "bezier_sketch_transformer": SKETCH,
}
ATTENDING = {
    "dit that attends": ("dit", NETWORKS["dit"] | {"attend_conditions": True}),
    "dit of one token that attends": ("dit", NETWORKS["dit"] | {"attend_conditions": True, "num_tokens": 1}),
    "bezier_sketch_dit that attends": ("bezier_sketch_dit", SKETCH | {"attend_conditions": True}),
}
EVERY = {arch: (arch, sizes) for arch, sizes in NETWORKS.items()} | ATTENDING
every_network = pytest.mark.parametrize("network", EVERY)


def awake(network: str, **more) -> nn.Module:
    """With nonzero weights: many are initialized to 0."""
    arch, sizes = EVERY[network]
    torch.manual_seed(0)
    model = create_model(arch, **sizes, num_classes=3, **more).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def inputs(network: str):
    """(x, t), label, tokens."""
    arch, sizes = EVERY[network]
    generator = torch.Generator().manual_seed(1)
    shape = (6, 8) if "sketch" in arch else (sizes["input_dim"],)
    x, tokens = (torch.randn(4, *size, dtype=torch.float64, generator=generator) for size in (shape, (4, 5)))
    return (x, torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)), torch.tensor([0, 1, 2, 1]), tokens


@every_network
def test_padding_has_no_influence_and_no_gradient(network):
    model, (at, label, tokens) = awake(network), inputs(network)
    tokens.requires_grad_()
    found = model(*at, label, tokens, condition_mask=MASK)
    (gradient,) = torch.autograd.grad(found.square().sum(), tokens)
    assert gradient[~MASK].abs().max() == 0
    assert (gradient[MASK].abs().amax(1) > 0).all()
    for padding in (1e6, float("nan"), -float("inf")):
        other = torch.where(MASK[..., None], tokens.detach(), padding)
        assert torch.equal(model(*at, label, other, condition_mask=MASK), found), padding


@every_network
def test_padding_does_not_change_a_row(network):
    """Each row by itself with its present tokens only and no mask. A row without tokens has no condition."""
    model, ((x, t), label, tokens) = awake(network), inputs(network)
    with torch.no_grad():
        found = model(x, t, label, tokens, condition_mask=MASK)
        all_there = model(x, t, label, tokens)
        for row in range(4):
            one = slice(row, row + 1)
            own = tokens[one, MASK[row]] if MASK[row].any() else None
            torch.testing.assert_close(found[one], model(x[one], t[one], label[one], own))
            assert torch.allclose(found[row], all_there[row]) == bool(MASK[row].all())
        dropped = model(x, t, label, tokens, torch.tensor([[False, True]] * 4), condition_mask=MASK)
        torch.testing.assert_close(dropped, model(x, t, label))
        torch.testing.assert_close(dropped[2], found[2])
        assert (dropped - found)[[0, 1, 3]].flatten(1).abs().amax(1).min() > 1e-3


def by_hand(layer: CrossAttention, h, tokens, null):
    """Of one row h (T, D), tokens (p, D), null (D,): the softmax spelled out, head by head."""
    attention, memory = layer.attention, torch.cat((tokens, null[None]))
    x = F.layer_norm(h, h.shape[-1:], layer.norm.weight, layer.norm.bias)
    query, (key, value) = x @ attention.query.weight.T, (memory @ attention.key_value.weight.T).chunk(2, 1)
    heads = []
    for q, k, v in zip(*(part.chunk(attention.num_heads, 1) for part in (query, key, value)), strict=True):
        if attention.qk_norm:
            q, k = (part / (part.square().mean(1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
        weight = (q @ k.T / q.shape[1] ** 0.5).exp()
        heads.append(weight / weight.sum(1, keepdim=True) @ v)
    return h + torch.cat(heads, 1) @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("hidden", [None, [False, True, False, False]])
@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_is_softmax_over_present_tokens(qk_norm, hidden, mask):
    torch.manual_seed(0)
    layer = CrossAttention(12, 3, 0.0, qk_norm=qk_norm).double()
    h, tokens, null = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 7, 12), (4, 4, 12), (12,)))
    memory = condition_memory(tokens, null, None if hidden is None else torch.tensor(hidden), mask)
    assert torch.equal(layer(h, memory), h)  # at first
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    for row, found in enumerate(layer(h, memory)):
        seen = torch.ones(4, dtype=torch.bool) if mask is None else mask[row]
        seen = seen & ~torch.tensor(bool(hidden and hidden[row]))
        torch.testing.assert_close(found, by_hand(layer, h[row], tokens[row, seen], null))


@pytest.mark.parametrize("network", ATTENDING)
def test_cross_attention_is_added_to_the_base_network(network):
    """Its parameters are besides the others, and the network is the one without them until they have learned something."""
    arch, sizes = EVERY[network]
    model, (at, label, tokens) = awake(network), inputs(network)
    plain = create_model(arch, **sizes | {"attend_conditions": False}, num_classes=3).double().eval()
    extra = model.state_dict().keys() - plain.state_dict().keys()
    assert extra and all(".cross." in name for name in extra) and plain.state_dict().keys() <= model.state_dict().keys()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name not in extra})
    assert (model(*at, label, tokens) - plain(*at, label, tokens)).abs().max() > 0.01
    first = create_model(arch, **sizes, num_classes=3).double()
    silent = [value for name, value in first.state_dict().items() if ".cross.attention.out." in name]
    assert len(silent) == 2 * len(model.blocks) and all(value.abs().max() == 0 for value in silent)
    for name, value in model.named_parameters():
        if ".cross.attention.out." in name:
            nn.init.zeros_(value)
    assert torch.equal(model(*at, label, tokens), plain(*at, label, tokens))


@pytest.mark.parametrize("network", ATTENDING)
def test_every_parameter_is_in_every_graph(network):
    """For any conditions, because distributed training waits for all gradients."""
    model, (at, label, tokens) = awake(network), inputs(network)
    for given in ((label, tokens), (label,), (), (label, tokens, torch.ones(4, dtype=torch.bool))):
        model.zero_grad(set_to_none=True)
        model(*at, *given).square().sum().backward()
        assert not [name for name, value in model.named_parameters() if value.grad is None]


def test_attention_to_no_conditions_is_refused():
    for arch in ("dit", "bezier_sketch_dit"):
        with pytest.raises(
            UserError, match=r"attend_conditions needs data with conditions.*set model.attend_conditions = false"
        ):
            create_model(arch, attend_conditions=True)


@every_network
def test_network_receives_all_conditions(network):
    """As the loop and the sampler call it; and guided, on twice the rows."""
    model, ((x, t), label, tokens) = awake(network), inputs(network)
    told = Conditions(label, tokens, MASK, torch.tensor([True, False, False, False]))
    with torch.no_grad():
        wanted = model(x, t, label, tokens, told.dropped, condition_mask=MASK)
        assert torch.equal(call_model(model, x, t, told), wanted)
        assert torch.equal(as_network(model)(x, t, told), wanted)
        null = model(x, t)
        velocity = guided(as_network(model), FlowObjective(choose("path", "linear")), told, 3.0)
        torch.testing.assert_close(velocity(x, t), null + 3 * (wanted - null))
        rows = torch.tensor([3, 1])
        torch.testing.assert_close(velocity.take(rows)(x[rows], t[rows]), (null + 3 * (wanted - null))[rows])
        spans = awake(network, two_times=True)
        wanted = spans(x, t, label, tokens, None, t / 2, MASK)
        assert torch.equal(call_model(spans, x, t, Conditions(label, tokens, MASK), t / 2), wanted)
        assert torch.equal(call_model(spans.forward, x, t, Conditions(label, tokens, MASK), t / 2), wanted)


def test_a_network_that_takes_no_mask_is_not_given_padding():
    class Own(nn.Module):
        def forward(self, x, t, label, features, drop):
            return x * features.mean((1, 2))[:, None]

    class Wrapped(Own):
        def forward(self, *given, **named):
            return super().forward(*given) * len(named)

    told = Conditions(None, torch.ones(4, 4, 5))
    masked = Conditions(None, torch.ones(4, 4, 5), MASK)
    assert torch.equal(call_model(Wrapped(), torch.ones(4, 2), torch.ones(4), masked), torch.ones(4, 2))
    assert torch.equal(call_model(Own(), torch.ones(4, 2), torch.ones(4), told), torch.ones(4, 2))
    with pytest.raises(UserError, match=r"Own.forward takes no condition_mask"):
        call_model(Own(), torch.ones(4, 2), torch.ones(4), masked)


# Data, training and sampling with tokens of which some are padding.


@pytest.fixture
def told(tiny, rows) -> dict:
    """Sketches with two to four tokens each; the padding values are large."""
    rng = np.random.default_rng(1)
    mask = np.arange(4) < rng.integers(2, 5, len(rows["x"]))[:, None]
    tokens = padded(rng.standard_normal((len(mask), 4, 5)), mask, 2)
    tiny["model"]["attend_conditions"] = True
    tiny["optim"] = {"lr": 0.02, "warmup": 0}
    tiny["train"].update(steps=4, save_every=2, batch_size=32, val_every=2)
    return rows | {"condition": tokens, "condition_mask": mask}


def padded(tokens: np.ndarray, mask: np.ndarray, seed: int) -> np.ndarray:
    """With other, larger padding values."""
    padding = 10 * np.random.default_rng(seed).standard_normal(tokens.shape)
    return np.where(mask[..., None], tokens, padding).astype(np.float32)


def split_in_two(told: dict) -> Dataset:
    return Dataset("sketch", told["x"], told["class_label"], told["condition"], np.arange(96).astype(np.uint8) % 2,
                   told["class_names"], condition_mask=told["condition_mask"])  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("sections", [
    {}, {"train": {"micro_batch_size": 8, "precision": "bf16"}, "flow": {"cond_drop": {"all": 0.1, "condition": 0.4}}},
    {"flow": {"objective": {"name": "mean_flow", "omega": 2.0}}}, {"flow": {"coupling": "c2ot"}},
], ids=str)  # fmt: skip
def test_padding_changes_no_run_and_no_sample_and_a_resumed_run_is_the_same(tiny, told, tmp_path, sections):
    for name, section in sections.items():
        tiny.setdefault(name, {}).update(section)
    tiny["sample"]["every"] = 4
    model = flowkit.train(tiny, data=told)
    run = tmp_path / "runs" / "tiny"
    made = weights(run / "checkpoints" / "step-00000004")
    previews = read_dataset(run / "samples" / "step-00000004" / "samples.safetensors")
    assert previews.condition_mask is not None and not previews.condition_mask.all()
    assert any(
        value.abs().max() > 0 for name, value in model.model.named_parameters() if ".cross.attention.out" in name
    )
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    flowkit.train(tiny, data=told, resume=True)
    assert weights(run / "checkpoints" / "step-00000004") == made and len(made) > 2
    other = told | {"condition": padded(told["condition"], told["condition_mask"], 3)}
    flowkit.train(tiny, data=other, overwrite=True)
    assert weights(run / "checkpoints" / "step-00000004") == made
    tokens, mask = told["condition"][:3], told["condition_mask"][:3]
    scale = {} if "objective" in sections.get("flow", {}) else {"guidance_scale": 2.0}
    drawn = model.sample(3, class_label=[0, 1, 2], condition=tokens, condition_mask=mask, batch_size=2, **scale)
    same = model.sample(3, class_label=[0, 1, 2], condition=other["condition"][:3], condition_mask=mask, **scale)
    np.testing.assert_allclose(drawn.x, same.x, atol=1e-5)
    assert drawn.condition_mask is not None and (drawn.condition_mask == mask).all()
    assert np.abs(model.sample(3, class_label=[0, 1, 2], condition=tokens, **scale).x - drawn.x).max() > 1e-3


def test_files_keep_the_mask(told, tmp_path):
    data = Dataset("sketch", told["x"], condition=told["condition"], condition_mask=told["condition_mask"])
    few = np.array([5, 0, 7])
    for path, rows, wanted in (("all", None, slice(None)), ("few", few, few)):
        found = read_dataset(write_dataset(tmp_path / path, data, rows))
        assert found.condition_mask is not None and found.condition_mask.dtype == bool
        np.testing.assert_array_equal(found.condition_mask, told["condition_mask"][wanted])
        np.testing.assert_array_equal(found.condition, told["condition"][wanted])
    assert data_report(tmp_path / "few")["condition_tokens"] == told["condition_mask"][few].sum() / 3
    part = data.take(few)
    np.testing.assert_array_equal(part.condition_mask, told["condition_mask"][few])
    for of, wanted in ((data, told["condition_mask"][few]), (part, None)):
        condition, mask = of.tokens(few if of is data else np.array([1, 2]))
        np.testing.assert_array_equal(mask, told["condition_mask"][[0, 7]] if wanted is None else wanted)
        np.testing.assert_array_equal(
            condition, told["condition"][[0, 7]] if wanted is None else told["condition"][few]
        )
    plain = write_dataset(tmp_path / "plain", Dataset("sketch", told["x"], condition=told["condition"]))
    assert "condition_mask" not in load_file(plain) and read_dataset(plain).condition_mask is None
    tensors = {name: torch.from_numpy(told[name]) for name in ("x", "condition", "condition_mask")}
    for bad in (
        {"condition_mask": tensors["condition_mask"].float()}, {"condition_mask": tensors["condition_mask"][:, :3]},
        {"condition_mask": tensors["condition_mask"][..., None]}, {"condition": tensors["condition"][:, 0]}, {"condition": None},
    ):  # fmt: skip
        save_file({name: one.contiguous() for name, one in (tensors | bad).items() if one is not None}, plain)
        with pytest.raises(UserError, match=r"condition_mask.*(expected BOOL|has shape .*expected \(N, P\))"):
            read_dataset(plain)


def test_masks_that_do_not_fit_are_refused(tiny, told):
    for bad in (
        told["condition_mask"].astype(np.float32), told["condition_mask"][:, :3], told["condition_mask"][..., None]
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"condition_mask: expected bool of shape \(N, P\)"):
            flowkit.train(tiny, data=told | {"condition_mask": bad})
    with pytest.raises(UserError, match=r"condition_mask: expected bool of shape \(N, P\)"):
        flowkit.train(tiny, data={name: value for name, value in told.items() if name != "condition"})
    shape, mask = (4, 5), torch.ones(4, dtype=torch.bool)
    tokens = torch.zeros(2, 4, 5)
    for bad in (mask.float(), mask[:3], mask.expand(3, 4)):
        with pytest.raises(UserError, match=r"condition_mask: is .* expected \(4,\) or \(2, 4\) bool"):
            resolve_condition(tokens, bad, 2, shape)
    with pytest.raises(UserError, match=r"condition_mask: needs a condition"):
        resolve_condition(None, mask, 2, shape)
    with pytest.raises(UserError, match=r"condition_mask: .* conditions are vectors"):
        resolve_condition(tokens[:, 0], mask, 2, (5,))
    assert resolve_condition(tokens, mask, 2, shape)[1] is None  # nothing is padding
    one = resolve_condition(tokens, torch.arange(4) < 3, 2, shape)[1]
    assert one is not None and one.tolist() == [[True, True, True, False]] * 2


def test_custom_module_receives_the_mask_if_it_accepts_one(tiny, told):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(5, 8), []

        def forward(self, x, t, label, tokens, drop, condition_mask):
            self.seen.append((condition_mask, drop))
            return x + self.layer(tokens.masked_fill(~condition_mask[..., None], 0).mean(1))[:, None]

    class Simple(nn.Module):
        def forward(self, x, t, label, tokens, drop):
            return x

    tiny["model"] = {"arch": "custom"}
    tiny["flow"] = {"cond_drop": {"class": 0.5}}
    with pytest.raises(UserError, match=r"Simple.forward takes no condition_mask"):
        flowkit.train(tiny, data=told, model=Simple())
    own = Own()
    flowkit.train(tiny, data=told, model=own)
    masks, drops = zip(*own.seen, strict=True)
    assert all(mask.shape[1:] == (4,) and not mask.all() for mask in masks)
    assert {None if drop is None else drop.ndim for drop in drops} == {None, 2}  # validation drops nothing


def test_pairing_ignores_padding_values(told):
    from flowkit.training.batches import Rows
    from flowkit.training.pairing import pair_blocks

    x0, x1 = torch.randn(2, 96, 3, generator=torch.Generator().manual_seed(0))
    pairs = {}
    for seed in (None, 3, 4):
        tokens = padded(told["condition"], told["condition_mask"], seed or 0) if seed else told["condition"] * 0
        conditions = Conditions.of_arrays(tokens=tokens, mask=told["condition_mask"])
        coupling = choose("coupling", {"name": "c2ot", "weight": 0.1})
        pairs[seed] = pair_blocks(coupling, 48, x0, Rows(x1, conditions), lambda block: block)
    assert torch.equal(pairs[3], pairs[4]) and not torch.equal(pairs[3], pairs[None])


def test_the_command_takes_the_mask(tiny, told, tmp_path):
    flowkit.train(tiny, data=told)
    tensors = {name: torch.from_numpy(told[name][0]) for name in ("condition", "condition_mask")}
    out = {}
    for seed, name in enumerate(("one", "two")):
        tensors["condition"] = torch.from_numpy(padded(told["condition"][0], told["condition_mask"][0], seed))
        save_file(tensors, tmp_path / name)
        words = ["sample", "--ckpt", str(tmp_path / "runs" / "tiny"), "--condition", str(tmp_path / name), "-n", "2"]
        found = CliRunner().invoke(app, [*words, "--out", str(tmp_path / f"out-{name}")])
        assert found.exit_code == 0, found.output
        out[name] = read_dataset(tmp_path / f"out-{name}")
    np.testing.assert_array_equal(out["one"].x, out["two"].x)
    assert not told["condition_mask"][0].all() and (out["one"].condition_mask == told["condition_mask"][0]).all()


def test_validation_and_likelihood_see_the_mask(tiny, told):
    model = flowkit.train(tiny, data=told)
    few = slice(0, 3)
    given = {"class_label": [0, 1, 2], "condition_mask": told["condition_mask"][few], "solver": "rk4", "steps": 4}
    tokens = [padded(told["condition"][few], given["condition_mask"], seed) for seed in (3, 4)]
    likely = [model.log_likelihood(told["x"][few], condition=one, **given).log_p for one in tokens]
    np.testing.assert_array_equal(*likely)
    data = split_in_two(told)
    found = likelihood_figures(model, data, 8)
    data.condition = padded(told["condition"], told["condition_mask"], 3)
    assert likelihood_figures(model, data, 8) == found


def test_rows_with_an_interval_keep_their_own_conditions(tiny, told, monkeypatch):
    """MeanFlow asks the network once more, of some rows of the batch."""
    asked = []
    monkeypatch.setattr(mean_flow, "mean_flow_target", lambda u, x, t, span, v, along: u(x, t, span))
    call = session.call_model
    monkeypatch.setattr(session, "call_model", lambda *given: asked.append(given[1:4]) or call(*given))
    tiny["train"].update(steps=1, val_every="never")
    tiny["flow"] = {"objective": {"name": "mean_flow", "ratio": 0.4, "along": "pair"}}
    flowkit.train(tiny, data=told)
    (some, times, few), (batch, _, every) = asked
    assert 5 < len(some) < 25 and len(times) == len(some) and len(batch) == 32
    rows = (some[:, None] - batch).abs().flatten(2).amax(2).argmin(1)
    assert len(set(rows.tolist())) == len(rows)
    same(few, vars(every.take(rows)))


def test_evaluation_samples_with_the_mask(tiny, told, tmp_path):
    tiny["train"].update(steps=2, val_every="never")
    flowkit.train(tiny, data=told)
    found = []
    for seed in (3, 4):
        data = split_in_two(told)
        data.condition = padded(told["condition"], told["condition_mask"], seed)
        file = write_dataset(tmp_path / f"data-{seed}", data)
        out = tmp_path / f"out-{seed}"
        evaluate_checkpoint(tmp_path / "runs" / "tiny", data=file, num_samples=30, out=out, steps=1)
        found.append(read_dataset(out / "samples.safetensors"))
    np.testing.assert_array_equal(found[0].x, found[1].x)
    assert found[0].condition_mask is not None and not found[0].condition_mask.all()
