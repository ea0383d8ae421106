"""GPUs of a job: as many as it asks for, each held by one job at a time on its machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from proxykv.runtime.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 0.5
"""Seconds between two looks for a free GPU."""


@contextmanager
def claim(count: int) -> Iterator[tuple[str, ...]]:
    """Let this process see `count` GPUs that no other job has; waits until they are free.

    They are taken from those that it may see (CUDA_VISIBLE_DEVICES, or all of the machine), and
    are free again when the block ends or the process dies, however it dies. A count of 0 hides
    all GPUs. To be called before anything asks for a device. Yields the GPUs' ids.

    Raises:
        ConfigError: if the process may see fewer than `count`.
    """
    ids = visible() if count else ()
    if len(ids) < count:
        raise ConfigError(
            f"a job asks for {count} GPU(s) and may see {len(ids)}; correct `resources` in its "
            f"family's file, or {VISIBLE}"
        )
    with ExitStack() as held:
        taken = _take(ids, count, held) if count else ()
        os.environ[VISIBLE] = ",".join(taken)
        yield taken


def visible() -> tuple[str, ...]:
    """Ids of the GPUs that this process may see."""
    if VISIBLE in os.environ:
        return tuple(part.strip() for part in os.environ[VISIBLE].split(",") if part.strip())
    if not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(listed.stdout.split()) if listed.returncode == 0 else ()


def _take(ids: tuple[str, ...], count: int, held: ExitStack) -> tuple[str, ...]:
    """Lock `count` of the GPUs until `held` closes."""
    # Inside a SLURM job ids may count the job's own GPUs only: "0" is another one in every job.
    where = os.environ.get("SLURM_JOB_ID", "machine")
    folder = Path(tempfile.gettempdir()) / f"proxykv-gpus-{os.getuid()}" / where
    folder.mkdir(parents=True, exist_ok=True)
    taken: list[str] = []
    with (folder / "gate").open("w") as gate:
        # One job takes at a time: two that want several each never wait for one another.
        fcntl.flock(gate, fcntl.LOCK_EX)
        while True:
            for gpu in ids:
                if len(taken) < count and gpu not in taken and _locked(folder / gpu, held):
                    taken.append(gpu)
            if len(taken) == count:
                return tuple(taken)
            time.sleep(POLL)


def _locked(path: Path, held: ExitStack) -> bool:
    with ExitStack() as attempt:
        file = attempt.enter_context(path.open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        held.push(attempt.pop_all())
    return True
