"""A SLURM cluster of one node with two fake GPUs, on this machine, for this user.

    sudo python tests/cluster/one_node.py install        # Debian, Ubuntu: once
    python tests/cluster/one_node.py start /tmp/slurm    # prints what to put into the shell
    python tests/cluster/one_node.py stop /tmp/slurm

Everything it writes is in the folder. It needs no root, no systemd and no GPU: the GPUs are
devices that every Linux has, of which SLURM only passes on the number.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from getpass import getuser
from pathlib import Path

PACKAGES = ["slurm-wlm", "slurm-wlm-basic-plugins", "munge"]
DAEMONS = ["munged", "slurmctld", "slurmd"]
FAKE_GPUS = ["/dev/null", "/dev/zero"]
CPUS = 4
PATIENCE = 60
"""Seconds for a daemon to come up or go down on a busy machine."""

SLURM_CONF = """
ClusterName=laptop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# No cgroups, no MPI: what a container or a laptop lacks.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# Memory is a resource, and a job that takes more than it asked for is killed.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
# Finished jobs stay visible in squeue; there is no accounting data base.
AccountingStorageType=accounting_storage/none
MinJobAge=3600
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
ReturnToService=2
# A job that fits no partition is refused, not left waiting for ever.
EnforcePartLimits=ALL
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1
# The node may say it has more CPUs than it has, so that jobs run side by side.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:fake:{gpus}
PartitionName=cpu Nodes={host} Default=YES MaxTime=1-0
PartitionName=gpu Nodes={host} MaxTime=1-0
"""


def missing() -> list[str]:
    """Programs of SLURM that are not installed."""
    programs = [*DAEMONS, "sbatch", "squeue", "scancel", "scontrol", "sinfo"]
    return [name for name in programs if not shutil.which(name, path=_path())]


def install() -> None:
    """Install SLURM from the distribution (apt). Its own services stay off."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "-y", *command], env=environment, check=True)


def node() -> str:
    """Name of the only node."""
    return socket.gethostname().split(".", 1)[0]


def start(folder: Path) -> dict[str, str]:
    """Start the daemons in a new folder; the environment variables that lead to them."""
    folder.mkdir(mode=0o755, parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    ports = _free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(
        SLURM_CONF.format(
            folder=folder,
            host=node(),
            user=getuser(),
            ctld_port=ports[0],
            slurmd_port=ports[1],
            cpus=CPUS,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            gpus=len(FAKE_GPUS),
        )
    )
    gres = "".join(f"Name=gpu Type=fake File={device}\n" for device in FAKE_GPUS)
    (folder / "gres.conf").write_text(gres)
    settings = {"SLURM_CONF": str(conf), "PATH": f"{_srun(folder, conf)}{os.pathsep}{_path()}"}
    options = {"socket": "munge.socket", "key-file": "munge.key", "seed-file": "munge.seed"}
    options |= {"pid-file": "munged.pid", "log-file": "munged.log"}
    paths = [f"--{option}={folder}/{name}" for option, name in options.items()]
    _run(["munged", "--force", *paths], settings)
    _run(["slurmctld"], settings)
    _run(["slurmd"], settings)
    _await(lambda: "idle" in _run(["sinfo", "--noheader", "--format=%T"], settings), "the node")
    return settings


def stop(folder: Path) -> None:
    """End all jobs and the daemons, by their process ids, and wait until they are gone."""
    settings = {"SLURM_CONF": str(folder / "slurm.conf")}
    if (folder / "slurmd.pid").exists():
        _run(["scancel", "--quiet", f"--user={getuser()}"], settings)
        _await(lambda: not _run(["squeue", "--noheader"], settings), "the jobs")
    for daemon in reversed(DAEMONS):
        path = folder / f"{daemon}.pid"
        if path.exists():
            pid = int(path.read_text())
            os.kill(pid, signal.SIGTERM)
            _await(lambda pid=pid: not _alive(pid), daemon)


def _srun(folder: Path, conf: Path) -> Path:
    """A folder for PATH with an srun that finds the cluster.

    Snakemake's plugin takes SLURM_* away from its job steps, and with them the way to a slurm.conf
    that is not in the usual place.
    """
    script = folder / "bin" / "srun"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
    script.chmod(0o755)
    return script.parent


def _run(command: list[str], settings: dict[str, str]) -> str:
    environment = {**os.environ, "PATH": _path(), **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _await(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not ready after {PATIENCE} s")
        time.sleep(0.1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=["install", "start", "stop"])
    parser.add_argument("folder", nargs="?", type=lambda text: Path(text).absolute())
    options = parser.parse_args()
    if options.action == "install":
        install()
    elif not options.folder:
        parser.error("which folder?")
    elif options.action == "stop":
        stop(options.folder)
    elif gone := missing():
        sys.exit(f"not installed: {', '.join(gone)}; run: sudo python {sys.argv[0]} install")
    else:
        for name, value in start(options.folder).items():
            print(f"export {name}={value}")


if __name__ == "__main__":
    main()
