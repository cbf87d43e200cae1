"""What holds of every network: who gets gradients, conditions, modes of running; and of those for sketches: sizes, parts."""

from fnmatch import fnmatch
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowkit.components import choose, names
from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.flow.guidance import guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.solvers import integrate
from flowkit.models import create_model, layers
from flowkit.models.calls import call_model
from flowkit.models.layers import Attention, SwiGLU, TimeEmbedding

CLASSES, WIDTH, PATCHES, D = 5, 12, 7, 24
SMALL = dict(num_strokes=6, embed_dim=32, num_layers=2, num_heads=4)
NETWORKS = {
    "bezier_sketch_transformer": ("bezier_sketch_transformer", SMALL),
    "bezier_sketch_dit": ("bezier_sketch_dit", SMALL),
    "mlp": ("mlp", dict(input_dim=D, hidden_dim=16, num_layers=4)),
    "dit": ("dit", dict(input_dim=D, hidden_dim=16, num_layers=2, num_heads=4)),
    "dit-6": ("dit", dict(input_dim=D, hidden_dim=16, num_layers=2, num_heads=4, num_tokens=6)),
}
SKETCH = [network for network in NETWORKS if network.startswith("bezier_sketch")]
VECTORS = [network for network in NETWORKS if network not in SKETCH]
CONDITIONS = {
    "none": {},
    "class": dict(num_classes=CLASSES),
    "pooled": dict(condition_dim=WIDTH),
    "patches": dict(condition_dim=WIDTH),
    "class+pooled": dict(num_classes=CLASSES, condition_dim=WIDTH),
    "class+patches": dict(num_classes=CLASSES, condition_dim=WIDTH),
}
each = pytest.mark.parametrize("network", NETWORKS)
each_sketch = pytest.mark.parametrize("network", SKETCH)
each_condition = pytest.mark.parametrize("kind", CONDITIONS)
conditioned = pytest.mark.parametrize("kind", [kind for kind in CONDITIONS if kind != "none"])


def build(network, kind="none", *, awake=False, **args):
    """A small network; `awake` moves every parameter away from its initial value, zeros included."""
    torch.manual_seed(0)
    arch, sizes = NETWORKS[network]
    conditions = {"clip_dim" if name == "condition_dim" and network in SKETCH else name: size
                  for name, size in CONDITIONS[kind].items()}  # fmt: skip
    model = create_model(arch, **{**sizes, **conditions, **args})
    if awake:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(network, kind, rows=4):
    """x, t, class_label, condition as they are called."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    label = torch.randint(CLASSES, (rows,), generator=generator) if "class" in kind else None
    condition = draw(rows, WIDTH) if "pooled" in kind else draw(rows, PATCHES, WIDTH) if "patches" in kind else None
    x = draw(rows, 6, 8) if network in SKETCH else draw(rows, D)
    return x, torch.rand(rows, generator=generator), label, condition


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("strokes", "dim", "layers", "classes", "clip"),
    [(32, 256, 8, 0, 0), (32, 256, 8, 15, 0), (32, 256, 8, 0, 512), (32, 256, 8, 15, 768), (9, 40, 3, 2, 5)],
)
def test_number_of_parameters(strokes, dim, layers, classes, clip):
    """Layer by layer, weights + biases."""
    d = dim
    common = 8 * d + d  # strokes in
    common += strokes * d  # positions
    common += (256 * d + d) + (d * d + d)  # time: 256 sinusoids -> D -> D
    if classes:
        common += (classes + 1) * 128  # one row is the null
    if clip:
        common += 2 * clip + (clip * d + d) + d  # norm, projection, null
    common += d * 8 + 8  # strokes out
    attention = 3 * d * d + (d * d + d)  # q, k, v without biases; out

    hidden = 8 * -(-d // 3)  # 8/3 D, up to a multiple of 8
    assert hidden % 8 == 0 and hidden - 8 < 8 / 3 * d <= hidden
    dit_block = (d * 6 * d + 6 * d) + attention + 3 * d * hidden
    dit = common + layers * dit_block + (d * 2 * d + 2 * d)
    if classes:
        dit += (128 * d + d) + (d * d + d)

    norm = 2 * d
    block = (norm + attention) + (norm + d * 4 * d + 4 * d + 4 * d * d + d)
    if classes or clip:
        block += norm + attention
    transformer = common + layers * block + norm
    if classes:
        transformer += 128 * 4 * d + 4 * d

    args = dict(num_strokes=strokes, embed_dim=d, num_layers=layers, num_classes=classes, clip_dim=clip)
    assert size(create_model("bezier_sketch_dit", **args)) == dit
    assert size(create_model("bezier_sketch_transformer", **args)) == transformer


def test_number_of_parameters_of_another_transformer():
    """What class width, memory tokens and feed-forward ratio add to the defaults of 128, 4 and 4."""
    args = dict(num_classes=10, num_layers=3, embed_dim=32)
    default, other = (size(create_model("bezier_sketch_transformer", **args, **more))
                      for more in ({}, dict(class_embed_dim=64, num_memory_tokens=6, mlp_ratio=2.5)))  # fmt: skip
    table, tokens, mlp = 11 * (64 - 128), (64 * 6 * 32 + 6 * 32) - (128 * 4 * 32 + 4 * 32), 2 * 32 * 48 + 48
    assert other - default == table + tokens - 3 * mlp


@each
@each_condition
def test_the_output_starts_at_or_near_zero(network, kind):
    x, t, label, condition = inputs(network, kind)
    out = build(network, kind)(x, t, label, condition)
    assert out.shape == x.shape
    assert not out.any() if network != "mlp" else 0 < out.square().mean() < 0.05


@pytest.mark.parametrize("network", ["bezier_sketch_dit", "dit", "dit-6"])
def test_dit_blocks_are_the_identity_at_initialization(network):
    model = build(network)
    width = model.blocks[0].modulation.in_features
    h = torch.randn(3, 6 if network == "bezier_sketch_dit" else model.num_tokens, width)
    for block in model.blocks:
        assert torch.equal(block(h, torch.randn(3, width)), h)


# ---- gradients ----


@each
@each_condition
def test_every_parameter_is_in_every_graph(network, kind):
    """DDP waits for a gradient of each, whether rows have their conditions or not."""
    x, t, label, condition = inputs(network, kind)
    mixed, kept, dropped = (
        torch.tensor([True, False, True, False]),
        torch.zeros(4, dtype=bool),
        torch.ones(4, dtype=bool),
    )
    model = build(network, kind).train()
    for batch in [(label, condition, mask) for mask in (mixed, kept, dropped, None)] + [()]:
        model.zero_grad(set_to_none=True)
        model(x, t, *batch).square().mean().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        assert all(p.grad.isfinite().all() for p in model.parameters())


@each
@each_condition
def test_every_parameter_matters(network, kind):
    x, t, label, condition = inputs(network, kind)
    model = build(network, kind, awake=True)
    model(x, t, label, condition, torch.tensor([True, False, False, False])).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad.abs().max() < 1e-9] == []


# ---- conditions ----


@each
@conditioned
def test_dropped_is_the_same_as_missing_sample_by_sample(network, kind):
    x, t, label, condition = inputs(network, kind)
    model = build(network, kind, awake=True)
    absent, kept = model(x, t), model(x, t, label, condition)
    torch.testing.assert_close(model(x, t, label, condition, torch.ones(4, dtype=torch.bool)), absent)
    torch.testing.assert_close(model(x, t, label, condition, torch.zeros(4, dtype=torch.bool)), kept)
    mask = torch.tensor([True, False, False, True])
    mixed = model(x, t, label, condition, mask)
    torch.testing.assert_close(mixed, torch.stack((absent[0], kept[1], kept[2], absent[3])))
    for row in range(4):
        alone = [None if part is None else part[row : row + 1] for part in (x, t, label, condition, mask)]
        torch.testing.assert_close(mixed[row : row + 1], model(*alone), rtol=1e-4, atol=1e-5)
    assert (kept - absent).flatten(1).norm(dim=1).min() > 1e-3


@each
@conditioned
def test_every_condition_affects_the_output(network, kind):
    x, t, label, condition = inputs(network, kind)
    model = build(network, kind, awake=True)
    out = model(x, t, label, condition)
    if label is not None:
        assert (model(x, t, (label + 1) % CLASSES, condition) - out).flatten(1).norm(dim=1).min() > 1e-3
    if condition is not None:
        assert (model(x, t, label, condition.flip(-1)) - out).flatten(1).norm(dim=1).min() > 1e-3


@each
def test_unconditional_networks_ignore_conditions_but_use_time(network):
    x, t, *_ = inputs(network, "none")
    model = build(network, awake=True)
    given = model(x, t, torch.zeros(4, dtype=torch.long), torch.ones(4, 3), torch.ones(4, dtype=torch.bool))
    assert torch.equal(given, model(x, t))
    assert (model(x, 1 - t) - model(x, t)).abs().max() > 1e-3


# ---- the parts of the networks for sketches ----


@each_sketch
def test_stroke_order_matters(network):
    x, t, *_ = inputs(network, "none")
    model = build(network, awake=True)
    assert (model(x.flip(1), t) - model(x, t).flip(1)).abs().max() > 1e-3


@each_sketch
def test_without_blocks_strokes_are_independent(network):
    x, t, *_ = inputs(network, "none")
    model = build(network, awake=True)
    model.blocks = nn.ModuleList()
    moved = x.clone()
    moved[:, 2] += 1
    changed = (model(moved, t) - model(x, t)).abs().amax((0, 2))
    assert [stroke for stroke in range(6) if changed[stroke] > 1e-6] == [2]


@each
def test_rows_of_another_shape_are_refused(network):
    if network in SKETCH:  # one stroke would be broadcast against the positions
        x, message = torch.zeros(2, 1, 8), "1 strokes"
    else:
        x, message = torch.zeros(2, 48), r"x is \(2, 48\); the network takes \(B, 24\)"
    with pytest.raises(AssertionError, match=message):
        build(network)(x, torch.zeros(2))


@pytest.mark.parametrize("moved", [
    lambda module: module.to(torch.bfloat16), lambda module: module.half(), lambda module: module.double(),
    lambda module: module.bfloat16().float(), lambda module: module.half().cpu().to(torch.bfloat16), lambda module: module,
])  # fmt: skip
@pytest.mark.parametrize("autocast", [False, True])
def test_phases_of_time_are_exact_in_any_precision(moved, autocast):
    """Against float64. Rounded to bf16, t = 0.7109 at a frequency of 1000 is off by up to 2 radians, and so is the frequency."""
    embedding = moved(TimeEmbedding(16))
    own = embedding.mlp[0].weight.dtype
    seen = []
    embedding.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    t = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast and own == torch.float32):
        embedding(t)
    rates = torch.tensor([10_000 ** (-k / 128) for k in range(128)], dtype=torch.float64)
    angles = 1000 * t.double()[:, None] * rates
    (phases,) = seen
    assert phases.dtype == own
    torch.testing.assert_close(
        phases.double(), torch.cat((angles.cos(), angles.sin()), 1), rtol=0, atol=2e-4 + torch.finfo(own).eps
    )


def test_time_embedding_does_not_depend_on_the_default_dtype():
    plain = TimeEmbedding(16).frequencies
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(TimeEmbedding(16).frequencies, plain)
    finally:
        torch.set_default_dtype(torch.float32)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_network_gets_the_exact_time(network, dtype):
    """As the sampler calls it: x is rounded, t is not, and the output is near that of fp32."""
    from flowkit.sampling.draw import as_network

    x, *_ = inputs(network, "none")
    model, t = build(network, awake=True).eval(), torch.tensor([0.713, 0.9871, 0.4999, 0.06])
    exact = model(x, t)
    rough = as_network(model.to(dtype))(x.double(), t.double(), Conditions())
    assert rough.dtype == dtype and (rough.float() - exact).norm() < 0.03 * exact.norm()


def test_time_embedding_is_the_sinusoid_of_a_thousand_t():
    embedding = TimeEmbedding(16)
    embedding.mlp = nn.Identity()
    for t in (0.0, 0.123, 1.0):
        rates = [10_000 ** (-k / 128) for k in range(128)]
        angles = 1000 * t * torch.tensor(rates, dtype=torch.float64)
        expected = torch.cat((angles.cos(), angles.sin())).float()
        torch.testing.assert_close(embedding(torch.tensor([t]))[0], expected, rtol=0, atol=2e-4)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    crossing = Attention(16, 4, cross=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
        crossing.query.weight.copy_(ours.qkv.weight[:16])
        crossing.key_value.weight.copy_(ours.qkv.weight[16:])
        crossing.out.weight.copy_(ours.out.weight)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    visible = torch.tensor([[True, True, True], [True, False, True]])
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
    torch.testing.assert_close(crossing(x, memory), theirs(x, memory, memory)[0])
    torch.testing.assert_close(crossing(x, memory, visible), theirs(x, memory, memory, key_padding_mask=~visible)[0])


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bf16_on_the_cpu_is_its_formula_for_few_tokens(monkeypatch, masked):
    """Values and gradients within the rounding of bf16. For float32, many tokens or no autocast it is torch's kernel."""
    torch.manual_seed(0)
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x, **more: calls.append(1) or fused(*x, **more))
    query, key, value = (torch.randn(3, 2, tokens, 8, requires_grad=True) for tokens in (5, 7, 7))
    mask = (torch.arange(7) < torch.tensor([[7], [3], [1]]))[:, None, None] if masked else None

    def found(dtype, autocast=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = layers.attend(*(part.to(dtype) for part in (query, key, value)), mask)
        return result, torch.autograd.grad(result.float().square().sum(), (query, key, value))

    (exact, wanted), count = found(torch.float64), len(calls)
    (close, slopes), again = found(torch.bfloat16, autocast=True), len(calls)
    assert (count, again) == (1, 1) and close.dtype == torch.bfloat16
    torch.testing.assert_close(close.double(), exact, rtol=0, atol=0.03)
    for slope, right in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, right, rtol=0.05, atol=0.05)
    found(torch.bfloat16)
    monkeypatch.setattr(layers, "FEW_SCORES", 34)
    found(torch.bfloat16, autocast=True)
    assert len(calls) == 3


def test_swiglu_is_its_formula():
    layer = SwiGLU(32)
    x = torch.randn(3, 32)
    gate, up = layer.gate_up.weight.chunk(2)
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ layer.out.weight.T
    torch.testing.assert_close(layer(x), expected)
    assert layer.out.in_features == 88  # 8/3 x 32 = 85.3


# ---- modes of running ----


@each
@each_condition
def test_no_weight_decay_lists_all_non_matrices(network, kind):
    from timm.optim import param_groups_weight_decay

    model = build(network, kind)
    plain, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert plain["weight_decay"] == 0 and decayed["weight_decay"] == 0.05
    assert {id(p) for p in decayed["params"]} == {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    sketch = network in SKETCH
    every = build(
        network if sketch else "dit-6", "class+patches", **(dict(completes=True, augmented=9) if sketch else {})
    )
    for pattern in model.no_weight_decay():
        assert any(fnmatch(name, pattern) for name, _ in every.named_parameters()), pattern


@each
def test_dropout_is_inside_and_off_when_evaluating(network):
    x, t, *_ = inputs(network, "none")
    model = build(network, awake=True, dropout=0.5)
    assert not torch.equal(model(x, t), model(x, t))
    model.eval()
    assert torch.equal(model(x, t), model(x, t))
    assert torch.equal(model(x, t), build(network, awake=True)(x, t))


@pytest.mark.parametrize("network", [network for network in NETWORKS if network != "mlp"])
def test_dropout_covers_every_branch(network):
    x, t, label, _ = inputs(network, "class")
    model, seen = build(network, "class", awake=True, dropout=0.5), []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0
    before = model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    after = model.blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out))
    through_blocks = model(x, t, label)
    assert torch.equal(*seen)
    before.remove()
    after.remove()
    model.eval()
    assert not torch.allclose(through_blocks, model(x, t, label))


def test_the_mlp_has_dropout_after_every_layer_but_the_last():
    model = build("mlp", awake=True, dropout=0.5)
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 3


@each
@each_condition
def test_bf16_autocast(network, kind):
    batch, mask = inputs(network, kind), torch.tensor([True, False, False, False])
    model = build(network, kind, awake=True)
    exact = model(*batch, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*batch, mask)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()
    rough.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("network", ["bezier_sketch_transformer", "bezier_sketch_dit", "dit-6"])
def test_traces_as_one_graph(network):
    batch = (*inputs(network, "class+patches"), torch.tensor([True, False, False, False]))
    model = build(network, "class+patches", awake=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*batch), model(*batch), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each
def test_compiles(network):
    batch = (*inputs(network, "class+patches"), torch.tensor([True, False, False, False]))
    model = build(network, "class+patches", awake=True)
    torch.testing.assert_close(torch.compile(model)(*batch), model(*batch), rtol=1e-4, atol=1e-5)


@each
@pytest.mark.parametrize("kind", ["class+pooled", "class+patches"])
def test_state_reloads_and_holds_parameters_only(network, kind):
    batch = inputs(network, kind)
    model, other = build(network, kind, awake=True), build(network, kind)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*batch), model(*batch))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@each
def test_guidance_works_for_a_class_only_model(network):
    noise, _, label, _ = inputs(network, "class")
    model = build(network, "class", awake=True).eval()

    @torch.no_grad()
    def draw(label, scale):
        velocity = guided(partial(call_model, model), FlowObjective(choose("path", "linear")), Conditions(label), scale)
        return integrate(velocity, noise, steps=5)[0]

    drawn = {scale: draw(label, scale) for scale in (0, 1, 3)}
    for one, other in ((0, 1), (1, 3), (0, 3)):
        assert (drawn[one] - drawn[other]).flatten(1).norm(dim=1).min() > 1e-3
    another = (label + 1) % CLASSES
    torch.testing.assert_close(draw(another, 0), drawn[0])
    torch.testing.assert_close(draw(None, 3), drawn[0])
    assert (draw(another, 1) - drawn[1]).flatten(1).norm(dim=1).min() > 1e-3


@each
def test_learns_two_classes(network):
    """Fixed rows, one a class for sketches and two for vectors: the loss falls far below that of predicting zero (of the
    best Gaussian), and the class is what helps."""
    torch.manual_seed(0)
    sketch = network in SKETCH
    objective = FlowObjective(choose("path", "linear"), "velocity" if sketch else "data")
    model = build(network, "class", **({} if sketch else {"hidden_dim": 32}))
    data = torch.randn(2, 6, 8) if sketch else torch.randn(4, D)
    labels = torch.arange(len(data)) * 2 // len(data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3 if sketch else 1e-2)

    def losses(rows, shown):
        x1 = data[rows]
        x0, t = torch.randn_like(x1), torch.rand(len(rows))
        output = model(objective.path.interpolate(x0, x1, t), t, shown)
        return objective.loss(output, x0, x1, t).mean(), objective.loss(torch.zeros_like(x1), x0, x1, t).mean()

    for _ in range(100):
        rows = torch.arange(64) % len(data)
        optimizer.zero_grad()
        losses(rows, labels[rows])[0].backward()
        optimizer.step()
    with torch.no_grad():
        rows = torch.arange(512) % len(data)
        loss, zero = losses(rows, labels[rows])
        swapped, _ = losses(rows, 1 - labels[rows])
    assert loss < (0.35 * zero if sketch else 0.5)
    assert swapped > 1.5 * loss


# ---- what cannot be built ----


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("bezier_sketch_dti", {}, "unknown arch 'bezier_sketch_dti'; expected bezier_sketch_dit, bezier_sketch_transformer"),
        ("bezier_sketch_dti", {}, "did you mean 'bezier_sketch_dit'"),
        ("bezier_sketch_dit", dict(num_layer=2), "no setting 'num_layer'"),
        ("bezier_sketch_dit", dict(num_layer=2), "did you mean 'num_layers'"),
        ("bezier_sketch_dit", dict(embed_dim=100, num_heads=8), "embed_dim 100 is not divisible by num_heads 8"),
        ("bezier_sketch_dit", dict(embed_dim=100, num_heads=8), "use num_heads 4, 5, 10, or embed_dim 96"),
        ("bezier_sketch_transformer", dict(num_heads=7), "embed_dim 256 is not divisible by num_heads 7"),
        ("bezier_sketch_transformer", dict(embed_dim=0), "embed_dim: expected a whole number >= 1, found 0"),
        ("bezier_sketch_transformer", dict(num_layers=2.5), "num_layers: expected a whole number from 1 to 1000, found 2.5"),
        ("bezier_sketch_transformer", dict(num_classes=-1), "num_classes: expected a whole number >= 0, found -1"),
        ("bezier_sketch_transformer", dict(clip_dim="wide"), 'clip_dim: expected a whole number >= 0, found "wide"'),
        ("bezier_sketch_transformer", dict(dropout=1.0), "dropout: expected a number >= 0 and < 1, found 1.0"),
        ("bezier_sketch_transformer", dict(num_strokes=True), "num_strokes: expected a whole number >= 1, found true"),
        ("bezier_sketch_transformer", dict(num_memory_tokens=0), "num_memory_tokens: expected a whole number >= 1, found 0"),
        ("bezier_sketch_transformer", dict(mlp_ratio=0.0), "mlp_ratio: expected a number > 0, found 0.0"),
    ],
)  # fmt: skip
def test_impossible_models(arch, args, message):
    with pytest.raises(UserError) as error:
        create_model(arch, **args)
    assert message in str(error.value)


def test_names_can_be_listed_without_torch():
    import subprocess
    import sys

    code = "import sys, flowkit.components as c; print(*c.names('arch')); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(names("arch"))
