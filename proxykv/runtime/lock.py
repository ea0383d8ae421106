"""Lock files for one process at a time, which record who holds them and how the last one ended."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from proxykv.runtime.errors import ConfigError

log = logging.getLogger(__name__)

PATIENCE = 120
"""Seconds to wait for a lock: a file server keeps the lock of a dead machine for a while."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, or that held it and failed.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        slurm_job: id of its SLURM job, if it has one.
        started: when it took the lock (ISO 8601, UTC).
        error: the exception that ended it. A process that is not `alive` and has no `error` was
            killed.
        alive: whether it holds the lock.
    """

    host: str
    pid: int
    slurm_job: str | None
    started: str
    error: str | None = None
    alive: bool = False

    def __str__(self) -> str:
        """Describe the process for messages."""
        job = f"SLURM job {self.slurm_job}, " if self.slurm_job else ""
        return f"{job}pid {self.pid} on {self.host}, since {self.started}"


class Lock:
    """A lock on a file. The system releases it when the holder dies."""

    def __init__(self, path: Path) -> None:
        """Use the lock file at `path`, which is made when the lock is first taken."""
        self.path = path
        self._file: TextIO | None = None

    def take(self, patience: float = PATIENCE) -> Holder:
        """Take the lock until `free` or the end of the process.

        Args:
            patience: seconds to wait for another holder.

        Returns:
            This process, as the file describes it.

        Raises:
            ConfigError: if another process still holds the lock after `patience` seconds.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+", encoding="utf-8")
        end = time.monotonic() + patience
        while not _locked(self._file):
            if time.monotonic() >= end:
                other = _read(self._file)
                raise ConfigError(f"{self.path} is held by {other}; let it end, or end it")
            time.sleep(0.5)
        me = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _write(self._file, me)
        return me

    def free(self) -> None:
        """Release the lock."""
        if self._file:
            self._file.close()

    @contextmanager
    def held(self, patience: float = PATIENCE) -> Iterator[None]:
        """Hold the lock during a block, and record in the file how the block ended."""
        me = self.take(patience)
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # of a full disk, which may be the error itself
                _write(self._file, replace(me, error=f"{type(error).__name__}: {error}"))
            raise
        else:
            _write(self._file, None)
        finally:
            self.free()

    def holder(self) -> Holder | None:
        """Return the process that holds the lock, or that held it and failed, if there is one."""
        if not self.path.exists():
            return None
        with self.path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return replace(_read(file) or Holder("?", 0, None, "?"), alive=True)
            except OSError:  # no locks on this file system
                pass
            return _read(file)


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s: no locks on this file system (%s)", file.name, error)
    return True


def _read(file: TextIO) -> Holder | None:
    file.seek(0)
    with suppress(json.JSONDecodeError, TypeError):
        return Holder(**json.loads(file.read()))
    return None


def _write(file: TextIO | None, holder: Holder | None) -> None:
    assert file
    file.seek(0)
    file.truncate()
    if holder:
        file.write(json.dumps(asdict(holder)) + "\n")
    file.flush()
