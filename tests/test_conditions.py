"""Conditions as one value, against plain indexing; masks and attention against plain PyTorch; what is dropped, by kind."""

import itertools

import pytest
import torch

from flowkit.conditions import Conditions

GIVEN = {
    "nothing": {}, "label": {"class_label": torch.tensor([3, 1, 2, 0])}, "vector": {"tokens": torch.arange(8.0).view(4, 2)},
    "tokens": {"tokens": torch.arange(24.0).view(4, 3, 2), "mask": torch.arange(12).view(4, 3) % 5 > 0},
}  # fmt: skip
GIVEN["both"] = GIVEN["label"] | GIVEN["tokens"]
DROPPED = {"none": None, "rows": torch.arange(4) % 2 > 0, "kinds": torch.arange(8).view(4, 2) % 3 > 0}
each = pytest.mark.parametrize(("given", "dropped"), [*itertools.product(GIVEN, DROPPED)])


def made(given: str, dropped: str) -> Conditions:
    return Conditions(**GIVEN[given], dropped=None if given == "nothing" else DROPPED[dropped])


def same(found: Conditions, wanted: dict) -> None:
    for name in ("class_label", "tokens", "mask", "dropped"):
        value, expected = getattr(found, name), wanted.get(name)
        assert (value is None) == (expected is None), name
        assert value is None or (value.dtype == expected.dtype and torch.equal(value, expected)), name


@each
def test_parts_are_those_of_every_tensor(given, dropped):
    whole = made(given, dropped)
    tensors = {name: value for name, value in vars(whole).items() if value is not None}
    rows = torch.tensor([2, 0, 2])
    same(whole.slice(1, 3), {name: value[1:3] for name, value in tensors.items()})
    same(whole.take(rows), {name: value[[2, 0, 2]] for name, value in tensors.items()})
    found = whole.to(torch.device("cpu"), torch.float64)
    same(found, {name: value.double() if name == "tokens" else value for name, value in tensors.items()})
    assert whole.kinds == {"nothing": (), "label": ("label",), "both": ("label", "condition")}.get(
        given, ("condition",)
    )


@pytest.mark.parametrize(
    ("given", "dropped"), [*itertools.product([name for name in GIVEN if name != "nothing"], DROPPED)]
)
def test_dropped_and_doubled(given, dropped):
    whole, before = made(given, dropped), DROPPED[dropped]
    tensors = GIVEN[given]
    same(whole.drop(), tensors | {"dropped": torch.ones(4, 2) > 0 if dropped == "kinds" else torch.ones(4) > 0})
    for more in (torch.tensor([True, False, False, True]), torch.tensor([[True, False], [False, True]] * 2)):
        by_kind = torch.zeros(4, 2, dtype=torch.bool)
        for one in (more, before):
            if one is not None:
                by_kind = by_kind | (one[:, None] if one.ndim == 1 else one)
        found = whole.drop(more)
        assert found.dropped is not None
        wide = found.dropped.ndim == 2
        assert wide == (more.ndim == 2 or dropped == "kinds")
        same(found, tensors | {"dropped": by_kind if wide else by_kind[:, 0]})
        told = [["label", "condition"].index(kind) for kind in found.kinds]
        assert found.nothing().tolist() == [all(row[kind] for kind in told) for row in by_kind.long().tolist()]
    halves = whole.doubled()
    first = torch.zeros(4) > 0 if before is None else before
    same(halves.slice(0, 4), tensors | {"dropped": first})
    same(halves.slice(4, 8), tensors | {"dropped": torch.ones_like(first)})


def test_nothing_is_told_and_nothing_is_dropped():
    nothing = Conditions()
    assert nothing.drop() == nothing == nothing.drop(torch.ones(3) > 0) and not nothing.kinds
