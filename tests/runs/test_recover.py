"""Recovery ends the steps of its own checkout, and no other process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.runs.recover import end_processes
from proxykv.runtime.lock import Lock

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from proxykv.runtime.lock import Lock\n"
    "lock = Lock(Path(sys.argv[1]))\n"
    "lock.take()\n"
    "print('held', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here" / "results" / "run").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def hold(lock: Path, folder: Path) -> subprocess.Popen[str]:
    """A step that works in a folder and holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        cwd=folder,
        env={"PYTHONPATH": str(catalog.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_step_of_this_checkout_is_ended(
    checkout: Path, started: list[subprocess.Popen[str]]
) -> None:
    step = hold(Path("results/run/a.lock"), checkout)
    started.append(step)
    end_processes()
    assert step.wait(10) == -signal.SIGTERM


def test_a_step_of_another_checkout_goes_on(
    checkout: Path, started: list[subprocess.Popen[str]]
) -> None:
    """Both use one cache."""
    step = hold(checkout / "results" / "run" / "a.lock", checkout.parent / "elsewhere")
    started.append(step)
    end_processes()
    assert step.poll() is None


def test_a_lock_file_cannot_name_another_process(
    checkout: Path, started: list[subprocess.Popen[str]]
) -> None:
    victim = subprocess.Popen(["sleep", "60"], cwd=checkout, text=True)
    started.append(victim)
    lock = checkout / "results" / "run" / "a.lock"
    with Lock(lock).held():
        forged = {"host": socket.gethostname(), "pid": victim.pid, "slurm_job": None}
        lock.write_text(json.dumps({**forged, "started": "now"}), "utf-8")
        assert Lock(lock).holder()
        end_processes()
    assert victim.poll() is None


def test_a_run_may_be_called_like_a_lock(checkout: Path) -> None:
    (checkout / "results" / "a.lock").mkdir()
    end_processes()


def test_recovery_needs_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recover"]) == 2
    assert capsys.readouterr().err == (
        "recover needs the command: proxykv recover snakemake --cores all\n"
    )
