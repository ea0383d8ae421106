"""RULER's metric, and a run of each task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import ruler_corpus as corpus
from answers import graded

from proxykv.benchmarks import ruler
from proxykv.benchmarks.examples import Question, read_jsonl, write_jsonl
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade
from proxykv.steps.prepare import prepare


@pytest.mark.parametrize(
    ("task", "prediction", "references", "expected"),
    [
        ("niah_single_1", "It is 1234567.", ["1234567"], 1.0),
        ("niah_single_3", "AB12-cd", ["ab12-CD"], 1.0),
        ("niah_multivalue", "1, 3", ["1", "2", "3", "4"], 0.5),
        ("niah_multiquery", "", ["1", "2"], 0.0),
        ("vt", "ABCDE\x00FGHIJ", ["abcde", "FGHIJ", "KLMNO", "PQRST"], 0.5),
        ("cwe", "1. ant 2. bee", ["bee", "ant", "cow"], 2 / 3),
        ("fwe", "aaaaaa bbbbbb cccccc", ["cccccc", "bbbbbb", "aaaaaa"], 1.0),
        ("qa_1", "in Paris, France", ["London", "paris"], 1.0),
        ("qa_2", "Pari s", ["Paris"], 0.0),
        ("qa_2", "in Paris, France", ["London", "paris"], 1.0),
        ("qa_1", "\x00 Paris\x07", ["\nParis"], 0.0),
    ],
)
def test_score_by_hand(task: str, prediction: str, references: list[str], expected: float) -> None:
    assert ruler.score(task, prediction, references) == pytest.approx(expected)
    question = Question("", ("",), 1, meta={"outputs": references})
    assert ruler.grade(task, prediction, question) == {"score": pytest.approx(expected)}


def test_every_task_runs_to_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One context each on the tiny model: from the sources to graded rows."""
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    (tmp_path / "corpus").mkdir()
    sources = corpus.write_all(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    dataset = {"benchmark": "ruler", "tasks": list(ruler.TASKS), "contexts": 1, "lengths": [800]}
    run = Run(
        {
            "run": "plumbing",
            "families": ["tiny"],
            "retentions": [0.5, 1.0],
            "methods": ["full", "snapkv"],
            "benchmarks": [{**dataset, "options": {"sources": sources}}],
        }
    )
    for job in run.jobs():
        prepare(run, job.dataset)
        (example,) = read_jsonl(job.dataset.path)
        short = tuple(replace(question, max_new_tokens=3) for question in example.questions)
        write_jsonl(job.dataset.path, [replace(example, questions=short)])
        generate(run, job)
        rows = pd.read_parquet(grade(job))
        assert rows["method"].tolist() == ["full", "snapkv"]
        outputs = example.questions[0].meta["outputs"]
        for row in rows.to_dict("records"):
            assert row["score"] == ruler.score(job.task, row["prediction"], outputs)
        # Half of what is asked for: one output of qa is enough, of the other tasks each counts.
        answer = ", ".join(outputs[: len(outputs) // 2 or 1])
        half = (len(outputs) // 2 or 1) / len(outputs)
        share = 1.0 if job.task.startswith("qa") else half
        answered = graded(job, answer, "?")
        assert answered["score"].tolist() == [pytest.approx(share), 0.0]
        assert not any(rows["kl"].isna())
        assert rows["context_tokens"].between(400, 800).all()
