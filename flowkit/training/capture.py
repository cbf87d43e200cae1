"""The recorded update: one update becomes a CUDA graph, or on the CPU a compiled graph, which is replayed from then on.

A small network's update takes the GPU less time than the host needs to start its some hundred kernels. Random draws, rows from a
file and couplings stay outside: they are copied into fixed memory, which the graph reads. So a recorded update has the numbers of
an eager one. Before it is used, one update is computed in both ways and compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from flowkit.device import held_exactly, recording
from flowkit.rng import key, seed_modules
from flowkit.training.compiled import Inductor, why_not_whole
from flowkit.training.graphs import CudaGraphs, why_not_captured
from flowkit.training.meters import Meters
from flowkit.training.optimizer import step_optimizer
from flowkit.training.session import Session
from flowkit.training.step import Micro, UpdateInputs, descend

WARM_UP = 3  # eager updates before one is recorded: they allocate, compile and tune
MOST_WORDS = 160  # characters of an error of torch in the notice

Update = Callable[[int], object]


class OtherShapes(RuntimeError):
    """The inputs of an update do not fit into the memory of the recorded one."""


class Recorder(Protocol):
    """How an update is recorded. `key` of the recipe asks for it; `otherwise` says what happens if it cannot be done."""

    key: str
    otherwise: str
    close: tuple[float, float]  # largest differences from an eager update, relative to its step and to the values

    def beside(self) -> AbstractContextManager[Any]:
        """Return the context for the update that is compared with; it raises RuntimeError for what cannot be recorded."""
        ...

    def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
        """Record `body` and return what replays it. Raises RuntimeError if it cannot be recorded.

        memory: all tensors that it reads or changes and whose values differ from update to update.
        """
        ...

    def done(self, seconds: float) -> str:
        """Return a line for the user once an update is recorded, which took that long; "" if there is nothing to say."""
        ...

    def give_up(self, session: Session) -> None:
        """Prepare for the updates that are done instead."""
        ...


def make_update(
    session: Session,
    meters: Meters,
    eager: Update,
    tell: Callable[[str], object],
    compiling: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Update:
    """Return what does update `update`: `eager`, or a recorded update, as `train.compile` and `train.capture` say.

    tell: receives one line if an update is compiled, or if it cannot be compiled or recorded. compiling: context in which it is
    compiled.
    """
    train = session.recipe.train
    if train.compile and session.device.type == "cpu":
        if reason := why_not_whole(session.environment):
            tell(f"{Inductor.key}: {reason}, so {Inductor.otherwise}")
            return eager
        return CapturedUpdate(session, meters, eager, tell, Inductor(train.precision), warm_up=0, compiling=compiling)
    if not train.capture:
        return eager
    if reason := why_not_captured(session.environment):
        if session.device.type == "cuda":
            tell(f"train.capture: {reason}, so updates run eagerly")
        return eager
    return CapturedUpdate(session, meters, eager, tell, CudaGraphs(session.device))


class CapturedUpdate:
    """Updates eagerly at first, then by a recorded update; eagerly for good if it cannot be recorded or differs.

    `replays` are the recorded parts, once there are any; `reason` says why updates stay eager.
    """

    def __init__(
        self,
        session: Session,
        meters: Meters,
        eager: Update,
        tell: Callable[[str], object],
        recorder: Recorder,
        warm_up: int = WARM_UP,
        compiling: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        """recorder: how updates are recorded. warm_up: eager updates before one is. compiling: context of recording."""
        self.session, self.meters, self.eager, self.tell, self.recorder = session, meters, eager, tell, recorder
        self.replays: tuple[Callable[[], object], Callable[[], object]] | None = None
        self.reason: str | None = None
        self.compiling = compiling
        self._left = self._warm_up = warm_up

    def __call__(self, update: int) -> None:
        if self.replays is not None:
            self._replay(update)
        elif self.reason is not None or self._left > 0:
            self._left -= 1
            self.eager(update)
        else:
            self._record(update)

    def _replay(self, update: int) -> None:
        assert self.replays is not None
        try:
            self._run(update, *self.replays)
        except OtherShapes as error:  # before `finish`, so nothing has changed
            self._give_up(str(error))
            self.eager(update)
        else:
            self.meters.count()

    def _run(self, update: int, micro: Callable[[], object], finish: Callable[[], object]) -> None:
        session = self.session
        with recording():
            inputs = UpdateInputs(session, update, ready=False)
            self.body.set_rates(update)
            for micro_step in range(session.layout.accumulation):
                self.body.load(inputs.micro(micro_step))
                seed_modules(
                    session.device, key(session.recipe.run.seed, "dropout", update, micro_step, session.layout.rank)
                )
                micro()
            finish()

    def _record(self, update: int) -> None:
        """Do that update eagerly and recorded, and compare. The recorded result stays, so that a resumed run is the same.

        If the update is skipped, try again later.
        """
        body, before = self._body(update), None
        self.body = body
        try:
            self._beside(body.begin)()
            before = body.copy()
            self._run(update, self._beside(body.micro), self._beside(body.finish))
        except RuntimeError as error:
            self._instead(update, before, f"an update cannot be recorded: {_one_line(error)}")
            return
        wanted = body.copy()
        if all(map(torch.equal, before["weights"], wanted["weights"])):  # skipped, so there is nothing to compare
            self.meters.count()
            body.forget()
            self._left = self._warm_up
            return
        body.put(before)
        try:
            begun = time.perf_counter()
            with recording(), self.compiling():
                # With the inputs of another update, so that it shows in the result if one of them became a constant.
                body.load(UpdateInputs(self.session, update + 1, ready=False).micro(0))
                micro = self.recorder.record(body.micro, body.memory)
                finish = _nothing if body.whole else self.recorder.record(body.finish, body.memory)
                body.put(before)
            seconds = time.perf_counter() - begun
            self._run(update, micro, finish)
            different = body.differs(before, wanted, *self.recorder.close)
        except RuntimeError as error:
            self._instead(update, before, f"an update cannot be recorded: {_one_line(error)}")
            return
        if different:
            self._instead(update, before, different)
            return
        self.replays = micro, finish
        self.meters.count()
        if line := self.recorder.done(seconds):
            self.tell(line)

    def _body(self, update: int) -> Body:
        with recording():
            return Body(self.session, self.meters, UpdateInputs(self.session, update, ready=False).micro(0))

    def _instead(self, update: int, before: dict[str, list[Tensor]] | None, reason: str) -> None:
        """Do that update eagerly, from the state before it."""
        if before is not None:
            self.body.put(before)
        self._give_up(reason)
        self.eager(update)

    def _beside(self, part: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with recording(), self.recorder.beside():
                part()

        return run

    def _give_up(self, reason: str) -> None:
        self.body.forget()
        self.replays, self.reason = None, reason
        self.tell(f"{self.recorder.key}: {reason}; {self.recorder.otherwise}")
        self.recorder.give_up(self.session)


class Body:
    """One update that reads its inputs from fixed memory: `micro` for each micro-batch, then `finish`. Nothing else is recorded.

    Without accumulation `micro` does all of it.
    """

    def __init__(self, session: Session, meters: Meters, like: Micro):
        """like: inputs of the shapes that all updates have."""
        self.session, self.meters = session, meters
        self.inputs = like.map(torch.clone)
        self._memory = flattened(self.inputs)
        kind = torch.float64 if session.device.type == "cpu" else torch.float32
        rate = lambda: torch.zeros((), dtype=kind, device=session.device)  # noqa: E731
        self.lr = rate()
        self.weights = [] if session.ema is None else [rate() for _ in session.ema.by_label]
        self.whole = session.layout.accumulation == 1
        self.sums: dict[str, Tensor] = {}  # with accumulation: losses of the micro-batches

    def begin(self) -> None:
        """Make the memory that the first update would make, of moments and meters, and for accumulation of gradients and sums.

        Which parameters have gradients, and which terms a loss has, is not known before. Nothing else changes.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.session.model.buffers()]
        try:
            terms = descend(self.session, self.inputs)
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)
        self.meters.start((*terms, "grad_norm"), self.lr.device)
        self.session.optimizer.start()
        if self.whole:
            self.forget()
            return
        self.sums = {name: torch.zeros_like(term) for name, term in terms.items()}
        torch._foreach_zero_([parameter.grad for parameter in self.session.parameters if parameter.grad is not None])

    def load(self, inputs: Micro) -> None:
        """Copy the inputs of a micro-batch into the fixed memory. Raises OtherShapes if they do not fit."""
        tensors = flattened(inputs)
        if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in self._memory]:
            raise OtherShapes("the inputs of two updates differ in shape")
        for kind in {tensor.dtype for tensor in tensors}:
            pairs = [pair for pair in zip(self._memory, tensors, strict=True) if pair[1].dtype == kind]
            torch._foreach_copy_([mine for mine, _ in pairs], [its for _, its in pairs])

    def set_rates(self, update: int) -> None:
        """Set the learning rate and the fractions by which the averages move."""
        session = self.session
        self.lr.fill_(held_exactly(session.lr(update), session.device))
        fractions = [] if session.ema is None else session.ema.weights(update + 1, session.device)
        for weight, value in zip(self.weights, fractions, strict=True):
            weight.fill_(value)

    def micro(self) -> None:
        terms = descend(self.session, self.inputs)
        if self.whole:
            self._finish(terms)
            return
        for name, term in terms.items():
            self.sums[name].add_(term)

    def finish(self) -> None:
        if self.whole:
            return
        self._finish(self.sums)
        torch._foreach_zero_(list(self.sums.values()))

    def _finish(self, terms: dict[str, Tensor]) -> None:
        session = self.session
        norm, skipped = step_optimizer(session, self.lr, keep=not self.whole)
        self.meters.add(skipped, **terms, grad_norm=norm)
        if session.ema is not None:
            session.ema.move(self.weights, skipped)

    @property
    def state(self) -> dict[str, list[Tensor]]:
        """All tensors that an update changes, by what they are."""
        session, averages = self.session, [] if self.session.ema is None else list(self.session.ema.modules().values())
        states = list(session.optimizer.state.values())
        scaler: Any = session.environment.accelerator.scaler
        scale = [] if scaler is None else [scaler._scale, scaler._growth_tracker]
        return {
            "weights": list(session.parameters),
            "buffers": list(session.model.buffers()),
            "moments": [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")],
            "steps": [*{id(state["step"]): state["step"] for state in states}.values()],
            "averages": [tensor for module in averages for tensor in (*module.parameters(), *module.buffers())],
            "meters": self.meters.tensors,
            "scale": [tensor for tensor in scale if tensor is not None],
        }

    @property
    def memory(self) -> list[Tensor]:
        """All tensors that an update reads or changes, and whose values differ from update to update."""
        gradients = [parameter.grad for parameter in self.session.parameters if parameter.grad is not None]
        state = (tensor for each in self.state.values() for tensor in each)
        mine = (*state, *self._memory, self.lr, *self.weights, *self.sums.values(), *gradients)
        return [*{id(tensor): tensor for tensor in mine}.values()]

    def copy(self) -> dict[str, list[Tensor]]:
        """Return a copy of the state in the host's memory."""
        return {name: [tensor.detach().to("cpu", copy=True) for tensor in each] for name, each in self.state.items()}

    @torch.no_grad()
    def put(self, state: dict[str, list[Tensor]]) -> None:
        """Set the state to a copy, in place, and gradients and sums to nothing."""
        for mine, its in zip(self.state.values(), state.values(), strict=True):
            for tensor, value in zip(mine, its, strict=True):
                tensor.copy_(value)
        kept = [parameter.grad for parameter in self.session.parameters if parameter.grad is not None]
        if self.whole:
            self.forget()
        elif kept:
            torch._foreach_zero_(kept)
        for total in self.sums.values():
            total.zero_()

    def forget(self) -> None:
        """Remove the gradients, which eager updates make anew."""
        for parameter in self.session.parameters:
            parameter.grad = None

    def differs(
        self, before: dict[str, list[Tensor]], wanted: dict[str, list[Tensor]], of_the_step: float, of_the_value: float
    ) -> str:
        """Return in what the state differs from `wanted`, the result of an eager update from `before`; "" if in nothing.

        of_the_step, of_the_value: largest differences, relative to the change and to the value.
        """
        for name, mine in self.state.items():
            squares = torch.zeros(3, dtype=torch.float64)
            for tensor, old, new in zip(mine, before[name], wanted[name], strict=True):
                found, old, new = tensor.detach().cpu().double(), old.double(), new.double()
                changed = torch.stack([(found - new).norm(), (new - old).norm(), new.norm()]).square()
                same = torch.equal(found, new)  # also where both are infinite
                squares += torch.zeros(3) if same else changed
            off, step, value = squares.sqrt().tolist()
            if not off <= of_the_step * step + of_the_value * value:
                return f"the {name} of a recorded update differ from an eager one's by {off / (step or math.nan):.2g} of its step"
        return ""


def _nothing() -> None:
    pass


def _one_line(error: Exception) -> str:
    """Return the first line of what went wrong first: ending a recording that failed raises once more."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")[:MOST_WORDS]


def flattened(inputs: Micro) -> list[Tensor]:
    """Return the tensors on the device, always in the same order."""
    found: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    inputs.map(add)
    return found
