"""The networks for vectors: exact sizes, their formulas in numpy, tokens. What they share with all is in test_models."""

from math import erf

import numpy as np
import pytest
import torch
from torch import nn

from flowkit.errors import UserError
from flowkit.models import create_model
from tests.test_models import PATCHES, VECTORS, build, inputs, size

each = pytest.mark.parametrize("network", VECTORS)
each_condition = pytest.mark.parametrize("kind", ["none", "class", "pooled", "class+patches"])


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
                              for part in inputs(network, kind))  # fmt: skip
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
    x, t, *_ = inputs("dit", "none")
    model(x, t).square().mean().backward()
    for block in model.blocks:
        for gradient in (block.attention.qkv.weight.grad, block.attention.qkv.bias.grad):
            assert not gradient[:32].any() and gradient[32:].any()


# ---- tokens ----


def test_tokens_see_each_other_through_attention_alone():
    x, t, *_ = inputs("dit", "none")
    model = build("dit-6", awake=True)
    moved = x.clone()
    moved[:, 8:12] += 1  # the third piece
    changed = lambda: (model(moved, t) - model(x, t)).unflatten(1, (6, 4)).abs().amax((0, 2)) > 1e-5  # noqa: E731
    assert changed().all()
    for block in model.blocks:
        block.attention.of = block.attention.forward
        block.attention.forward = lambda h: torch.zeros_like(h)
    assert changed().tolist() == [False, False, True, False, False, False]


def test_without_positions_token_order_does_not_matter():
    x, t, *_ = inputs("dit", "none")
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


def test_mlp_preserves_signal_scale():
    torch.manual_seed(0)
    h = torch.randn(1000, 1024 + 256)
    for layer in create_model("mlp").layers[:-1]:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            assert 0.5 < h.square().mean() < 2


# ---- conditions ----


@each
def test_patches_are_averaged_after_projection(network):
    x, t, label, condition = inputs(network, "class+patches")
    model = build(network, "class+patches", awake=True)
    torch.testing.assert_close(model(x, t, label, condition), model(x, t, label, condition.flip(1)))
    repeated = condition[:, :1].expand(-1, PATCHES, -1)
    torch.testing.assert_close(model(x, t, label, repeated), model(x, t, label, condition[:, 0]))


# ---- what cannot be built ----


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("mpl", {}, "unknown arch 'mpl'"),
        ("mpl", {}, "did you mean 'mlp'"),
        ("mlp", dict(embed_dim=64), "mlp has no setting 'embed_dim'; it has input_dim, hidden_dim"),
        ("mlp", dict(num_layers=1), "mlp: num_layers: expected a whole number from 2 to 1000, found 1"),
        ("mlp", dict(input_dim=0), "mlp: input_dim: expected a whole number >= 1, found 0"),
        ("mlp", dict(condition_dim=-1), "mlp: condition_dim: expected a whole number >= 0, found -1"),
        ("dit", dict(num_tokens=0), "dit: num_tokens: expected a whole number >= 1, found 0"),
        ("dit", dict(hidden_dim=100), "hidden_dim 100 is not divisible by num_heads 6; use num_heads 2, 4, 5"),
        ("dit", dict(num_tokens=15), "dit: input_dim 1024 is not divisible by num_tokens 15; use num_tokens 4, 8, 16"),
        ("dit", dict(input_dim=100, num_tokens=16), "use num_tokens 10, 20, 25"),
    ],
)  # fmt: skip
def test_impossible_models(arch, args, message):
    with pytest.raises(UserError) as error:
        create_model(arch, **args)
    assert message in str(error.value)
    assert "or input_dim" not in str(error.value)  # which follows from the data
