"""Go on after snakemake itself was killed: its jobs may still run, and its lock is still there."""

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
"""How slurm/config.yaml makes the names of its jobs begin."""

PATIENCE = 300
"""Seconds for a job to end after it was told to."""


def recover(command: Sequence[str]) -> int:
    """End what a killed snakemake left behind, then run its command again; returns its exit status.

    Raises:
        ConfigError: if a snakemake still runs in this checkout, or something does not end.
    """
    if not command or Path(command[0]).name != "snakemake":
        raise ConfigError("recover what? For instance: proxykv recover snakemake --cores all")
    for lock in Path("results").glob("*/workflow.lock"):
        if (holder := Lock(lock).holder()) and holder.alive:
            raise ConfigError(f"{lock.parent}: snakemake runs ({holder}); stop it first")
    cancel_jobs()
    end_processes()
    snakemake = [sys.executable, "-m", "snakemake", *command[1:]]
    subprocess.run([*snakemake, "--unlock"], check=True)
    return subprocess.run(snakemake, check=False).returncode


def cancel_jobs() -> None:
    """Cancel the SLURM jobs that were submitted from this folder and wait until they are gone."""
    if not shutil.which("squeue"):
        return
    if jobs := _slurm_jobs():
        log.info("cancelling SLURM jobs %s", ", ".join(jobs))
        subprocess.run(["scancel", *jobs], check=True)
    _await(_slurm_jobs, "SLURM jobs")


def end_processes() -> None:
    """End the steps that still run here and wait until they are gone: those that hold a lock."""
    for holder in _holders():
        if holder.host == socket.gethostname():
            log.info("ending %s", holder)
            os.kill(holder.pid, signal.SIGTERM)
            os.kill(holder.pid, signal.SIGCONT)  # one that is stopped would never know
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
    """Processes that hold a lock in a run's folder or in a cache."""
    runs = [Run.read(path) for path in Path("results").glob("*/config.json")]
    folders = {Path("results"), *(run.cache for run in runs)}
    locks = [Lock(path) for folder in folders for path in folder.rglob("*.lock")]
    return [holder for lock in locks if (holder := lock.holder()) and holder.alive]


def _await(left: Callable[[], Sequence[object]], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while still := left():
        if time.monotonic() > end:
            raise ConfigError(f"{what} do not end: {', '.join(map(str, still))}")
        time.sleep(1)
