"""Continue after snakemake itself was killed: its jobs may still run, and its lock remains."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from getpass import getuser
from pathlib import Path

from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.lock import Holder, Lock

log = logging.getLogger(__name__)

PREFIX = "proxykv_"
"""Beginning of the names of SLURM jobs, set in slurm/config.yaml."""

PATIENCE = 300
"""Seconds to wait for the end of jobs and processes."""


def recover(command: Sequence[str]) -> int:
    """End what a killed snakemake left behind, then run its command again.

    Args:
        command: of snakemake, beginning with `snakemake`.

    Returns:
        The exit status of the command.

    Raises:
        ConfigError: if a snakemake still runs in this checkout, or something does not end.
    """
    if not command or Path(command[0]).name != "snakemake":
        raise ConfigError("recover needs the command: proxykv recover snakemake --cores all")
    for lock in Path("results").glob("*/workflow.lock"):
        if (holder := Lock(lock).holder()) and holder.alive:
            raise ConfigError(f"{lock.parent}: snakemake runs ({holder}); stop it first")
    cancel_jobs()
    end_processes()
    snakemake = [sys.executable, "-m", "snakemake", *command[1:]]
    subprocess.run([*snakemake, "--unlock"], check=True)
    return subprocess.run(snakemake, check=False).returncode


def cancel_jobs() -> None:
    """Cancel the SLURM jobs of this folder, and wait until they have ended."""
    if not shutil.which("squeue"):
        return
    if jobs := _slurm_jobs():
        log.info("cancelling SLURM jobs %s", ", ".join(jobs))
        subprocess.run(["scancel", *jobs], check=True)
    _await(_slurm_jobs, "SLURM jobs")


def end_processes() -> None:
    """End this checkout's steps on this machine, and wait until those elsewhere have ended, too."""
    for holder in _holders():
        if holder.host == socket.gethostname():
            log.info("ending %s", holder)
            os.kill(holder.pid, signal.SIGTERM)
            os.kill(holder.pid, signal.SIGCONT)  # a stopped process ends only when it continues
    _await(_holders, "processes")


def _slurm_jobs() -> list[str]:
    """Ids of this folder's jobs that have not ended."""
    command = ["squeue", f"--user={getuser()}", "--noheader", "--format=%i|%j|%Z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        log.warning("no answer from SLURM: %s", listed.stderr.strip())
    jobs = [line.split("|", 2) for line in listed.stdout.splitlines()]
    here = str(Path.cwd())
    return [job for job, name, folder in jobs if name.startswith(PREFIX) and folder == here]


def _holders() -> list[Holder]:
    """This checkout's processes that hold a lock in a run's folder or in a cache."""
    runs = [Run.read(path) for path in Path("results").glob("*/config.json")]
    folders = {Path("results"), *(run.cache for run in runs)}
    found = (path for folder in folders for path in folder.rglob("*.lock"))
    locks = [Lock(path) for path in found if path.is_file()]  # a run may be called so
    both = ((lock, holder) for lock in locks if (holder := lock.holder()) and holder.alive)
    return [holder for lock, holder in both if _is_ours(holder, lock.path)]


def _is_ours(holder: Holder, lock: Path) -> bool:
    """Whether a process may be a step of this checkout.

    Others may use the same cache, and anyone who can write to it can name any process in a lock
    file. A process elsewhere cannot be examined.
    """
    process = Path("/proc") / str(holder.pid)
    if holder.host != socket.gethostname() or not Path("/proc/self/fd").is_dir():
        return True
    try:
        opened = {link.readlink() for link in (process / "fd").iterdir()}
        return lock.resolve() in opened and (process / "cwd").readlink() == Path.cwd()
    except OSError:  # another user's, or gone
        return False


def _await(left: Callable[[], Sequence[object]], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while remaining := left():
        if time.monotonic() > end:
            raise ConfigError(f"{what} do not end: {', '.join(map(str, remaining))}")
        time.sleep(1)
