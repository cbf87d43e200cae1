"""When update after update has gradients that are not finite: what is wrong is written down, and the run ends."""

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
SHOWN = 1000  # rows and parameters that the report lists


def give_up(session: Session, step: int, streak: int) -> None:
    """Raise UserError after writing `nonfinite.json` into the run: which updates, which rows, which parameters.

    Called on every process after update `step` (from 1), the last of `streak` that were skipped. The weights are those before
    the first of them, so that the last update made anew shows what went wrong.
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
        f"{session.run_dir}: {streak} updates in a row, up to {step}, had gradients that are not finite, and were skipped. "
        f"The loss is not finite for {where}; {len(gradients)} parameters have such gradients, {len(weights)} such weights: "
        f'{path} names them. Checkpoints are as they were: lower optim.lr, use train.precision = "bf16" or "fp32", or mend '
        "those rows, then continue with --resume --allow-changes"
    )


def _bad_rows(session: Session, update: int) -> list[int]:
    """Rows of the data, sorted, whose own loss is not finite in that update: those of all processes."""
    inputs, micro = UpdateInputs(session, update), session.layout.micro
    bad = torch.zeros(session.layout.batch_size, dtype=torch.int32, device=session.device)
    with torch.no_grad():
        for micro_step in range(session.layout.accumulation):
            # By halves: the mean over some rows is finite where every one of them is.
            parts = [(0, micro)]
            while summed(torch.tensor(len(parts), device=session.device)):  # any rank's
                # A rank that is done goes along: of a sharded model, every forward pass takes all of them.
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
    """Parameters whose gradient is not finite in that update, by a backward pass that no step follows."""
    accumulate(session, update)
    gradients = {name: value.grad for name, value in session.model.named_parameters() if value.grad is not None}
    bad = _not_finite(gradients)
    session.optimizer.zero_grad(set_to_none=True)
    return bad


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """The names of those that are not finite on any process: of a sharded tensor each has a part."""
    bad = torch.stack([~torch.isfinite(part).all() for part in local_parts(list(tensors.values()))]).int()
    return [name for name, count in zip(tensors, summed(bad).tolist(), strict=True) if count]
