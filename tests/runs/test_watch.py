"""`proxykv status --watch`: progress until a run is done, and the time left."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.runs.watch import time_left, watch
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import write_parquet

CONFIG: dict[str, Any] = {
    "run": "watched",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": ["full", "random"],
    "benchmarks": [
        {"benchmark": "tiny", "contexts": 4, "lengths": [96], "tasks": ["single", "vt"]}
    ],
}
GRID = [("full", 1.0), ("random", 0.1)]
PAUSE = 1000  # seconds between the second context and the third


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of which `single` has answered two of four contexts, 20 seconds apart."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    run = Run(CONFIG)
    run.write()
    answer(run, "single", range(2))
    return run


def answer(run: Run, task: str, contexts: range, graded: bool = False) -> None:
    job = run.job("tiny", "tiny", task)
    names = {"family": "tiny", "benchmark": "tiny", "task": task, "question": 0}
    rows = []
    for context in contexts:
        at = 20 * context + PAUSE * (context > 1)
        created = f"2026-01-01T00:{at // 60:02}:{at % 60:02}+00:00"
        unit = names | {"context_id": f"{task}-{context}", "created": created}
        rows += [unit | {"method": method, "retention": rho} for method, rho in GRID]
    Journal(job.journal).append(rows)
    if graded:
        write_parquet(job.file("rows"), pd.DataFrame(Journal(job.journal).read()))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_follow_a_run_to_its_end(run: Run) -> None:
    steps = iter(
        [
            lambda: None,  # nothing new: no line
            lambda: answer(run, "single", range(2, 4), graded=True),
            lambda: answer(run, "vt", range(4), graded=True),
        ]
    )
    out, waited = io.StringIO(), []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        next(steps)()

    watch(run, "2.5", out, pause)
    assert waited == [2.5] * 3
    assert [line.split(" ", 1)[1] for line in out.getvalue().splitlines()] == [
        "2 of 8 contexts answered, 2 of 2 jobs to do; 0:02:00 left with 1 job at a time",
        "4 of 8 contexts answered, 1 of 2 jobs to do; 0:01:20 left with 1 job at a time",
        "8 of 8 contexts answered, 0 of 2 jobs to do",
    ]


def test_a_terminal_is_refreshed_with_all_records_until_the_user_stops(run: Run) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    watch(run, "1", out := Terminal(), stop)
    text = out.getvalue()
    assert text.startswith("\x1b[2J\x1b[H")
    assert "started" in text and "missing" in text and text.endswith("1 job at a time\n")


JOB = {"family": "a", "state": "missing", "contexts": 0, "of": 10, "seconds": None}
DONE = {"state": "done", "contexts": 10, "seconds": 2.0}


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ([{}], "; no time to go by yet"),
        ([{"contexts": 2, "seconds": 6.0}], "; 0:00:48 left with 1 job at a time"),
        (
            [{"contexts": 5, "seconds": 6.0, "state": "running"}] * 2,
            "; 0:00:30 left with 2 jobs at a time",
        ),
        # A job that is not timed goes by its family.
        (
            [DONE, DONE | {"seconds": 9.0, "family": "b"}, {}],
            "; 0:00:20 left with 1 job at a time",
        ),
        (
            [{"contexts": 5, "seconds": 6.0}, {"of": None}],
            "; at least 0:00:30 left with 1 job at a time",
        ),
        # All its contexts lack a method.
        ([{"contexts": 10, "seconds": 6.0}], "; at least 0:00:00 left with 1 job at a time"),
    ],
)
def test_the_time_left_follows_from_what_is_done(changed: list[Any], left: str) -> None:
    assert time_left("jobs", [JOB | change for change in changed]).endswith(left)


def test_fits_and_scans_have_their_own_time_left() -> None:
    fit = {"family": "a", "state": "started", "step": 300, "of": 900, "seconds": 0.1}
    later = {"family": "a", "state": "missing", "step": None, "of": None, "seconds": None}
    assert time_left("fits", [fit, later]) == (
        "300 of 900 steps trained, 2 of 2 fits to do; at least 0:01:00 left with 1 fit at a time"
    )
    scan = {"family": "a", "state": "running", "requests": 6, "of": 24, "seconds": 2.0}
    assert time_left("scans", [scan]) == (
        "6 of 24 requests measured, 1 of 1 scans to do; 0:00:36 left with 1 scan at a time"
    )


@pytest.mark.parametrize("every", ["0", "-1", "soon", "nan", "inf"])
def test_an_interval_that_makes_no_sense_is_refused(
    run: Run, every: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(run.dir / "config.json")
    assert main(["status", "--config", config, f"--watch={every}"]) == 2
    assert capsys.readouterr().err == (
        f"--watch {every}: no number of seconds from 1 on, such as --watch 10\n"
    )


def test_a_finished_run_is_shown_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    answer(run, "single", range(2, 4), graded=True)
    answer(run, "vt", range(4), graded=True)
    assert main(["status", "--config", str(run.dir / "config.json"), "--watch"]) == 0
    assert capsys.readouterr().out.count("8 of 8 contexts answered") == 1
