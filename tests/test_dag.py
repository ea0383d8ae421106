"""The workflow itself, on the tiny family: complete, idempotent, incremental, safe to kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from proxykv import catalog
from proxykv.check import schema_problems
from proxykv.spec import Run
from proxykv.tables import LEADERBOARD_COLUMNS

CONTEXTS = 2
TASKS = ["single", "vt"]
METHODS = ["full", "random", "kvzip", "proxykv", "prior", "cross_kvzip_budget"]


class Checkout:
    """A folder in which the workflow runs: its own cache and results, the project's models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "models").symlink_to(catalog.ROOT / "models")
        dataset = {"benchmark": "tiny", "contexts": CONTEXTS, "lengths": [96]}
        self.config: dict[str, Any] = {
            "run": "dag",
            "families": ["tiny"],
            "retentions": [0.1, 1.0],
            "methods": METHODS,
            "benchmarks": [{**dataset, "tasks": TASKS}],
            "corpus": [{**dataset, "tasks": ["single"], "contexts": 3}],
            "training": {"steps": 3, "warmup": 1, "val_contexts": 1, "crop": 64},
        }

    @property
    def run(self) -> Run:
        return Run(self.config)

    def snakemake(self, *arguments: str) -> str:
        """Run the workflow; what it said."""
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config), "utf-8")
        return self.python(
            "snakemake",
            *("--snakefile", str(catalog.ROOT / "Snakefile"), "--configfile", str(path)),
            *("--cores", "1", *arguments),
        )

    def python(self, module: str, *arguments: str) -> str:
        done = subprocess.run(
            self.command(module, *arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout + done.stderr

    def command(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(catalog.ROOT)}

    def logs(self) -> str:
        found = sorted((self.folder / self.run.dir / "logs").rglob("*.log"))
        return "".join(f"\n== {path.name}\n{path.read_text('utf-8')}" for path in found)

    def journal(self, task: str) -> Path:
        cell = self.run.cell("tiny", "tiny", task)
        return self.folder / cell.file("predictions", ".journal.jsonl")

    def entries(self, task: str) -> list[dict[str, Any]]:
        """Everything in a journal, duplicates included."""
        lines = self.journal(task).read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def rows_file(self, task: str) -> str:
        return str(self.run.cell("tiny", "tiny", task).file("rows"))

    def rows(self, task: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / self.rows_file(task))

    def planned(self, *arguments: str) -> list[str]:
        """Rules of the jobs that a dry run would start, with their wildcards' tasks."""
        said = self.snakemake("-n", *arguments)
        jobs, rule = [], ""
        for line in map(str.strip, said.splitlines()):
            if line.startswith(("rule ", "localrule ")):
                rule = line.split()[1].rstrip(":")
                jobs.append(rule)
            elif line.startswith("wildcards:") and "task=" in line:
                jobs[-1] = f"{rule} {line.rsplit('task=', 1)[1].split(',')[0]}"
        return sorted(job for job in jobs if job != "all")


def keys(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(e["context_id"], e["question"], e["method"], e["retention"]) for e in entries]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run; the tests below go on from it in their order."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
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
    cell = checkout.run.cell("tiny", "tiny", "single")
    config = str(checkout.run.dir / "config.json")
    arguments = ["generate", "tiny", "tiny", "single", "--config", config]
    command = checkout.command("proxykv", *arguments)
    job = subprocess.Popen(
        command, cwd=checkout.folder, env=checkout.environment, stderr=subprocess.DEVNULL
    )
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
