"""What flowkit wrote itself, after a stranger had it: checkpoints, runs, prepared data and recipes, changed in every place."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import flowkit
from flowkit import cli
from flowkit.checkpoint.sidecar import check_fields
from flowkit.checkpoint.state import read_resume_state
from flowkit.cli.look import as_json as report_as_json
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.data_source import with_split
from flowkit.decode import decode
from flowkit.ema.post_hoc import reconstruct_ema
from flowkit.errors import UserError
from flowkit.inspect import inspect
from flowkit.recipe import load_recipe
from flowkit.recipe.dump import dump_toml
from flowkit.ui.inspect_view import show
from tests.conftest import sketch_rows
from tests.mutations import as_json, changed, changed_lines, changed_tensors, deep, examples, mangled, read

torch.zeros(1)  # memory that torch takes at its first use is not due to the file
RECIPE = {
    "data": {"num_samples": 64, "val_fraction": 0.25},
    "train": {"steps": 4, "batch_size": 16, "log_every": 2, "val_every": 2, "save_every": 2},
    "sample": {"every": "never", "steps": 2},
}

RUNS = {
    "points": {"data": {**RECIPE["data"], "source": "moons-labelled"}, "model": {"arch": "selu_mlp", "hidden_dim": 8},
               "ema": {"power": [0.05, 0.1], "snapshot_every": 2}},
    "sketches": {"data": {"source": "doodles", "num_samples": 64, "val_fraction": 0.25, "normalizer": "whitening"},
                 "model": {"arch": "bezier_sketch_dit", "embed_dim": 16, "num_layers": 1, "num_heads": 2},
                 "flow": {"path": {"name": "vp"}, "times": "uniform"},
                 "sample": {"every": "never", "steps": 2, "solver": {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2}}},
}  # fmt: skip

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two small runs, without checksums, because someone who changes a file can also remove them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, sections in RUNS.items():
        flowkit.train({**RECIPE, **sections, "run": {"name": name, "dir": str(folder)}})
    for listed in folder.rglob("checksums.json"):
        listed.unlink()
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("strangers")


def fresh(place: Path, source: Path) -> Path:
    """A copy that may be spoiled; the links among its files stay links."""
    copy = place / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, symlinks=True)
    return copy


def looked_at(path: Path) -> None:
    """Both forms of `flowkit inspect`, as a terminal and a program take them."""
    report = inspect(path)
    report_as_json(report).encode("utf-8")
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show(report, console)
    console.file.getvalue().encode("utf-8")  # type: ignore[attr-defined]


def sampled(path: Path) -> None:
    flowkit.load(path).sample(2)


def checkpoint_of(run: Path) -> Path:
    return (run / "checkpoints" / "latest").resolve()


@pytest.mark.parametrize(("name", "count"), [("points", 60), ("sketches", 30)])
def test_a_sidecar(runs, place, name, count):
    run = fresh(place, runs / name)
    path = checkpoint_of(run) / "model.json"
    whole = json.loads(path.read_text())
    outcomes = []

    @examples(count)
    @given(changed(whole) | changed(whole, most=1))
    def fuzz(content):
        path.write_bytes(as_json(content))
        read(lambda: looked_at(run), place)
        outcomes.append(read(lambda: sampled(run), place))

    fuzz()
    assert {True, False} <= set(outcomes)


def test_weights(runs, place):
    run = fresh(place, runs / "sketches")
    files = [checkpoint_of(run) / name for name in ("model.safetensors", "ema.safetensors", "normalizer.safetensors")]
    whole = {path: path.read_bytes() for path in files}
    outcomes = []

    @examples(40)
    @given(st.sampled_from(files), st.data())
    def fuzz(path, data):
        path.write_bytes(data.draw(changed_tensors(whole[path])))
        try:
            read(lambda: looked_at(run), place)
            outcomes.append(read(lambda: sampled(run), place))
        finally:
            path.write_bytes(whole[path])

    fuzz()
    assert {True, False} <= set(outcomes)


def test_the_other_files_of_a_run(runs, place):
    run = fresh(place, runs / "points")
    latest = checkpoint_of(run)
    files = {
        path: json.loads(path.read_text()) for path in (latest / "state.json", *run.glob("ema/step-*/snapshot.json"))
    }
    files[latest / "checksums.json"] = {"format": 1, "crc32": {"model.json": "00000000", "state.json": "x"}}
    metrics = run / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]

    @examples(50)
    @given(st.sampled_from([metrics, run / "recipe.toml", *files]), st.data())
    def fuzz(path, data):
        whole = path.read_bytes() if path.exists() else None
        if path == metrics:
            path.write_bytes(data.draw(changed_lines(rows)))
        elif path.suffix == ".toml":
            path.write_bytes(data.draw(mangled(path.read_bytes())))
        else:
            path.write_bytes(as_json(data.draw(changed(files[path]))))
        try:
            for action in (looked_at, lambda run: read_resume_state(latest), lambda run: reconstruct_ema(run, 0.07)):
                read(lambda action=action: action(run), place)
        finally:
            path.unlink() if whole is None else path.write_bytes(whole)

    fuzz()


def test_what_a_resumed_run_reads(runs, place):
    """state.json, the moments, the averages' snapshots and the log of metrics, by `--resume` itself."""
    recipe = {**RECIPE, **RUNS["points"], "train": {**RECIPE["train"], "steps": 5},
              "run": {"name": "copy", "dir": str(place)}}  # fmt: skip
    run = fresh(place, runs / "points")
    state = json.loads((checkpoint_of(run) / "state.json").read_text())
    moments = (checkpoint_of(run) / "optimizer.safetensors").read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    outcomes = []

    @examples(40)
    @given(
        st.one_of(
            st.tuples(st.just("state.json"), (changed(state) | changed(state, most=1)).map(as_json)),
            st.tuples(st.just("optimizer.safetensors"), changed_tensors(moments)),
            st.tuples(st.just("../../metrics.jsonl"), changed_lines(rows)),
        )
    )
    def fuzz(change):
        run = fresh(place, runs / "points")
        (checkpoint_of(run) / change[0]).write_bytes(change[1])
        outcomes.append(read(lambda: flowkit.train(recipe, resume=True), place))

    fuzz()
    assert {True, False} <= set(outcomes)


def test_a_checkpoint_folder(runs, place):
    """Files missing, folders and pipes in their place, links in circles, one file under the name of another."""
    names = ["model.json", "model.safetensors", "ema.safetensors", "state.json", "optimizer.safetensors", "../latest",
             "../../recipe.toml",
             "../../metrics.jsonl", "checksums.json"]  # fmt: skip

    @examples(20)
    @given(
        st.lists(st.tuples(st.sampled_from(names), st.integers(0, 6), st.sampled_from(names)), min_size=1, max_size=3)
    )
    def fuzz(changes):
        run = fresh(place, runs / "points")
        latest = checkpoint_of(run)
        for name, kind, other in changes:
            path, source = latest / name, latest / other
            content = (
                source.read_bytes()
                if Path(os.path.realpath(source)).is_relative_to(run) and source.is_file()
                else b"{}"
            )
            if path.is_symlink() or path.is_file():
                path.unlink()
            if path.exists() or path.is_symlink():
                continue
            if kind == 0:
                path.mkdir()
            elif kind == 1:
                os.mkfifo(path)
            elif kind == 2:
                path.symlink_to(path.name)
            elif kind == 3:
                path.symlink_to("/dev/zero")
            elif kind == 4:
                path.write_bytes(content)
            elif kind == 5:
                path.symlink_to("/proc/self/mem")
        for action in (looked_at, sampled):
            read(lambda action=action: action(run), place)
            read(lambda action=action: action(latest), place)
        read(lambda: read_resume_state(latest), place)

    fuzz()


def prepared(folder: Path) -> Path:
    rows = sketch_rows(6)
    data = Dataset(
        "sketch", rows["x"], rows["class_label"], np.zeros((6, 3), np.float32), np.zeros(6, np.uint8),
        rows["class_names"], {"source": "made up", "codec": {"name": "mini-sonar", "dimension": 8}},
        texts=[f"row {i}" for i in range(6)],
    )  # fmt: skip
    return write_dataset(folder / "data", data)


def test_prepared_data(place):
    tensors = prepared(place / "prepared")
    sidecar, texts = tensors.with_suffix(".json"), tensors.with_suffix(".jsonl")
    whole = {path: path.read_bytes() for path in (tensors, sidecar, texts)}
    lines = [json.loads(line) for line in whole[texts].splitlines()]
    out = place / "pictures"
    outcomes = []

    def used() -> None:
        data = read_dataset(tensors)
        list(data.texts or ())
        with_split(data, 0.2, None, 0, "data")
        decode(tensors, out=out)

    @examples(80)
    @given(st.sampled_from(list(whole)), st.data())
    def fuzz(path, data):
        change = {
            tensors: changed_tensors(whole[tensors]),
            sidecar: changed(json.loads(whole[sidecar])).map(as_json) | mangled(whole[sidecar]),
            texts: changed_lines(lines),
        }
        path.write_bytes(data.draw(change[path]))
        try:
            read(lambda: looked_at(tensors), out)
            outcomes.append(read(used, out))
        finally:
            path.write_bytes(whole[path])
            shutil.rmtree(out, ignore_errors=True)

    fuzz()
    assert {True, False} <= set(outcomes)


def test_a_recipe(place):
    path = place / "recipe.toml"
    tables = {**RECIPE, **RUNS["sketches"], "run": {"name": "a", "seed": 3}}
    from flowkit.recipe import recipe_from_dict

    text = dump_toml(recipe_from_dict(tables))
    words = ["[", "]", "{", "}", "=", '"', "'''", "\n", "\\u0000", "\\ud800", "1e400", "-1", "nan", "[[x]]", "[run]",
             "a.b.c = 1", "0x", "9" * 5000,
             "[" * 300, "1979-05-27", "true", "#", "../x", "9" * 30]  # fmt: skip

    @examples(150)
    @given(st.data())
    def fuzz(data):
        lines = text.splitlines()
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(lines) - 1))
            key, equals, _ = lines[at].partition("=")
            word = data.draw(st.sampled_from(words))
            lines[at] = data.draw(
                st.sampled_from([word, f"{key}{equals} {word}", f"{lines[at]}{word}", lines[at] * 2, ""])
            )
        raw = "\n".join(lines).encode("utf-8", "surrogatepass")
        path.write_bytes(data.draw(mangled(raw)) if data.draw(st.integers(0, 3)) == 0 else raw)
        read(lambda: load_recipe(path))
        read(lambda: looked_at(path))

    fuzz()


def test_command_prints_one_line(runs, place, monkeypatch, capfd):
    """Through `main`: status 2 and a message, or success; never a traceback."""
    run = fresh(place, runs / "points")
    path = checkpoint_of(run) / "model.json"
    whole = json.loads(path.read_text())
    commands = (["inspect", str(run)], ["inspect", str(run), "--json"],
                ["sample", "--ckpt", str(run), "-n", "2", "--steps", "1", "--out", str(place / "out")])  # fmt: skip

    @examples(5)
    @given(changed(whole, most=1))
    def fuzz(content):
        path.write_bytes(as_json(content))
        for command in commands:
            monkeypatch.setattr(sys, "argv", ["flowkit", *command])
            with pytest.raises(SystemExit) as left:
                read(cli.main, place)
            said = capfd.readouterr()
            assert left.value.code in (0, None, 2)
            assert "Traceback" not in said.err and (left.value.code != 2 or said.err.startswith("error: "))

    fuzz()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"format": 1e400}', b'{"format": true}', as_json(deep(900))]
)
def test_foreign_json(tmp_path, content):
    (tmp_path / "data.json").write_bytes(content)
    (tmp_path / "data.safetensors").write_bytes(b"")
    with pytest.raises(UserError):
        inspect(tmp_path / "data.json")


@pytest.mark.parametrize("losses", [[[]], 3, {"0.999": "low"}])
def test_losses_of_averages_that_are_no_table_of_numbers(tmp_path, losses):
    """Found by the fuzz: `inspect` took them for a table."""
    content = json.loads((FIXTURES / "runs/points-selu/checkpoints/latest/model.json").read_text())
    content["validation"] = {"loss": 1.0, "ema_losses": losses}
    with pytest.raises(UserError, match="'validation' is not a table of numbers"):
        check_fields(tmp_path / "model.json", content)
