"""Status and forgetting, on journals and tables written for the purpose."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from proxykv.cli import main
from proxykv.config import catalog, paths
from proxykv.config.efficiency import measuring_jobs
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.runs.status import fits, forget, measurements, status, status_table
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import write_parquet

DATASET = {"benchmark": "tiny", "contexts": 4, "lengths": [96]}
CONFIG: dict[str, Any] = {
    "run": "progress",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": ["full", "random", "prior", "kvzip"],
    "benchmarks": [
        {**DATASET, "tasks": ["single", "multikey", "vt"]},
        {**DATASET, "tasks": ["multivalue"], "shards": 2},
    ],
    "corpus": [{**DATASET, "tasks": ["single"]}],
    "training": {"val_contexts": 1},
}
GRID = [("full", 1.0), ("random", 0.1), ("prior", 0.1), ("kvzip", 0.1)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of which `single` is done, `multikey` half, and of `multivalue` a shard."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    run = Run(CONFIG)
    run.write()
    answer(run.job("tiny", "tiny", "single"), contexts=range(4), graded=True)
    answer(run.job("tiny", "tiny", "multikey"), contexts=range(2), graded=False)
    answer(run.job("tiny", "tiny", "multivalue@1"), contexts=[1, 3], graded=True)
    return run


def answer(job: Job, contexts: Any, graded: bool, grid: Any = GRID) -> None:
    rows = [
        {
            "family": job.family,
            "benchmark": job.benchmark,
            "task": job.task,
            "context_id": f"{job.task}-{context}",
            "question": 0,
            "method": method,
            "retention": retention,
            "created": f"2026-01-01T00:00:{context:02}+00:00",
        }
        for context in contexts
        for method, retention in grid
    ]
    Journal(job.journal).append(rows)
    if graded:
        for kind in ("predictions", "rows"):
            write_parquet(job.file(kind), pd.DataFrame(rows))


def states(run: Run) -> dict[str, str]:
    return {record["task"]: record["state"] for record in status(run)}


def test_status_shows_states_counts_and_times(run: Run) -> None:
    done = {"task": "single", "state": "done", "contexts": 4, "of": 4, "rows": 16, "by": None}
    done |= {"first": "2026-01-01T00:00:00+00:00", "last": "2026-01-01T00:00:03+00:00"}
    record = status(run)[0]
    assert {name: record[name] for name in done} == done
    assert states(run) == {
        **{"single": "done", "multikey": "started", "vt": "missing"},
        **{"multivalue@0": "missing", "multivalue@1": "done"},
    }
    assert status(run)[-1]["of"] == 2
    assert status_table(status(run)).endswith("2 done, 1 started, 2 missing")


def test_status_names_what_runs_and_what_failed(run: Run) -> None:
    with Journal(run.job("tiny", "tiny", "vt").journal).lock.held():
        assert states(run)["vt"] == "running"
    journal = Journal(run.job("tiny", "tiny", "multikey").journal)
    with pytest.raises(MemoryError), journal.lock.held():
        raise MemoryError("CUDA out of memory")
    failed = status(run)[1]
    assert failed["state"] == "failed"
    assert failed["error"] == "MemoryError: CUDA out of memory"
    assert states(run)["vt"] == "missing"


def test_what_a_changed_config_adds_is_not_done(run: Run) -> None:
    wider = Run({**CONFIG, "retentions": [0.1, 0.2, 1.0]})
    assert states(wider)["single"] == "started"


def test_a_method_whose_file_is_gone_is_not_done(run: Run) -> None:
    gone = Run({**CONFIG, "methods": [*CONFIG["methods"], "gone"]}, made=True)
    assert states(gone)["single"] == "started"
    answer(gone.job("tiny", "tiny", "vt"), range(4), graded=True, grid=[*GRID, ("gone", 0.1)])
    assert states(gone)["vt"] == "done"


def test_status_from_the_command_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", str(run.dir / "config.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "fits": fits(run),
        "jobs": status(run),
        "scans": [],
    }


def test_status_shows_how_far_scans_are(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    scan = {"name": "latency", "methods": ["full", "kvzip"], "lengths": [96, 192], "repeats": 5}
    scans = [{**scan, "retentions": [0.1]}, {**scan, "name": "low", "retentions": [0.1]}]
    measured = Run({**CONFIG, "efficiency": scans})
    first, second = measuring_jobs(measured)
    Journal(first.journal).append(
        [{"repeat": i, "created": f"2026-01-01T00:00:0{4 * i}+00:00"} for i in range(3)]
    )
    latency = {"scan": "latency", "state": "started", "requests": 3, "seconds": 4.0}
    low = {"scan": "low", "state": "missing", "requests": 0, "seconds": None}
    assert measurements(measured) == [
        {"family": "tiny", **scan, "of": 24} for scan in (latency, low)
    ]
    write_parquet(first.file, pd.DataFrame({"repeat": range(24)}))
    with Journal(second.journal).lock.held():
        states = [scan["state"] for scan in measurements(measured)]
    assert states == ["done", "running"]
    assert main(["status", "--config", str(measured.write())]) == 0
    assert capsys.readouterr().out.endswith("1 done, 1 missing\n")


def test_status_shows_how_far_trainings_are(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    trained = Run({**CONFIG, "methods": ["full", "prior", "proxykv"]})
    assert {fit["state"] for fit in fits(trained)} == {"missing"}
    folder = paths.fitted_dir(trained, "tiny", "proxykv")
    folder.mkdir(parents=True)
    times = ((1, "00:00"), (2, "00:03"), (3, "00:06"), (4, "50:00"), (5, "50:03"))
    lines = [
        f'{{"step": {step}, "steps": 9, "created": "2026-01-01T00:{at}+00:00"}}\n'
        for step, at in times
    ]
    (folder / "log.jsonl").write_text("".join(lines) + '{"st')
    (prior := paths.fitted_dir(trained, "tiny", "prior")).mkdir()
    (prior / "card.json").touch()
    nothing = {"step": None, "of": None, "seconds": None}
    # It was stopped after step 3: the time until step 4 is not counted.
    some = {"step": 5, "of": 9, "seconds": 3.0}
    assert fits(trained) == [
        {"family": "tiny", "fitted": "prior", "state": "done", **nothing},
        {"family": "tiny", "fitted": "proxykv", "state": "started", **some},
    ]
    assert main(["status", "--config", str(trained.write())]) == 0
    output = capsys.readouterr().out
    assert re.search(r"proxykv started +5 +9 +3.0\n\n1 done, 1 started\n\n", output)


@pytest.mark.parametrize(
    ("filters", "dropped", "touched"),
    [
        ({"task": "single"}, 16, {"single"}),
        ({"method": "random"}, 4 + 2 + 2, {"single", "multikey", "multivalue@1"}),
        ({"task": "single", "method": "random"}, 4, {"single"}),
        ({"family": "tiny"}, 16 + 8 + 8, {"single", "multikey", "multivalue@1"}),
        ({"benchmark": "tiny", "task": "multivalue"}, 8, {"multivalue@1"}),
    ],
)
def test_forgetting_drops_exactly_what_is_named(
    run: Run, filters: dict[str, str], dropped: int, touched: set[str]
) -> None:
    before = {job.name: Journal(job.journal).read() for job in run.jobs()}
    assert forget(run, filters) == dropped
    for job in run.jobs():
        kept = [r for r in before[job.name] if not filters.items() <= r.items()]
        assert Journal(job.journal).read() == kept
        was_graded = job.name in ("single", "multivalue@1")
        assert job.file("rows").exists() == (was_graded and job.name not in touched)
        assert job.file("rows").exists() == job.file("predictions").exists()


def test_what_another_cut_of_a_task_has_answered_is_forgotten_too(run: Run) -> None:
    single = Run({**CONFIG, "benchmarks": [{**DATASET, "tasks": ["multivalue"]}]})
    assert forget(single, {"task": "multivalue"}) == 8
    assert Journal(run.job("tiny", "tiny", "multivalue@1").journal).read() == []


def test_a_fitted_method_can_be_forgotten_with_what_was_fitted(run: Run) -> None:
    folder = paths.fitted_dir(run, "tiny", "prior")
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    forget(run, {"method": "prior"})
    assert folder.exists()
    forget(run, {"method": "prior"}, fitted=True)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("filters", "fitted", "why"),
    [
        ({"task": "singel"}, False, "no task 'singel'; did you mean 'single'"),
        ({"method": "rando"}, False, "no method 'rando'; did you mean 'random'"),
        ({}, False, "forget what?"),
        ({"method": "random"}, True, "only a method that is fitted"),
    ],
)
def test_what_cannot_be_forgotten(
    run: Run, filters: dict[str, str], fitted: bool, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        forget(run, filters, fitted)


def test_nothing_is_forgotten_under_a_running_job(run: Run) -> None:
    journal = Journal(run.job("tiny", "tiny", "multikey").journal)
    with journal.lock.held(), pytest.raises(ConfigError, match=r"multikey.* is held by pid"):
        forget(run, {"method": "random"})
    assert len(Journal(run.job("tiny", "tiny", "single").journal).read()) == 16
