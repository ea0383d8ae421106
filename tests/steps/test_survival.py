"""Jobs that are killed, disks that are full, files that are damaged: the run continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from checkout import CONTEXTS, Checkout

from proxykv.cli import main
from proxykv.runs.status import status
from proxykv.runtime.journal import Journal
from proxykv.runtime.lock import Holder, Lock

PATIENCE = 300
"""Seconds, many times what a quiet machine takes."""

ATTEMPTS = 10
"""A job of a few short contexts may end before it is shot at; then its task is answered again."""

MEASURED = ["prefill_seconds", "score_seconds", "decode_seconds", "decode_rows", "created"]
"""Columns in which two runs of the same thing differ."""


@pytest.fixture
def unanswered(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A run of which one task is to be answered again; what its jobs logged before is gone."""
    monkeypatch.chdir(checkout.folder)
    forget(checkout)
    return checkout


def forget(checkout: Checkout) -> None:
    assert main(["forget", "--config", str(checkout.run.dir / "config.json"), "--task", "vt"]) == 0
    for log in (checkout.run.dir / "logs" / "generate").iterdir():
        log.unlink()


def command(checkout: Checkout) -> list[str]:
    return ["snakemake", *checkout.arguments(checkout.rows_file("vt"))]


def until(done: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


def holder(checkout: Checkout) -> Holder | None:
    found = Journal(checkout.journal("vt")).lock.holder()
    return found if found and found.alive else None


def start_job(checkout: Checkout) -> subprocess.Popen[str]:
    """Answer the task's questions as the workflow's job does, which logs to the same file."""
    call = "proxykv generate tiny tiny vt --config"
    with checkout.log_file("vt").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *call.split(), str(checkout.run.dir / "config.json")],
            env=checkout.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def finish(checkout: Checkout) -> None:
    assert start_job(checkout).wait() == 0
    config = str(checkout.run.dir / "config.json")
    assert main(["grade", "tiny", "tiny", "vt", "--config", config]) == 0


def at_work(checkout: Checkout, process: subprocess.Popen[str]) -> Holder | None:
    """Who answers the task's questions, once another answer is on disk."""
    before = len(checkout.contexts("vt", "answered"))
    until(lambda: len(checkout.contexts("vt", "answered")) > before or process.poll() is not None)
    return holder(checkout)


def started(
    checkout: Checkout, start: Callable[[], subprocess.Popen[str]]
) -> tuple[subprocess.Popen[str], Holder]:
    """What was started, and the job that is in the middle of the task."""
    for _ in range(ATTEMPTS):
        process = start()
        if job := at_work(checkout, process):
            return process, job
        assert process.wait() == 0, checkout.log("vt")
        forget(checkout)
    pytest.fail("every job had ended before it could be shot at")


def check_that_none_is_lost_and_none_answered_twice(
    checkout: Checkout, finished_run: Checkout, kills: int
) -> None:
    """Counted by what the jobs logged. And the rows are those of an undisturbed run."""
    answered = checkout.contexts("vt", "answered")
    # A kill can fall between a context's last byte in the journal and its line in the log.
    assert len(answered) == len(set(answered)) >= CONTEXTS - kills, checkout.log("vt")
    check_that_the_rows_are_those_of(finished_run, checkout)


def check_that_the_rows_are_those_of(finished_run: Checkout, checkout: Checkout) -> None:
    ours, theirs = (c.rows("vt").drop(columns=MEASURED) for c in (checkout, finished_run))
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_job_that_is_killed_goes_on_at_the_next_context(
    unanswered: Checkout, finished_run: Checkout
) -> None:
    """SIGTERM is what a job gets that is pre-empted or out of time: it ends at once."""
    for how in (signal.SIGKILL, signal.SIGTERM):
        job, found = started(unanswered, lambda: start_job(unanswered))
        os.kill(found.pid, how)
        assert job.wait(timeout=5) == -how
        assert status(unanswered.run)[1]["error"] == "killed"
        # What a kill in the middle of a write leaves behind.
        with unanswered.journal("vt").open("a", encoding="utf-8") as file:
            file.write('\n{"context_id": "cut sh')
    finish(unanswered)
    check_that_none_is_lost_and_none_answered_twice(unanswered, finished_run, kills=2)


def test_what_a_killed_snakemake_leaves_is_ended_and_the_run_goes_on(
    unanswered: Checkout, finished_run: Checkout
) -> None:
    workflow, orphan = started(unanswered, lambda: unanswered.start(*command(unanswered)))
    os.kill(orphan.pid, signal.SIGSTOP)  # it still runs when people come back
    workflow.kill()
    workflow.wait()
    assert holder(unanswered) == orphan
    unanswered.python("proxykv", "recover", *command(unanswered))
    check_that_none_is_lost_and_none_answered_twice(unanswered, finished_run, kills=1)


def test_a_step_that_is_called_by_hand_claims_its_familys_gpus(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tiny family requests none, so all are hidden, as they are in the workflow."""
    monkeypatch.chdir(checkout.folder)
    config = str(checkout.run.dir / "config.json")
    with caplog.at_level("INFO"):
        assert main(["generate", "tiny", "tiny", "vt", "--config", config]) == 0
    assert "GPUs []" in caplog.text


def test_recovery_leaves_a_living_snakemake_alone(unanswered: Checkout) -> None:
    with Lock(unanswered.run.dir / "workflow.lock").held():
        done = unanswered.start("proxykv", "recover", *command(unanswered))
        output, _ = done.communicate()
    assert done.returncode == 2
    assert f"snakemake runs (pid {os.getpid()} on " in output


def test_a_second_snakemake_on_a_run_is_refused_by_name(unanswered: Checkout) -> None:
    config = unanswered.run.dir / "config.json"
    before = config.read_text("utf-8")
    with Lock(unanswered.run.dir / "workflow.lock").held():
        unanswered.config["retentions"] = [0.2, 1.0]
        second = unanswered.start(*command(unanswered))
        output, _ = second.communicate()
    assert second.returncode != 0
    assert f"workflow.lock is held by pid {os.getpid()} on " in output
    assert config.read_text("utf-8") == before
    assert unanswered.log("vt") == ""


def test_damaged_files_are_named_and_only_what_was_in_them_is_made_again(
    checkout: Checkout, finished_run: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout.folder)
    journal, predictions = checkout.journal("vt"), checkout.job("vt").file("predictions")
    before = checkout.entries("vt")
    lines = journal.read_text("utf-8").split("\n")
    assert lines[2].startswith("{")
    lines[2] = lines[2][:9] + "\0\0" + lines[2][11:]
    journal.write_text("\n".join(lines), "utf-8")
    predictions.write_bytes(predictions.read_bytes()[:-100])

    grading = checkout.start(*command(checkout), "-R", "grade")
    grading.communicate()
    assert grading.returncode != 0
    assert f"{predictions}: damaged" in checkout.logs()
    predictions.unlink()  # as it says
    checkout.python(*command(checkout))
    damaged = before[1]
    again = Journal(journal).read()[len(before) - 1 :]
    assert {(e["context_id"], e["method"]) for e in again} == {
        (damaged["context_id"], damaged["method"])
    }
    check_that_the_rows_are_those_of(finished_run, checkout)


@pytest.fixture
def small_disk(unanswered: Checkout) -> Iterator[Path]:
    """Where the task's answers go: a disk of a few kilobytes."""
    folder = unanswered.job("vt").journal.parent
    for path in folder.iterdir():
        path.unlink()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_job_and_room_lets_it_go_on(
    unanswered: Checkout, finished_run: Checkout, small_disk: Path
) -> None:
    assert start_job(unanswered).wait() != 0
    assert "No space left on device" in unanswered.log("vt")
    assert status(unanswered.run)[1]["state"] == "failed"
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    finish(unanswered)
    check_that_none_is_lost_and_none_answered_twice(unanswered, finished_run, kills=1)
