"""A Slurm cluster of this machine alone, started and stopped by its tests."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.experiments.conftest import folder  # noqa: F401

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sacct")
FOUND = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in PROGRAMS}
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
JobRequeue=1
RequeueExit=75
KillWait=120
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """One node, on the loopback interface.

    Attributes:
        folder: of everything that its daemons write.
        environment: of its clients.
    """

    folder: Path
    environment: Mapping[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str | Path) -> None:
        log = (self.folder / f"{Path(command[0]).name}.out").open("wb")
        self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def run(self, *command: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
        """A client, such as sbatch or scontrol."""
        return subprocess.run(
            command, env=self.environment, check=check, capture_output=True, text=True, **options
        )

    def stop(self) -> None:
        """End the jobs, whose step daemons would outlive the others, and then the daemons."""
        end = time.monotonic() + 60
        if len(self.daemons) == 3:
            self.run("scancel", "--state=RUNNING", check=False)
            self.run("scancel", "--state=PENDING", check=False)
            while self.run("squeue", "-h", check=False).stdout.strip() and time.monotonic() < end:
                time.sleep(1)
            time.sleep(2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def wait_for(self, text: str, *command: str, seconds: float = 60) -> str:
        """Until a client prints a text."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            printed = self.run(*command, check=False).stdout
            if text in printed:
                return printed
            time.sleep(0.5)
        raise TimeoutError(f"{' '.join(command)} never printed {text!r}: {printed}")

    def wait(self, job: str, seconds: float = 300) -> None:
        """Until a job is over."""
        end = time.monotonic() + seconds
        while self.run("squeue", "-h", "-j", job, check=False).stdout.strip():
            if time.monotonic() > end:
                raise TimeoutError(f"job {job} is not over after {seconds} s")
            time.sleep(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = [name for name, path in FOUND.items() if path is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'Slurm'} (slurm-wlm, munge)")
    # Short: a path of a socket has at most 107 characters.
    home = Path(tmp_path_factory.mktemp("slurm"))
    for name in ("state", "spool"):
        (home / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    config = CONFIG.format(host=host, folder=home, ports=free_ports(2))
    (home / "slurm.conf").write_text(config)
    key = home / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTEST"))}
    environment["SLURM_CONF"] = str(home / "slurm.conf")
    made = Cluster(home, environment)
    try:
        made.start(
            *(str(FOUND["munged"]), "--foreground", "--force", "--key-file", key),
            *("--socket", home / "munge.socket", "--pid-file", home / "munge.pid"),
            *("--log-file", home / "munge.log", "--seed-file", home / "munge.seed"),
        )
        time.sleep(1)
        made.start(str(FOUND["slurmctld"]), "-D", "-f", home / "slurm.conf")
        made.start(str(FOUND["slurmd"]), "-D", "-f", home / "slurm.conf", "-N", host)
        made.wait_for("idle", "sinfo", "-h")
        yield made
    finally:
        made.stop()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
