"""The workflow itself, on the tiny family: complete, idempotent, incremental, safe to kill."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pandas as pd
import pytest
from checkout import Checkout

from proxykv.check import schema_problems
from proxykv.tables import LEADERBOARD_COLUMNS

CONTEXTS = 2
TASKS = ["single", "vt"]
METHODS = ["full", "random", "kvzip", "proxykv", "prior", "cross_kvzip_budget"]
DATASET = {"benchmark": "tiny", "contexts": CONTEXTS, "lengths": [96]}
CONFIG = {
    "run": "dag",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": METHODS,
    "benchmarks": [{**DATASET, "tasks": TASKS}],
    "corpus": [{**DATASET, "tasks": ["single"], "contexts": 3}],
    "training": {"steps": 3, "warmup": 1, "val_contexts": 1, "crop": 64},
}


def keys(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(e["context_id"], e["question"], e["method"], e["retention"]) for e in entries]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run; the tests below go on from it in their order."""
    made = Checkout(tmp_path_factory.mktemp("checkout"), CONFIG)
    made.snakemake()
    return made


REPORTING = ["plot", "report", "table"]


def test_a_run_is_complete(checkout: Checkout) -> None:
    folder = checkout.folder / checkout.run.dir
    expected = [
        *("config.json", "report/index.html", "tables/leaderboard.csv", "tables/provenance.json"),
        *("figures/accuracy_retention.svg", "figures/pareto.svg"),
        *(f"mappers/tiny/{method}/card.json" for method in ("proxykv", "prior")),
        *(f"predictions/tiny/tiny/{task}.parquet" for task in TASKS),
    ]
    assert [path for path in expected if not (folder / path).stat().st_size] == []
    assert not list(checkout.folder.rglob("*.partial"))
    leaderboard = pd.read_csv(folder / "tables" / "leaderboard.csv")
    assert list(leaderboard.columns) == LEADERBOARD_COLUMNS
    assert set(leaderboard["method"]) == set(METHODS)
    for task in TASKS:
        rows = checkout.rows(task)
        assert len(rows) == len(rows[["context_id", "question"]].drop_duplicates()) * len(METHODS)
        assert rows["context_id"].nunique() == CONTEXTS
        for row in rows.to_dict("records"):
            row["references"] = list(row["references"])
            assert schema_problems(row, "row", task) == []
        assert (rows["achieved_retention"] <= rows["retention"]).all()
        assert set(rows.loc[rows["method"] == "full", "retention"]) == {1.0}
        assert rows["commit"].str.fullmatch(r"[0-9a-f]{12}(-dirty)?").all()


def test_a_second_call_does_nothing(checkout: Checkout) -> None:
    assert checkout.planned() == []
    assert "Nothing to be done" in checkout.snakemake()


def test_forgetting_schedules_exactly_that_tasks_chain(checkout: Checkout) -> None:
    before = checkout.entries("vt")
    config = str(checkout.run.dir / "config.json")
    said = checkout.python(
        "proxykv", "forget", "--config", config, "--method", "random", "--task", "vt"
    )
    dropped = [e for e in before if e["method"] == "random"]
    assert f"{len(dropped)} rows dropped" in said
    assert checkout.planned() == sorted(["generate vt", "grade vt", *REPORTING])
    checkout.snakemake(checkout.rows_file("vt"))
    entries = checkout.entries("vt")
    assert entries[: len(before) - len(dropped)] == [e for e in before if e not in dropped]
    assert sorted(keys(entries)) == sorted(keys(before))


def test_another_retention_computes_only_that(checkout: Checkout) -> None:
    before = {task: checkout.entries(task) for task in TASKS}
    checkout.config["retentions"] = [0.1, 0.3, 1.0]
    chains = [f"{rule} {task}" for rule in ("generate", "grade") for task in TASKS]
    assert checkout.planned() == sorted([*chains, *REPORTING])
    checkout.snakemake(*map(checkout.rows_file, TASKS))
    for task in TASKS:
        entries = checkout.entries(task)
        assert entries[: len(before[task])] == before[task]
        new = entries[len(before[task]) :]
        assert {(e["method"], e["retention"]) for e in new} == {
            (method, 0.3) for method in METHODS if method != "full"
        }
        assert len(set(keys(entries))) == len(entries) == len(checkout.rows(task))


def test_a_killed_job_goes_on_at_the_next_example(checkout: Checkout) -> None:
    """SIGKILL after the first example: the rerun does the others, each once."""
    expected = sorted(keys(checkout.entries("single")))
    journal = checkout.journal("single")
    journal.unlink()
    cell = checkout.cell("single")
    config = str(checkout.run.dir / "config.json")
    arguments = ["generate", "tiny", "tiny", "single", "--config", config]
    job = checkout.start("proxykv", *arguments)
    while not journal.exists() or not journal.read_bytes().endswith(b"\n"):
        assert job.poll() is None
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    first = checkout.entries("single")
    assert 0 < len(first) < len(expected)
    # What a kill in the middle of a write leaves behind.
    with journal.open("a", encoding="utf-8") as file:
        file.write('\n{"context_id": "cut sh')

    checkout.python("proxykv", *arguments)
    lines = journal.read_text("utf-8").split("\n")
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert whole[: len(first)] == first
    assert sorted(keys(whole)) == expected
    table = pd.read_parquet(checkout.folder / cell.file("predictions"))
    assert sorted(keys(table.to_dict("records"))) == expected
