"""A short soak: some real kills, one of them inside a save, and the run ends as if nothing had been."""

import sys

import pytest

from tests.benchmarks.soak import Soak


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
def test_repeatedly_killed_run_ends_bit_equal(tmp_path):
    soak = Soak(tmp_path, seed=4, steps=60, processes=[1])
    soak.round(0, lambda: soak.tally.counts["SIGKILL"] >= 4 and soak.tally.counts["SIGKILL inside a save"] >= 1)
    assert soak.tally.lost == []
    assert soak.tally.counts["runs compared with an undisturbed one"] == 1
