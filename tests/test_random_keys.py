"""Seeds of random draws: all their bits count, and checkpoints of earlier versions keep theirs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowkit
from flowkit.data.base import NormalBase
from flowkit.errors import UserError
from flowkit.recipe import recipe_from_dict
from flowkit.rng import NUMERICS, Draws, key, seed_generator
from flowkit.sampling.draw import step_noise
from flowkit.training.train import train

TWINS = (3_814, 155_888)  # the keys of these two samples of seed 0 agree in their low 32 bits


def normals(seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, generator=seed_generator(torch.Generator(), seed))


def test_the_high_bits_of_a_seed_count() -> None:
    for bit in (0, 31, 32, 47, 62):
        assert not torch.equal(normals(12_345), normals(12_345 ^ (1 << bit)))
    assert torch.equal(normals(12_345), normals(12_345))


def test_no_two_samples_of_a_seed_start_from_the_same_noise() -> None:
    a, b = (NormalBase().sample(0, range(i, i + 1), (3,)) for i in TWINS)
    assert not torch.equal(a, b)
    a, b = (step_noise(0, range(i, i + 1), (3,))(0) for i in TWINS)
    assert not torch.equal(a, b)


def test_reseeding_resets_the_generator() -> None:
    used = torch.Generator()
    torch.randn(7, generator=used)  # an odd count leaves half a Box-Muller pair behind
    torch.rand(1, generator=used, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        expected = torch.randn(5, generator=seed_generator(torch.Generator(), 9), dtype=dtype)
        assert torch.equal(torch.randn(5, generator=seed_generator(used, 9), dtype=dtype), expected)


def test_the_state_is_read_where_it_is_written() -> None:
    """The first raw words of a Mersenne Twister with that state, by numpy's own implementation."""
    generator = seed_generator(torch.Generator(), 77)
    words = generator.get_state().numpy().view(np.uint64)[3:627].astype(np.uint32)
    reference = np.random.MT19937()
    reference.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    raw = (
        reference.random_raw(16).reshape(8, 2).astype(object)
    )  # torch takes two words a number here, the high one first
    expected = [((high << 32) | low) % (2**32 - 1) for high, low in raw]
    assert torch.empty(8, dtype=torch.int64).random_(0, 2**32 - 1, generator=generator).tolist() == expected


def test_draws_are_uniform_and_normal() -> None:
    draws = Draws(3, torch.device("cpu"))
    u = torch.cat([draws.uniform("u", i, (100,)) for i in range(1000)])
    z = torch.cat([draws.normal("z", i, (100,)) for i in range(1000)])
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.03
    first = torch.stack([draws.normal("z", i, (2,)) for i in range(20_000)])  # neighboring keys are independent
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.03


def test_version_one_draws_as_torch_does() -> None:
    expected = torch.randn(3, generator=torch.Generator().manual_seed(key(5, "sample", 2)))
    assert torch.equal(NormalBase(numerics=1).sample(5, range(2, 3), (3,))[0], expected)
    expected = torch.randn(3, generator=torch.Generator().manual_seed(key(5, "sample steps", 2)))
    assert torch.equal(step_noise(5, range(2, 3), (3,), 1)(0)[0], expected)


@pytest.mark.parametrize("shape", [(3,), (2, 8), (16,), (31,), (4, 8), (17, 3)])
@pytest.mark.parametrize("numerics", [1, 2, 3])
def test_noise_of_steps_is_the_same_however_many_are_drawn_at_once(shape, numerics, monkeypatch):
    """Drawn in one call by rows of whole groups of 16 only: torch would give others different numbers."""
    streams = [
        seed_generator(torch.Generator(), key(5, "sample steps", i), numerics) for i in (2, 3)
    ]  # one call per row and step
    wanted = [torch.stack([torch.randn(shape, generator=stream) for stream in streams]) for _ in range(9)]
    for steps in (1, 2, 4, 9, 100):
        of_step = step_noise(5, range(2, 4), shape, numerics, steps=steps)
        assert all(torch.equal(of_step(step), noise) for step, noise in enumerate(wanted)), steps
    calls, randn = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda size, **given: calls.append(size) or randn(size, **given))
    of_step = step_noise(5, range(2, 4), shape, numerics, steps=9)
    for step in range(9):
        of_step(step)
    assert len(calls) == (2 if math.prod(shape) % 16 == 0 else 18)


def test_a_checkpoint_samples_and_resumes_by_its_own_version(tiny: dict[str, Any]) -> None:
    recipe = recipe_from_dict(tiny)
    run = train(recipe).run_dir
    sidecar = Path(run) / "checkpoints" / "latest" / "model.json"
    content = json.loads(sidecar.read_text())
    assert content["numerics"] == NUMERICS
    ours = flowkit.load(run).sample(2, steps=2).x
    del content["numerics"]  # as the first version wrote it
    sidecar.write_text(json.dumps(content))
    (sidecar.parent / "checksums.json").unlink()
    model = flowkit.load(run)
    assert model.numerics == 1
    theirs = model.sample(2, steps=2, pairs=True)
    assert not np.allclose(ours, theirs.x)
    assert theirs.noise is not None
    expected = torch.randn(theirs.noise.shape[1:], generator=torch.Generator().manual_seed(key(0, "sample", 0)))
    assert np.array_equal(theirs.noise[0], expected.numpy())
    longer = recipe_from_dict({**tiny, "train": {**tiny["train"], "steps": 12}})
    with pytest.raises(UserError, match=r"another version of flowkit.*--init-from"):
        train(longer, resume=True)
    assert train(longer, resume=True, allow_changes=True).reason == "done"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_of_version_2_is_resumed_unless_its_attention_has_changed(tiny: dict[str, Any], precision: str) -> None:
    tiny["train"]["precision"] = precision
    sidecar = Path(train(recipe_from_dict(tiny)).run_dir) / "checkpoints" / "latest" / "model.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "numerics": 2}))
    (sidecar.parent / "checksums.json").unlink()
    longer = recipe_from_dict({**tiny, "train": {**tiny["train"], "steps": 12}})
    if precision == "bf16":
        with pytest.raises(UserError, match=r"another version of flowkit.*--init-from"):
            train(longer, resume=True)
    else:
        assert train(longer, resume=True).reason == "done"
