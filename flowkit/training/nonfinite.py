"""Stop a run whose gradients are not finite in many consecutive updates, and report the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowkit.data.files import write_json
from flowkit.distributed.agreement import summed
from flowkit.distributed.sharding import local_parts
from flowkit.errors import UserError, listing
from flowkit.training.step import UpdateInputs, accumulate

if TYPE_CHECKING:
    from flowkit.training.session import Session

REPORT = "nonfinite.json"
SHOWN = 1000  # number of rows and parameters listed in the report


def give_up(session: Session, step: int, streak: int) -> None:
    """Write `nonfinite.json` into the run (which updates, rows, parameters) and raise UserError.

    Called on every process after update `step` (from 1), the last of `streak` skipped ones. The weights have not changed since
    the first of them, so repeating the last update shows what went wrong.
    """
    rows, gradients = _bad_rows(session, step - 1), _bad_gradients(session, step - 1)
    weights = _not_finite(dict(session.model.named_parameters()))
    path = session.run_dir / REPORT
    if session.is_main:
        write_json(path, {
            "updates": [step - streak + 1, step], "batch": step, "rows": rows[:SHOWN], "rows_of": "the data, from 0",
            "gradients": gradients[:SHOWN], "parameters": weights[:SHOWN],
        })  # fmt: skip
    where = f"rows {listing(map(str, rows), 5)}" if rows else "no single row of the batch (the gradients overflowed)"
    raise UserError(
        f"{session.run_dir}: {streak} consecutive updates, up to {step}, had non-finite gradients and were skipped. "
        f"The loss is not finite for {where}; {len(gradients)} parameters have non-finite gradients, {len(weights)} have "
        f'non-finite values: see {path}. The checkpoints are not affected. Lower optim.lr, use train.precision = "bf16" or '
        '"fp32", or fix those rows, then continue with --resume --allow-changes'
    )


def _bad_rows(session: Session, update: int) -> list[int]:
    """Return the rows of the data, sorted, whose loss is not finite in that update, over all processes."""
    inputs, micro = UpdateInputs(session, update), session.layout.micro
    bad = torch.zeros(session.layout.batch_size, dtype=torch.int32, device=session.device)
    with torch.no_grad():
        for micro_step in range(session.layout.accumulation):
            # Bisect: the mean over some rows is finite if each one is.
            parts = [(0, micro)]
            while summed(torch.tensor(len(parts), device=session.device)):  # on any rank
                # A rank that is done continues: a forward pass of a sharded model needs all ranks.
                searching = bool(parts)
                start, stop = parts.pop() if searching else (0, 1)
                if torch.isfinite(inputs.loss(micro_step, start, stop)[0]) or not searching:
                    continue
                if stop - start == 1:
                    bad[session.layout.start(micro_step) + start] = 1
                else:
                    middle = (start + stop) // 2
                    parts += [(start, middle), (middle, stop)]
    picked = session.batches.order.batch(update)[summed(bad).cpu().numpy() > 0]
    return sorted(int(row) for row in session.batches.train_rows[picked])


def _bad_gradients(session: Session, update: int) -> list[str]:
    """Return the parameters with non-finite gradients in that update, from a backward pass without a step."""
    accumulate(session, update)
    gradients = {name: value.grad for name, value in session.model.named_parameters() if value.grad is not None}
    bad = _not_finite(gradients)
    session.optimizer.zero_grad(set_to_none=True)
    return bad


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not finite on any process. With sharded tensors each process has a part."""
    bad = torch.stack([~torch.isfinite(part).all() for part in local_parts(list(tensors.values()))]).int()
    return [name for name, count in zip(tensors, summed(bad).tolist(), strict=True) if count]
