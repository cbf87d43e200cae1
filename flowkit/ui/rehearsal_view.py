"""What `flowkit train --dry-run` measured, and the table of `--profile`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowkit.ui.facts import Facts, FactsBlock
from flowkit.ui.heading import heading
from flowkit.ui.quantities import duration, rate, shape, size, value
from flowkit.ui.wording import batch, plural

if TYPE_CHECKING:
    from flowkit.training.profile import Profile
    from flowkit.training.rehearsal import Rehearsal


def show_rehearsal(found: Rehearsal, console: Console) -> None:
    """Print what was measured, and what follows for the whole run."""
    started, memory, disk = found.started, found.memory, found.disk
    console.print(heading(f"dry run of {started.name}", "nothing was written", console.width))
    processes = f" · {plural(started.num_processes, 'process')}" if started.num_processes > 1 else ""
    facts: Facts = [
        ("network", Text.assemble((started.arch, "bold"), f" · {started.num_parameters:,} parameters")),
        ("data", f"{started.data} · {started.train_rows:,} training {started.noun} and {started.val_rows:,} for validation "
                 f"· {shape(started.x_shape)}"),
        ("device", f"{started.device}{processes} · {started.precision}"),
        ("length", f"{plural(started.total_steps, 'update')} of {batch(started)} {started.noun} "
                   f"· {started.total_steps / started.steps_per_epoch:,.1f} epochs"),
    ]  # fmt: skip
    console.print(FactsBlock(facts))

    console.print(heading("time", "measured", console.width))
    per_second = started.batch_size / found.update
    facts = [
        ("update", Text.assemble((seconds(found.update), "bold"), (
            f"  median of {plural(found.updates_measured, 'update')}, {rate(per_second)} {started.noun}/s; "
            f"the first took {seconds(found.first_update)}", "dim"))),
    ]  # fmt: skip
    if found.validation is not None:
        facts.append(("validation", _times(found.validation, found.validations)))
    if found.sampling is not None:
        facts.append(("sampling", _times(found.sampling, found.samplings, f", NFE {found.nfe:g}")))
    total = Text.assemble((duration(found.total), "bold green"), ("  saving happens in the background", "dim"))
    if found.max_hours is not None and found.total > 3600 * found.max_hours:
        total.append(
            f"\nlonger than train.max_hours = {found.max_hours:g}: the run will stop in time to be resumed", "yellow"
        )
    facts.append(("whole run", total))
    console.print(FactsBlock(facts))

    console.print(heading("memory", "measured", console.width))
    of = f" of {size(memory.device_total)}" if memory.device_total else ""
    held = [("weights", memory.weights), ("averages", memory.averages), ("optimizer", memory.optimizer),
            ("data", memory.data)]  # fmt: skip
    facts = [
        ("peak", Text.assemble((size(memory.peak), "bold"), of, (
            "  on the device" if memory.device_total else "  of the whole process", "dim"))),
        ("of it", " · ".join(f"{name} {size(count)}" for name, count in held if count)),
    ]  # fmt: skip
    console.print(FactsBlock(facts))

    console.print(heading("disk", "", console.width))
    needed = Text.assemble((size(disk.needed), "bold"), (f"  of {size(disk.free)} free", "dim"))
    if disk.needed > disk.free:
        needed.append("\nnot enough: lower train.keep_last, or choose another run.dir", "bold red")
    facts = [
        ("checkpoint", f"{size(disk.checkpoint)} each, up to {disk.kept} kept, and one while it is written"),
        *([("snapshots", size(disk.snapshots))] if disk.snapshots else []),
        ("needed", needed),
    ]
    console.print(FactsBlock(facts))
    for note in found.notes:
        console.print(Text.assemble(("note  ", "yellow"), note), soft_wrap=True)
    if found.profile is not None:
        show_profile(found.profile, console)


def show_profile(found: Profile, console: Console) -> None:
    """Print the phases of an update, and the operations that take longest."""
    console.print(heading("where the time goes", f"{plural(found.updates, 'update')} profiled", console.width))
    whole = found.seconds or 1.0
    phases = Table.grid(padding=(0, 2))
    for name, took in found.phases:
        bar = "█" * round(24 * took / whole)
        phases.add_row(Text(name, "dim"), seconds(took), f"{100 * took / whole:.0f}%", Text(bar, "cyan"))
    phases.add_row(
        Text("one update", "dim"), Text(seconds(found.seconds), "bold"), "", Text("with the profiler's own time", "dim")
    )
    console.print(phases)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column(f"operation ({found.device})", overflow="fold", ratio=1)
    for name in ("calls", "time", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.operations:
        table.add_row(Text(one.name), f"{one.calls:,}", seconds(one.seconds), f"{100 * one.share:.1f}%")
    console.print(table)
    if found.others:
        console.print(Text(f"and {plural(found.others, 'other operation')}", "dim"))
    if found.trace is not None:
        console.print(
            Text(f"trace: {found.trace} (open it in ui.perfetto.dev or chrome://tracing)", "dim"), soft_wrap=True
        )


def seconds(took: float) -> str:
    """`1.24 s`, `35.1 ms`, `812 µs`."""
    if took >= 100:
        return duration(took)
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if took * factor >= 0.9995:
            return f"{value(took * factor)[:5].rstrip('.')} {unit}"
    return f"{took * 1e6:.0f} µs"


def _times(one: float, count: int, more: str = "") -> Text:
    words = f"  {count:,} of them, {duration(one * count)}{more}" if count else f"  not part of this run{more}"
    return Text.assemble(seconds(one), (words, "dim"))
