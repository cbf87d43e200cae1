"""Several real processes: they stop together, they end together, and it does not matter how many they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowkit.distributed import environment as environments
from flowkit.errors import PeerLost
from flowkit.recipe import recipe_from_dict
from tests import processes
from tests.test_two_processes import distance, tensors

RECIPE = """
[run]
name = "run"
[data]
source = "8gaussians-labelled"
num_samples = 400
val_fraction = {val_fraction}
[model]
arch = "selu_mlp"
hidden_dim = 32
[optim]
lr = 1e-3
[train]
steps = {steps}
batch_size = 32
log_every = {log_every}
val_every = 20
save_every = 20
[sample]
every = "never"
"""
LONG = {"steps": 10**6, "log_every": 10**5, "val_fraction": 0.0}  # no log step comes along: they agree without
TRAIN = ("-m", "flowkit", "train", "recipe.toml", "-q")
# Trains the recipe of its folder; the rank of the first argument fails as its second says, after some updates.
FAILING = """
import os, signal, sys
import torch, flowkit

class Failing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = torch.nn.Linear(3, 2), 0

    def forward(self, x, t, class_label=None, condition=None, cond_drop=None):
        self.calls += 1
        if self.calls == 40 and os.environ["RANK"] == sys.argv[1]:
            if sys.argv[2] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this rank has met a defect")
        return self.net(torch.cat((x, t[:, None]), 1))

flowkit.train("recipe.toml", model=Failing())
"""


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def recipe(folder: Path, **values: float) -> None:
    (folder / "recipe.toml").write_text(RECIPE.format(**{"val_fraction": 0.2, "log_every": 10, "steps": 40, **values}))


def start(
    folder: Path, count: int, *command: str, launcher: tuple[str, ...] = (), enter: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    launcher = launcher or ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return subprocess.Popen(
        [*enter, sys.executable, *launcher, *command], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ranks(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = {}
    for child in children:
        for variable in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                found[int(variable[5:])] = int(child)
    return found


def until(what, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


def training(launcher: subprocess.Popen[str] | processes.Started, folder: Path) -> Path:
    """The checkpoints of the run, when there is one."""
    checkpoints = folder / "runs" / "run" / "checkpoints"
    until(lambda: launcher.poll() is not None or (checkpoints.exists() and any(checkpoints.glob("step-*"))))
    assert launcher.poll() is None
    return checkpoints


def test_a_signal_to_any_rank_stops_all_of_them(tmp_path):
    recipe(tmp_path, **LONG)
    both = processes.start(tmp_path, processes.flowkit, *TRAIN[2:], ranks=2)
    checkpoints = training(both[0], tmp_path)
    both[1].send_signal(signal.SIGUSR1)
    assert [rank.wait(60) for rank in both] == [128 + signal.SIGUSR1] * 2, both[0].err
    assert "Traceback" not in both[0].err
    state = json.loads((checkpoints / "latest" / "state.json").read_text())
    assert len(state["meters"]["values"]) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_launcher_that_is_stopped_leaves_a_checkpoint_and_no_orphan(tmp_path, number):
    recipe(tmp_path, **LONG)
    launcher = start(tmp_path, 2, *TRAIN)
    checkpoints = training(launcher, tmp_path)
    steps, trainers = len(list(checkpoints.glob("step-*"))), ranks(launcher).values()
    launcher.send_signal(number)
    said, _ = launcher.communicate(timeout=60)
    until(lambda: not any(map(running, trainers)), 30)
    assert "flowkit/training" not in said and launcher.returncode == (-number if number == signal.SIGKILL else 1), said
    assert json.loads((checkpoints / "latest" / "state.json").read_text())["step"] > 20 * steps


def failing(folder: Path) -> None:
    recipe(folder, **LONG)
    text = (folder / "recipe.toml").read_text().replace('arch = "selu_mlp"\nhidden_dim = 32', 'arch = "custom"')
    (folder / "recipe.toml").write_text(text)
    (folder / "failing.py").write_text(FAILING)


def test_failing_rank_ends_the_other_and_reports_first(tmp_path):
    failing(tmp_path)
    launcher = start(tmp_path, 2, "failing.py", "1", "raise")
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    lost = said.index("process 0 of 2: another process of this run has ended")
    assert said.index("RuntimeError: this rank has met a defect") < lost
    assert said.count("in one_update") == 1  # one traceback, of the rank that failed


def test_a_rank_that_is_killed_takes_the_other_down(tmp_path):
    failing(tmp_path)
    both = processes.start(tmp_path, processes.script, tmp_path / "failing.py", "1", "kill", ranks=2)
    assert [rank.wait(60) for rank in both] == [1, -signal.SIGKILL]
    assert "process 0 of 2: another process of this run has ended" in both[0].err
    assert "flowkit/training/loop.py" not in both[0].err


@pytest.mark.parametrize(
    ("said", "expected"),
    [("[..buffer.cc:78] Timed out waiting 7200000ms for recv operation to complete", r"train\.timeout_hours = 0\.5.*--resume"),
     ("[..pair.cc:534] Connection closed by peer [127.0.0.1]:2344", "another process of this run has ended")],
)  # fmt: skip
def test_lost_or_silent_process_is_one_message(monkeypatch, said, expected):
    changes = ["model.arch=mlp", "train.steps=1", "train.timeout_hours=0.5"]
    silent = SimpleNamespace(rank=1, world_size=2)
    monkeypatch.setattr(environments, "start", lambda recipe: silent)
    aborted, nccl = [], SimpleNamespace(abort=lambda: aborted.append(True))
    group = SimpleNamespace(WORLD=SimpleNamespace(_get_backend=lambda device: nccl))
    fake = SimpleNamespace(is_initialized=lambda: True, get_backend=lambda: "nccl", GroupMember=group)
    monkeypatch.setattr(environments, "distributed", fake)
    with pytest.raises(PeerLost, match=rf"process 1 of 2.*{expected}"):  # noqa: SIM117
        with environments.joined(recipe_from_dict({"run": {"name": "silent"}}, changes)):
            raise RuntimeError(said)
    assert aborted == [True]  # pending collectives would never end
    with pytest.raises(RuntimeError, match="a defect"):  # noqa: SIM117
        with environments.joined(recipe_from_dict({"run": {"name": "silent"}}, changes)):
            raise RuntimeError("a defect")
    assert aborted == [True]  # the others wait, and this process reports first


class Host:
    """What one machine of two is: where the system lets us, a network of its own, with one cable to the other."""

    def __init__(self, name: str, address: str):
        self.name, self.address = name, address
        self.enter: tuple[str, ...] = ("ip", "netns", "exec", name) if name else ()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts in network namespaces, where the host name resolves to the loopback, as on many machines, or not at all."""
    one, two = f"one{os.getpid()}", f"two{os.getpid()}"
    commands = [f"ip netns add {one}", f"ip netns add {two}",
                f"ip link add v{one} netns {one} type veth peer name v{two} netns {two}"]  # fmt: skip
    for name, address in ((one, "10.213.7.1"), (two, "10.213.7.2")):
        commands += [f"ip -n {name} addr add {address}/24 dev v{name}", f"ip -n {name} link set v{name} up",
                     f"ip -n {name} link set lo up"]  # fmt: skip
    allowed = shutil.which("ip") is not None and all(
        subprocess.run(command.split(), capture_output=True, check=False).returncode == 0 for command in commands
    )
    try:
        yield (
            (Host(one, "10.213.7.1"), Host(two, "10.213.7.2"))
            if allowed
            else (Host("", "127.0.0.1"), Host("", "127.0.0.1"))
        )
    finally:
        if shutil.which("ip") is not None:
            for name in (one, two):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_launchers_do_what_one_process_does(tmp_path, hosts):
    """As on two machines that both have a local rank 0. There is one validation row, so one rank has none."""
    recipe(tmp_path, val_fraction=1 / 400)
    (alone,) = processes.start(tmp_path, processes.flowkit, *TRAIN[2:], "--set", "run.name=one")
    assert alone.wait() == 0, alone.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launchers = [
        start(tmp_path, 1, *TRAIN, enter=host.enter, launcher=(
            "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "2",
            "--machine_rank", str(machine), "--main_process_ip", hosts[0].address, "--main_process_port", port,
            "--mixed_precision", "no", "--dynamo_backend", "no",
        ))
        for machine, host in enumerate(hosts)
    ]  # fmt: skip
    for launcher in launchers:
        said, _ = launcher.communicate(timeout=120)
        assert launcher.returncode == 0, said
    assert distance(tensors(tmp_path, "run"), tensors(tmp_path, "one")) < 1e-5
    assert distance(tensors(tmp_path, "run", "ema"), tensors(tmp_path, "one", "ema")) < 1e-5
    lines, wanted = ((tmp_path / "runs" / run / "metrics.jsonl").read_text().splitlines() for run in ("run", "one"))
    for mine, other in zip(map(json.loads, lines), map(json.loads, wanted), strict=True):
        for name in mine.keys() & {"step", "loss", "lr", "grad_norm", "val_loss", "val_zero_loss"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-4), name
