"""The benchmark of the published tables: it runs, resumes, and draws from the documented distributions."""

import json
from pathlib import Path

import numpy as np
import pytest

from flowkit.data.dataset import read_dataset
from flowkit.points.distributions import draw
from flowkit.recipe import recipe_from_dict
from tests.benchmarks import published_tables as tables
from tests.benchmarks import toy_sets

CELLS = tables.cells()
ROOT = Path(__file__).parents[1]


def test_all_cells_of_both_papers_are_there():
    assert len([cell for cell in CELLS if cell.table == "A"]) == 14  # two of sixteen are not in the paper
    assert len([cell for cell in CELLS if cell.table == "B"]) == 8


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell_is_a_recipe(cell, tmp_path):
    recipe = recipe_from_dict(tables.recipe(cell, 0, 10, str(tmp_path)))
    assert recipe.ema.decay == 0 and recipe.optim.max_grad_norm == 0 and recipe.optim.schedule == "constant"


@pytest.mark.parametrize("name", ["A / OT-CFM / N->moons", "B / C2OT / class"])
def test_a_cell_is_trained_and_measured(name):
    (cell,) = [cell for cell in CELLS if cell.name == name]
    figures = tables.measure(cell, 0, 3, 64, None)
    assert set(cell.paper) < set(figures) and np.isfinite(list(figures.values())).all()
    assert figures == pytest.approx({**tables.measure(cell, 0, 3, 64, None), "seconds": figures["seconds"]})


def test_results_are_kept_and_shown(tmp_path):
    out, cell = tmp_path / "results.json", CELLS[0]
    for seed, value in ((0, 0.25), (1, 0.35)):
        figures = {"W2": value, "NPE": 0.02, "W2(q0, q1)": 2.0}
        tables.store(out, "the command", tables.key_of(cell, 10, 64), seed, figures)
    results = json.loads(out.read_text())
    assert "0.300 ± 0.071 | 0.303 | 2 |" in tables.table(results, CELLS, 10, 64)
    assert tables.known_between(out, cell, 1, 64) == 2.0
    assert tables.known_between(out, cell, 1, 65) is None and tables.known_between(out, CELLS[2], 1, 64) is None


def test_every_block_of_table_b_is_a_whole_draw_of_the_moons(tmp_path):
    data = read_dataset(toy_sets.write_blocks("moons-labelled", 64, 200, 0, tmp_path))
    assert data.x.shape == (256, 2) and data.class_names == ("upper", "lower")
    blocks = data.class_label.reshape(4, 64)
    assert (blocks.sum(axis=1) == 32).all() and (blocks[0] != blocks[1]).any()
    assert len(np.unique(data.x, axis=0)) == 256


def test_the_tables_in_the_page_of_numbers_are_those_of_the_results():
    shown = tables.readme(tables.read(tables.OUT))
    assert "| OT-CFM | NPE | " in shown and "| FM |" not in shown.split("\n\n")[0]
    assert shown in (ROOT / "tests" / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "mean", "variance"),
    [
        ("normal", (0, 0), (1, 1)),
        ("8gaussians", (0, 0), (13.5, 13.5)),  # radius^2 / 2 + std^2
        ("wide 8gaussians", (0, 0), (74.25, 74.25)),
        ("moons", (0, 0.5), (4 * 0.75 + 0.01, 4 * 0.2446 + 0.01)),
    ],
)
def test_toy_sets_have_the_published_scales(name, mean, variance):
    x = toy_sets.draw(name, 200_000, np.random.default_rng(0)).astype(np.float64)
    assert x.mean(axis=0) == pytest.approx(mean, abs=0.03 * max(1, max(variance) ** 0.5))
    assert x.var(axis=0) == pytest.approx(variance, rel=0.03)


def test_the_s_curve_is_the_built_in_one_and_wide_moons_are_standardized():
    rng = np.random.default_rng(0)
    ours, built_in = toy_sets.draw("scurve", 100_000, rng), draw("scurve", 100_000, rng)[0]
    assert ours.std(axis=0) == pytest.approx(built_in.std(axis=0), rel=0.02)
    wide = toy_sets.draw("wide moons", 10_000, rng)
    assert wide.mean() == pytest.approx(0, abs=1e-4) and wide.std() == pytest.approx(7, rel=1e-4)
