"""The networks for vectors: exact sizes, their formulas in numpy, who gets gradients, conditions, modes of running."""

from fnmatch import fnmatch
from math import erf

import numpy as np
import pytest
import torch
from torch import nn

from flowkit.errors import UserError
from flowkit.flow.guidance import guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import get_path
from flowkit.flow.solvers import integrate
from flowkit.models import create_model

D, CLASSES, WIDTH, PATCHES = 24, 5, 12, 7
NETWORKS = {
    "mlp": ("mlp", dict(input_dim=D, hidden_dim=16, num_layers=4)),
    "dit": ("dit", dict(input_dim=D, hidden_dim=16, num_layers=2, num_heads=4)),
    "dit-6": ("dit", dict(input_dim=D, hidden_dim=16, num_layers=2, num_heads=4, num_tokens=6)),
}
CONDITIONS = {
    "none": {},
    "class": dict(num_classes=CLASSES),
    "pooled": dict(condition_dim=WIDTH),
    "class+patches": dict(num_classes=CLASSES, condition_dim=WIDTH),
}
each = pytest.mark.parametrize("network", NETWORKS)
each_condition = pytest.mark.parametrize("kind", CONDITIONS)
conditioned = pytest.mark.parametrize("kind", [kind for kind in CONDITIONS if kind != "none"])


def build(network, kind="none", *, awake=False, **args):
    """A small network; `awake` moves every parameter away from its initial value, zeros included."""
    torch.manual_seed(0)
    arch, sizes = NETWORKS[network]
    model = create_model(arch, **{**sizes, **CONDITIONS[kind], **args})
    if awake:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(kind, rows=4):
    """x, t, class_label, condition as they are called."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    label = torch.randint(CLASSES, (rows,), generator=generator) if "class" in kind else None
    condition = draw(rows, WIDTH) if "pooled" in kind else draw(rows, PATCHES, WIDTH) if "patches" in kind else None
    return draw(rows, D), torch.rand(rows, generator=generator), label, condition


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


# ---- sizes ----


def test_the_published_numbers_of_parameters():
    assert size(create_model("mlp")) == 920_064
    assert size(create_model("dit")) == 9_309_952
    assert size(create_model("dit", num_tokens=1, dropout=0.1)) == 9_309_952


def test_the_parts_of_the_dit_are_as_large_as_published():
    model = create_model("dit")
    block = model.blocks[0]
    assert {name: size(part) for name, part in model.named_children() if name != "blocks"} == {
        "time": 246_528, "token_in": 393_600, "out_modulation": 295_680, "token_out": 394_240,
    }  # fmt: skip
    assert (size(block.attention), size(block.mlp), size(block.modulation)) == (591_360, 1_181_568, 887_040)
    assert len(model.blocks) == 3 and size(block) == 2_659_968


@pytest.mark.parametrize(
    ("dim", "width", "layers", "tokens", "classes", "condition"),
    [(1024, 384, 3, 16, 0, 0), (256, 64, 2, 1, 7, 0), (96, 40, 4, 8, 0, 33), (30, 16, 2, 3, 4, 5)],
)
def test_number_of_parameters(dim, width, layers, tokens, classes, condition):
    """Layer by layer, weights + biases."""
    w, token = width, dim // tokens
    common = (256 * w + w) + (w * w + w)  # time
    common += ((classes + 1) * 128 + (128 * w + w) + (w * w + w)) if classes else 0  # one row is the null
    common += (2 * condition + (condition * w + w) + w) if condition else 0  # norm, projection, null
    mlp = common + ((dim + w) * w + w) + (layers - 2) * (w * w + w) + (w * dim + dim)
    block = (3 * w * w + 3 * w) + (w * w + w) + (w * 4 * w + 4 * w) + (4 * w * w + w) + (w * 6 * w + 6 * w)
    dit = common + (token * w + w) + layers * block + (w * 2 * w + 2 * w) + (w * token + token)
    dit += tokens * w if tokens > 1 else 0  # positions
    args = dict(input_dim=dim, hidden_dim=w, num_layers=layers, num_classes=classes, condition_dim=condition)
    assert size(create_model("mlp", **args)) == mlp
    assert size(create_model("dit", num_heads=2, num_tokens=tokens, **args)) == dit


# ---- the formulas, in numpy and float64 ----


def weights_of(model):
    weights = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    return weights | {"frequencies": model.time.frequencies.numpy()}  # in float32 they are rounded


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(erf)(x / 2**0.5))


def norm(x, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def embedded(w, t, label, condition):
    """Time, class and features as one vector, sample by sample; a None is the null."""
    np.testing.assert_allclose(w["frequencies"], 1000 * 10_000 ** (-np.arange(128) / 128), rtol=1e-5)
    angles = t[:, None] * w["frequencies"]
    c = linear(silu(linear(np.concatenate((np.cos(angles), np.sin(angles)), -1), w, "time.mlp.0")), w, "time.mlp.2")
    if "class_embedding.table.weight" in w:
        rows = w["class_embedding.table.weight"][label if label is not None else [-1] * len(t)]
        c = c + linear(silu(linear(rows, w, "class_mlp.0")), w, "class_mlp.2")
    if "null_features" in w:
        if condition is None:
            return c + w["null_features"]
        tokens = condition if condition.ndim == 3 else condition[:, None]
        tokens = norm(tokens, 1e-5) * w["features.norm.weight"] + w["features.norm.bias"]
        c = c + linear(tokens, w, "features.project").mean(1)
    return c


def mlp_in_numpy(w, x, t, label, condition):
    h = np.concatenate((x, embedded(w, t, label, condition)), -1)
    last = max(int(name.split(".")[1]) for name in w if name.startswith("layers."))
    for layer in range(0, last, 3):
        h = silu(linear(h, w, f"layers.{layer}"))
    return linear(h, w, f"layers.{last}")


def dit_in_numpy(w, x, t, label, condition, heads, tokens):
    c = silu(embedded(w, t, label, condition))
    h = linear(x.reshape(len(x), tokens, -1), w, "token_in")
    h = h + (w["position"] if tokens > 1 else 0)
    blocks = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for number in range(blocks):
        block = f"blocks.{number}"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(
            linear(c, w, f"{block}.modulation")[:, None], 6, -1
        )
        normed = norm(h, 1e-6) * (1 + scale_a) + shift_a
        query, key, value = np.split(linear(normed, w, f"{block}.attention.qkv"), 3, -1)
        out = np.zeros_like(h)
        width = h.shape[-1] // heads
        for b in range(len(x)):
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                q, k = (
                    m[b][:, part] / np.sqrt((m[b][:, part] ** 2).mean(-1, keepdims=True) + 1e-6) for m in (query, key)
                )
                weight = np.exp(q @ k.T / width**0.5)
                out[b][:, part] = (weight / weight.sum(-1, keepdims=True)) @ value[b][:, part]
        h = h + gate_a * linear(out, w, f"{block}.attention.out")
        hidden = gelu(linear(norm(h, 1e-6) * (1 + scale_m) + shift_m, w, f"{block}.mlp.0"))
        h = h + gate_m * linear(hidden, w, f"{block}.mlp.2")
    shift, scale = np.split(linear(c, w, "out_modulation")[:, None], 2, -1)
    return linear(norm(h, 1e-6) * (1 + scale) + shift, w, "token_out").reshape(x.shape)


@each
@each_condition
@pytest.mark.parametrize("dropped", [False, True])
def test_the_network_is_its_formula(network, kind, dropped):
    model = build(network, kind, awake=True).double()
    x, t, label, condition = (None if part is None else part.double() if part.is_floating_point() else part
                              for part in inputs(kind))  # fmt: skip
    mask = torch.full((4,), dropped)
    shown = [None if part is None or (dropped and number > 1) else part.numpy()
             for number, part in enumerate((x, t, label, condition))]  # fmt: skip
    w = weights_of(model)
    expected = mlp_in_numpy(w, *shown) if network == "mlp" else dit_in_numpy(w, *shown, 4, model.num_tokens)
    with torch.no_grad():
        got = model(x, t, label, condition, mask)
    assert got.dtype == torch.float64 and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


def test_attention_to_one_token_is_a_linear_map():
    attention = build("dit", awake=True).blocks[0].attention.double()
    x, y = torch.randn(2, 9, 1, 16, dtype=torch.float64)
    torch.testing.assert_close(attention.of_one(x), attention(x))
    origin = attention.of_one(torch.zeros_like(x))
    torch.testing.assert_close(
        attention.of_one(2 * x - 3 * y) - origin, 2 * (attention(x) - origin) - 3 * (attention(y) - origin)
    )


def test_queries_and_keys_of_one_token_get_a_gradient_of_exactly_zero():
    model = build("dit", awake=True)
    x, t, *_ = inputs("none")
    model(x, t).square().mean().backward()
    for block in model.blocks:
        for gradient in (block.attention.qkv.weight.grad, block.attention.qkv.bias.grad):
            assert not gradient[:32].any() and gradient[32:].any()


# ---- tokens ----


def test_tokens_see_each_other_through_attention_alone():
    x, t, *_ = inputs("none")
    model = build("dit-6", awake=True)
    moved = x.clone()
    moved[:, 8:12] += 1  # the third piece
    changed = lambda: (model(moved, t) - model(x, t)).unflatten(1, (6, 4)).abs().amax((0, 2)) > 1e-5  # noqa: E731
    assert changed().all()
    for block in model.blocks:
        block.attention.of = block.attention.forward
        block.attention.forward = lambda h: torch.zeros_like(h)
    assert changed().tolist() == [False, False, True, False, False, False]


def test_without_positions_the_order_of_the_tokens_is_nothing():
    x, t, *_ = inputs("none")
    model = build("dit-6", awake=True)
    shuffle = lambda x: x.unflatten(1, (6, 4))[:, [3, 1, 5, 0, 2, 4]].flatten(1)  # noqa: E731
    assert (model(shuffle(x), t) - shuffle(model(x, t))).abs().max() > 1e-3
    with torch.no_grad():
        model.position.zero_()
    torch.testing.assert_close(model(shuffle(x), t), shuffle(model(x, t)))


def test_positions_start_as_large_as_projected_data():
    torch.manual_seed(0)
    model = create_model("dit", num_tokens=16)
    projected = model.token_in(torch.randn(500, 16, 64))
    assert (model.position.std() / projected.std()).item() == pytest.approx(1, abs=0.05)


# ---- beginnings ----


@each
@each_condition
def test_the_output_starts_at_or_near_zero(network, kind):
    x, t, label, condition = inputs(kind)
    out = build(network, kind)(x, t, label, condition)
    assert out.shape == x.shape
    assert not out.any() if network != "mlp" else 0 < out.square().mean() < 0.05


def test_dit_blocks_are_the_identity_at_initialisation():
    for network in ("dit", "dit-6"):
        model = build(network)
        h = torch.randn(3, model.num_tokens, 16)
        for block in model.blocks:
            assert torch.equal(block(h, torch.randn(3, 16)), h)


def test_signals_neither_die_nor_explode_in_the_mlp():
    torch.manual_seed(0)
    h = torch.randn(1000, 1024 + 256)
    for layer in create_model("mlp").layers[:-1]:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            assert 0.5 < h.square().mean() < 2


# ---- gradients ----


@each
@each_condition
@pytest.mark.parametrize("mask", ["mixed", "kept", "dropped", None])
def test_every_parameter_is_in_every_graph(network, kind, mask):
    """DDP waits for a gradient of each."""
    x, t, label, condition = inputs(kind)
    masks = {"mixed": [True, False, True, False], "kept": [False] * 4, "dropped": [True] * 4}
    model = build(network, kind).train()
    model(x, t, label, condition, None if mask is None else torch.tensor(masks[mask])).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each
@conditioned
def test_missing_conditions_leave_every_parameter_in_the_graph(network, kind):
    x, t, *_ = inputs(kind)
    model = build(network, kind)
    model(x, t).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@each
@each_condition
def test_every_parameter_matters(network, kind):
    x, t, label, condition = inputs(kind)
    model = build(network, kind, awake=True)
    model(x, t, label, condition, torch.tensor([True, False, False, False])).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad.abs().max() < 1e-9] == []


# ---- conditions ----


@each
@conditioned
def test_dropped_is_the_same_as_missing_sample_by_sample(network, kind):
    x, t, label, condition = inputs(kind)
    model = build(network, kind, awake=True)
    absent, kept = model(x, t), model(x, t, label, condition)
    mixed = model(x, t, label, condition, torch.tensor([True, False, False, True]))
    torch.testing.assert_close(mixed, torch.stack((absent[0], kept[1], kept[2], absent[3])))
    assert (kept - absent).norm(dim=1).min() > 1e-3


@each
@conditioned
def test_each_condition_reaches_the_output(network, kind):
    x, t, label, condition = inputs(kind)
    model = build(network, kind, awake=True)
    out = model(x, t, label, condition)
    if label is not None:
        assert (model(x, t, (label + 1) % CLASSES, condition) - out).norm(dim=1).min() > 1e-3
    if condition is not None:
        assert (model(x, t, label, condition.flip(-1)) - out).norm(dim=1).min() > 1e-3


@each
def test_of_patches_the_mean_of_their_projections_counts(network):
    x, t, label, condition = inputs("class+patches")
    model = build(network, "class+patches", awake=True)
    torch.testing.assert_close(model(x, t, label, condition), model(x, t, label, condition.flip(1)))
    repeated = condition[:, :1].expand(-1, PATCHES, -1)
    torch.testing.assert_close(model(x, t, label, repeated), model(x, t, label, condition[:, 0]))


@each
def test_unconditional_networks_ignore_conditions_and_all_heed_the_time(network):
    x, t, *_ = inputs("none")
    model = build(network, awake=True)
    given = model(x, t, torch.zeros(4, dtype=torch.long), torch.ones(4, 3), torch.ones(4, dtype=torch.bool))
    assert torch.equal(given, model(x, t))
    assert (model(x, 1 - t) - model(x, t)).abs().max() > 1e-3


@each
def test_guidance(network):
    noise, _, label, _ = inputs("class")
    model = build(network, "class", awake=True).eval()

    @torch.no_grad()
    def draw(label, scale):
        return integrate(guided(model, FlowObjective(get_path("linear")), label, None, scale), noise, steps=5)[0]

    drawn = {scale: draw(label, scale) for scale in (0, 1, 3)}
    for one, other in ((0, 1), (1, 3)):
        assert (drawn[one] - drawn[other]).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(draw(None, 3), drawn[0])


@each
def test_learns_what_a_gaussian_cannot(network):
    """Four vectors, two a class: the loss falls far below that of the best Gaussian, and the class is what helps."""
    torch.manual_seed(0)
    objective = FlowObjective(get_path("linear"), "data")
    model = build(network, "class", hidden_dim=32)
    data = torch.randn(4, D)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def loss(rows, shown):
        x0, t, x1 = torch.randn(len(rows), D), torch.rand(len(rows)), data[rows]
        return objective.loss(model(objective.path.interpolate(x0, x1, t), t, shown), x0, x1, t).mean()

    for _ in range(100):
        rows = torch.randint(4, (64,))
        optimizer.zero_grad()
        loss(rows, rows // 2).backward()
        optimizer.step()
    with torch.no_grad():
        rows = torch.arange(1024) % 4
        reached, swapped = loss(rows, rows // 2), loss(rows, 1 - rows // 2)
    assert reached < 0.5 and swapped > 1.5 * reached


# ---- modes of running ----


@each
@each_condition
def test_no_weight_decay_names_what_is_no_matrix(network, kind):
    from timm.optim import param_groups_weight_decay

    model = build(network, kind)
    plain, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert plain["weight_decay"] == 0 and decayed["weight_decay"] == 0.05
    assert {id(p) for p in decayed["params"]} == {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    every = build("dit-6", "class+patches")
    for pattern in model.no_weight_decay():
        assert any(fnmatch(name, pattern) for name, _ in every.named_parameters()), pattern


@each
def test_dropout_is_inside_and_off_when_evaluating(network):
    x, t, *_ = inputs("none")
    model = build(network, awake=True, dropout=0.5)
    assert not torch.equal(model(x, t), model(x, t))
    model.eval()
    assert torch.equal(model(x, t), build(network, awake=True)(x, t))


def test_dropout_covers_every_branch():
    x, t, *_ = inputs("none")
    for network in ("dit", "dit-6"):
        model, seen = build(network, awake=True, dropout=0.5), []
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 1.0
        model.blocks[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model.blocks[-1].register_forward_hook(lambda _, args, out, seen=seen: seen.append(out))
        model(x, t)
        assert torch.equal(*seen)
    model = build("mlp", awake=True, dropout=0.5)
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 3


@each
@each_condition
def test_bf16_autocast(network, kind):
    batch, mask = inputs(kind), torch.tensor([True, False, False, False])
    model = build(network, kind, awake=True)
    exact = model(*batch, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*batch, mask)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()
    rough.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_traces_as_one_graph():
    batch = (*inputs("class+patches"), torch.tensor([True, False, False, False]))
    model = build("dit-6", "class+patches", awake=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*batch), model(*batch), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each
def test_compiles(network):
    batch = (*inputs("class+patches"), torch.tensor([True, False, False, False]))
    model = build(network, "class+patches", awake=True)
    torch.testing.assert_close(torch.compile(model)(*batch), model(*batch), rtol=1e-4, atol=1e-5)


@each
def test_state_reloads_and_holds_parameters_only(network):
    batch = inputs("class+patches")
    model, other = build(network, "class+patches", awake=True), build(network, "class+patches")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*batch), model(*batch))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


# ---- what cannot be built ----


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("mpl", {}, "unknown arch 'mpl'"),
        ("mpl", {}, "did you mean 'mlp'"),
        ("mlp", dict(embed_dim=64), "mlp has no argument 'embed_dim'; it has input_dim, hidden_dim"),
        ("mlp", dict(num_layers=1), "mlp: num_layers is 1; expected at least 2, the first and the last"),
        ("mlp", dict(input_dim=0), "mlp: input_dim is 0; expected a whole number of at least 1"),
        ("mlp", dict(condition_dim=-1), "mlp: condition_dim is -1; expected a whole number of at least 0"),
        ("dit", dict(num_tokens=0), "dit: num_tokens is 0"),
        ("dit", dict(hidden_dim=100), "hidden_dim 100 is not divisible by num_heads 6; num_heads of 2, 4, 5 would do"),
        ("dit", dict(num_tokens=15), "dit: input_dim 1024 is not divisible by num_tokens 15; num_tokens of 4, 8, 16 would do"),
        ("dit", dict(input_dim=100, num_tokens=16), "num_tokens of 10, 20, 25 would do"),
    ],
)  # fmt: skip
def test_impossible_models(arch, args, message):
    with pytest.raises(UserError) as error:
        create_model(arch, **args)
    assert message in str(error.value)
    assert "or input_dim" not in str(error.value)  # which follows from the data


@each
def test_rows_of_another_length_are_refused(network):
    with pytest.raises(AssertionError, match=r"x is \(2, 48\); the network takes \(B, 24\)"):
        build(network)(torch.zeros(2, 48), torch.zeros(2))
