"""A lock is held by one process at a time, says by whom, and how the last holder ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxykv.config import catalog
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.lock import Holder, Lock


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return Lock(tmp_path / "new" / "task.lock")


@pytest.fixture
def other(lock: Lock) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom proxykv.runtime.lock import Lock\n"
        f"with Lock(Path({str(lock.path)!r})).held():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=catalog.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.communicate()


def test_a_second_process_is_refused_and_the_holder_named(
    lock: Lock, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(ConfigError, match=rf"task.lock is held by pid {other.pid} on "):
        lock.take(patience=0)
    holder = lock.holder()
    assert holder and holder.alive and holder.pid == other.pid


def test_a_patient_process_waits_for_its_turn(lock: Lock, other: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError):
        lock.take(patience=0)
    leaving = threading.Timer(1, other.communicate)
    leaving.start()
    with lock.held():
        holder = lock.holder()
        assert holder and holder.pid == os.getpid()
    leaving.join()


def test_a_lock_that_was_given_back_has_no_holder(lock: Lock) -> None:
    assert lock.holder() is None
    with lock.held(patience=0):
        assert lock.holder()
    assert lock.holder() is None


def test_a_killed_holder_gives_the_lock_back_and_is_remembered(
    lock: Lock, other: subprocess.Popen[str]
) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    holder = lock.holder()
    assert holder and not holder.alive and holder.pid == other.pid and holder.error is None
    with lock.held(patience=0):
        pass
    assert lock.holder() is None


def test_an_error_is_remembered(lock: Lock) -> None:
    with pytest.raises(OSError), lock.held():
        raise OSError(28, "No space left on device")
    holder = lock.holder()
    assert holder and holder.error == "OSError: [Errno 28] No space left on device"


def test_the_slurm_job_is_named(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    with lock.held():
        assert str(lock.holder()).startswith("SLURM job 123, pid ")


def test_damage_does_not_stop_the_next_holder(lock: Lock) -> None:
    lock.path.parent.mkdir()
    lock.path.write_text('{"host": "x", "pi')
    assert lock.holder() is None
    with lock.held(patience=0):
        assert isinstance(lock.holder(), Holder)
    lock.path.write_text(json.dumps({"host": "x", "of": "another version"}))
    assert lock.holder() is None
