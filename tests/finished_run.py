"""A finished run without a model: made-up answers, graded and tabulated by the project's steps."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows_fixture import make_rows

from proxykv.benchmarks.examples import Example, Question, read_jsonl, write_jsonl
from proxykv.config import catalog, paths
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.report.ablations import write_ablations
from proxykv.report.efficiency import measurement_files
from proxykv.report.paper import write_paper
from proxykv.report.tabulate import write_efficiency, write_provenance, write_tables
from proxykv.runtime.parquet import read_parquet, write_parquet
from proxykv.steps.grade import grade

TOKENS, PAIR_BYTES, HEADS = 100, 64, 8
DATASET = {"benchmark": "tiny", "lengths": [96]}
CONFIG: dict[str, Any] = {
    "run": "demo",
    "families": ["tiny"],
    "retentions": [0.1, 0.3, 0.5, 1.0],
    "methods": [
        "full",
        "kvzip",
        "proxykv",
        {"id": "proxykv_seed1", "base": "proxykv", "params": {"seed": 1}},
        {"id": "linear", "base": "proxykv", "params": {"mapper": {"variant": "linear"}}},
        "snapkv",
        "prior",
    ],
    "benchmarks": [
        # Enough contexts that not all sign vectors can be enumerated, and so few that they can.
        {**DATASET, "tasks": ["single"], "contexts": 12, "shards": 2},
        {**DATASET, "tasks": ["multikey"], "contexts": 5},
    ],
    "corpus": [{**DATASET, "tasks": ["single"], "contexts": 4}],
    "comparisons": [{"group": "premise", "pairs": [["kvzip", "proxykv"], ["prior", "linear"]]}],
    "training": {"val_contexts": 1},
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the finished run `demo`, to be read only."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        finish(root)
    return root


@pytest.fixture
def finished_here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, as the working directory; returns the run's folder."""
    root = tmp_path / "copy"
    shutil.copytree(finished, root, symlinks=True)
    monkeypatch.chdir(root)
    return Path("results/demo")


def finish(root: Path) -> Run:
    """Write data, predictions, rows and tables of a run into `root`, the working directory."""
    (root / "models").symlink_to(catalog.ROOT / "models")
    run = Run(CONFIG)
    run.write()
    draw = random.Random(0)
    for data in run.datasets("tiny", "eval"):
        data.path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(data.path, [_example(data.task, i, draw) for i in range(data.contexts or 0)])
    for job in run.jobs():
        _predict(run, job, draw)
        grade(job)
    for seed, method in enumerate(("proxykv", "proxykv_seed1", "linear")):
        folder = paths.fitted_dir(run, "tiny", method)
        folder.mkdir(parents=True)
        metrics = {"mass@0.1": 0.7 + seed / 9, "head_overlap@0.1": 0.5, "mse": 0.1}
        (folder / "card.json").write_text(json.dumps({"metrics": metrics}))
    tabulate(run)
    return run


def tabulate(run: Run) -> None:
    """Write the run's tables, and that it has no figures."""
    rows, measured = paths.row_files(run), measurement_files(run.dir)
    written = [
        *write_tables(rows, run.cards, run.dir / "tables"),
        *write_ablations(rows, run.dir),
        write_paper(rows, run.dir),
        *write_efficiency(run.dir, run.cards),
    ]
    write_provenance(run.dir / "tables", written, rows, measured)
    write_provenance(run.dir / "figures", [], rows, measured)


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    """Change a Parquet file's rows, in place or for those that are returned."""
    rows = read_parquet(path)
    changed = change(rows)
    write_parquet(path, rows if changed is None else changed)


def _example(task: str, number: int, draw: random.Random) -> Example:
    questions = tuple(
        Question(f"q{i}", (f"a{draw.randint(1, 99)} b{draw.randint(1, 99)}",), 3)
        for i in range(draw.randint(1, 3))
    )
    return Example(f"{task}-{number}", task, "text", questions)


def _predict(run: Run, job: Job, draw: random.Random) -> None:
    blank = make_rows(tasks=("single",), methods=(), contexts=1, questions=1).iloc[0].to_dict()
    del blank["score"], blank["score_fixed"]
    spend = random.Random(1)
    rows = [
        blank
        | {
            "task": job.task,
            "context_id": example.id,
            "question": number,
            "method": method.id,
            "scope": method.scope,
            "retention": retention,
            "achieved_retention": retention,
            "kv_bytes": int(retention * TOKENS * PAIR_BYTES * HEADS),
            "kv_bytes_full": TOKENS * PAIR_BYTES * HEADS,
            "context_tokens": _tokens(example),
            "prefill_seconds": spend.random(),
            "score_seconds": spend.random(),
            "operations": spend.randint(10**9, 10**10),
            "prediction": _answer(question, retention, draw),
            "references": list(question.references),
            "kl": 0.0 if retention == 1 else draw.random() / retention,
            "nll": draw.random(),
        }
        for example in job.part(read_jsonl(job.dataset.path))
        for number, question in enumerate(example.questions)
        for method, retention in run.grid
    ]
    write_parquet(job.file("predictions"), pd.DataFrame(rows))


def _tokens(example: Example) -> int:
    """Two lengths, each with contexts of both tasks; those of one length differ a little."""
    number = int(example.id.partition("-")[2])
    return TOKENS * (1 + number % 2) + number


def _answer(question: Question, retention: float, draw: random.Random) -> str:
    return question.references[0] if draw.random() < retention**0.3 else "nothing"
