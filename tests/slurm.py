"""A Slurm cluster of one node on this machine, from Debian's packages: apt install slurmctld slurmd slurm-client.

The daemons are started directly, as this user, with files in a folder of the test, without authentication and control groups.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
# cred_expire: a requeued job waits for so many seconds.
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> list[str]:
    """Return the programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """A running cluster. Used as a context manager, it ends its daemons."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        import pwd

        user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, ports=_free_ports(2), user=user, folder=folder, cpus=cpus)
        (folder / "slurm.conf").write_text(text)
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"),
                            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}  # fmt: skip
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        for command in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"]):
            with (self.folder / f"{command[0]}.out").open("wb") as log:
                self._daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))
        self.wait(lambda: "State=IDLE" in self.run("scontrol", "show", "node", check=False), 60, "an idle node")
        return self

    def __exit__(self, *exception: object) -> None:
        self.run("scancel", "--user", self.run("id", "-un").strip(), check=False)
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(30)

    def run(self, *words: str, check: bool = True, cwd: Path | None = None) -> str:
        done = subprocess.run(words, env=self.environment, cwd=cwd, capture_output=True, text=True)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def submit(self, *words: str, cwd: Path, **variables: str) -> int:
        """Submit a batch job and return its number."""
        self.environment.update(variables)
        return int(self.run("sbatch", "--parsable", *words, cwd=cwd))

    def job(self, number: int) -> dict[str, str]:
        """Return what Slurm knows about a job: JobState, Restarts, ExitCode, ..."""
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", str(number), check=False)))

    def finish(self, number: int, seconds: float) -> dict[str, str]:
        """Wait until a job is done and return what Slurm knows about it. Fails if the job did."""
        self.wait(lambda: self.job(number)["JobState"] in ENDED, seconds, "finished job")
        found = self.job(number)
        output = Path(found["StdOut"])
        said = output.read_text() if output.exists() else ""
        assert found["JobState"] == "COMPLETED", (found["JobState"], found["ExitCode"], said)
        return found

    def wait(self, done, seconds: float, what: str) -> None:
        """Wait until `done()` is true."""
        last = time.monotonic() + seconds
        while not done():
            logs = "".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("slurm*.log"))
            assert time.monotonic() < last, f"no {what} after {seconds:.0f} s\n{logs}"
            time.sleep(0.5)
