"""Sparklines, charts, picture grids and numbers in words."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from rich.cells import cell_len

from flowkit.domain import Preview
from flowkit.ui import view
from flowkit.ui.previews import preview_grid
from flowkit.ui.quantities import duration, rate, shape, short_count, size, value
from flowkit.ui.sparkline import BLOCKS, History, Scale, bars, chart, sparkline
from flowkit.ui.state import RunState
from tests.test_ui_listeners import STARTED


@pytest.mark.parametrize(
    ("x", "shown"),
    [(0.43124, "0.4312"), (1.23456, "1.235"), (12.3456, "12.35"), (123.456, "123.5"), (0.0, "0.0000"), (3.2e-5, "3.20e-05"),
     (1234567.0, "1.23e+06"), (-0.5, "-0.5000"), (math.nan, "nan"), (-math.inf, "-inf"), (None, "–")],
)  # fmt: skip
def test_values(x, shown):
    assert value(x) == shown


@pytest.mark.parametrize(
    ("shown_by", "numbers", "shown"),
    [
        (short_count, (7, 999, 1000, 7_412_232, 999_960, 1.2e9), "7|999|1.00 k|7.41 M|1.00 M|1.20 B"),
        (size, (0, 812, 29_600_000, 3.1e9, 999_900, 2e15), "0 B|812 B|29.6 MB|3.1 GB|1.0 MB|2000.0 TB"),
        (rate, (3.21, 21412.4, math.nan), "3.2|21,412|–"),
        (duration, (0, 7.4, 724, 3723, 90000, math.inf), "0:00|0:07|12:04|1:02:03|1 d 01:00|–"),
        (shape, ((32, 8), (1024,), ()), "32 × 8|1024|scalar"),
    ],
)
def test_counts_sizes_rates_times_and_shapes(shown_by, numbers, shown):
    assert "|".join(map(shown_by, numbers)) == shown


def test_a_falling_loss_falls_on_the_line():
    line = sparkline([math.exp(-i / 10) for i in range(100)], 20)
    assert len(line) == 20
    assert line[0] == "█" and line[-1] == "▁"
    assert [BLOCKS.index(c) for c in line] == sorted((BLOCKS.index(c) for c in line), reverse=True)
    # logarithmic: an exponential is a straight line, so every level takes about as many cells
    assert all(2 <= line.count(block) <= 3 for block in BLOCKS)


def test_sparklines_of_little_and_of_negative_numbers():
    assert sparkline([], 10) == "" and sparkline([1.0, 2.0], 0) == ""
    assert sparkline([3.0], 10) == sparkline([3.0, 3.0], 10)[0]
    assert sparkline([-1.0, 0.0, 1.0], 10) == "▁▅█"


def test_bars_are_in_proportion():
    assert bars([0.0, 1.0, 2.0, 4.0]) == "▁▂▄█"
    assert bars([0.0, 0.0]) == "▁▁" and bars([math.nan, 1.0]) == "?█" and bars([]) == ""


def test_history_keeps_the_mean_in_bounded_memory():
    history = History(limit=64)
    for i in range(10_000):
        history.add(i, float(i))
    steps = [step for step, _ in history.points]
    assert 32 <= len(steps) < 64
    assert steps == [value for _, value in history.points]  # the two were averaged alike
    stride = steps[1] - steps[0]
    assert steps[0] == (stride - 1) / 2  # the mean of 0 .. stride-1
    assert all(b - a == stride for a, b in pairwise(steps))
    history = History()
    history.add(1, math.nan)
    assert not history.points


def _dots(lines):
    """Coordinates (x, y) of the dots of a braille chart, from the top left."""
    bits = {
        0x01: (0, 0),
        0x02: (0, 1),
        0x04: (0, 2),
        0x08: (1, 0),
        0x10: (1, 1),
        0x20: (1, 2),
        0x40: (0, 3),
        0x80: (1, 3),
    }
    return {(2 * i + dx, 4 * j + dy) for j, line in enumerate(lines) for i, char in enumerate(line.plain) if char != " "
            for bit, (dx, dy) in bits.items() if ord(char) - 0x2800 & bit}  # fmt: skip


def test_a_chart_runs_from_corner_to_corner():
    lines = chart([([(step, math.exp(-step / 20)) for step in range(101)], "cyan")], 100, width=20, rows=5)
    assert [len(line.plain) for line in lines] == [20] * 5
    dots = _dots(lines)
    assert (0, 0) in dots and (39, 19) in dots
    assert {x for x, _ in dots} == set(range(40))  # joined, without holes
    assert all(abs(y - 19 * x / 39) <= 1 for x, y in dots)  # an exponential is straight on a logarithmic scale
    assert [line.plain for line in chart([], 100, 20, 5)] == [" " * 20] * 5


@pytest.mark.parametrize("floor", [4.8, 0.01])
def test_the_end_of_a_curve_can_be_read_after_a_steep_start(floor):
    losses = [
        (step, floor + floor * math.exp(-step / 10) + 0.1 * floor * math.exp(-step / 400))
        for step in np.arange(1001.0).tolist()
    ]
    lines = chart([(losses, "cyan")], 1000, width=40, rows=5)
    dots = _dots(lines)
    late = {y for x, y in dots if x > 20}
    assert max(late) - min(late) > 10  # of 20 rows of dots
    scale = Scale.of(losses)
    assert scale and scale.cut and scale(2 * floor) == 1 and scale(scale.low) == 0


def test_validation_does_not_paint_over_the_loss():
    curve = [(float(step), math.exp(-step / 50)) for step in range(101)]
    text = "\n".join(line.plain for line in view.lines(_run_of(curve), 139, 44))
    assert "loss" in text
    (row, *_) = [line for line in view.lines(_run_of(curve), 139, 44) if "⠑" in line.plain]
    styles = {str(span.style) for span in row.spans if re.search("[⠁-⣿]", row.plain[span.start : span.end])}
    assert styles == {view.LOSS}


def _run_of(curve):
    """A run whose validation loss equals its loss."""
    state = RunState()
    state.update(STARTED)
    for step, loss in curve:
        state.losses.add(step, loss)
        state.validations.add(step, loss)
    return state


def _preview(title: str, width: int = 6, rows: int = 3) -> Preview:
    return Preview(title, tuple(title[0] * width for _ in range(rows)))


def test_as_many_pictures_beside_each_other_as_fit():
    previews = [_preview(name) for name in ("ant", "bee", "cat", "dog", "eel")]
    lines = [line.plain for line in preview_grid(previews, 22)]  # 6 + 2 + 6 + 2 + 6
    assert lines[:2] == ["ant     bee     cat", "aaaaaa  bbbbbb  cccccc"]
    assert lines[4:6] == ["", "dog     eel"]
    assert len(preview_grid(previews, 21)) == 3 * 4 + 2
    assert len(preview_grid(previews, 1000)) == 4


def test_whole_rows_of_pictures_only():
    previews = [_preview("ant"), _preview("bee")]
    assert len(preview_grid(previews, 6, 9)) == 9
    assert len(preview_grid(previews, 6, 8)) == 4
    assert preview_grid(previews, 6, 3) == [] and preview_grid([], 80) == []


def test_wide_characters_and_long_titles_stay_in_their_column():
    previews = [
        Preview("水水水水水水", ("⠿" * 6,)),
        Preview("a title that is much too long for it", ("⠿" * 6,), note="and a note"),
    ]
    for width in (6, 20, 60):
        assert all(cell_len(line.plain) <= width for line in preview_grid(previews, width))
