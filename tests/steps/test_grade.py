"""Every prediction is scored against the references of its own question, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rows_fixture import make_rows
from valid_config import valid

from proxykv.benchmarks.examples import Example, Question, write_jsonl
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import write_parquet
from proxykv.steps.grade import grade

ANSWERS = {"c0": ["10 11", "20 21"], "c1": ["30 31", "40 41"]}
"""References of two questions about each of two contexts; no two are the same."""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of the tiny benchmark whose dataset is there."""
    monkeypatch.chdir(tmp_path)
    (job,) = Run(valid()).jobs()
    examples = [
        Example(name, "single", "text", tuple(Question("q", (a,), 3) for a in answers))
        for name, answers in ANSWERS.items()
    ]
    job.dataset.path.parent.mkdir(parents=True)
    write_jsonl(job.dataset.path, examples)
    return job


def predict(job: Job, predicted: list[tuple[str, int, str]]) -> pd.DataFrame:
    """Rows graded from predictions (context, question, text)."""
    blank = make_rows(tasks=("single",), methods=(), contexts=1, questions=1).iloc[0].to_dict()
    del blank["score"], blank["score_fixed"]
    rows = [
        blank
        | {"context_id": name, "question": number, "prediction": text}
        | {"references": [ANSWERS[name][number]] if name in ANSWERS else ["?"]}
        for name, number, text in predicted
    ]
    write_parquet(job.file("predictions"), pd.DataFrame(rows))
    return pd.read_parquet(grade(job))


def test_each_question_has_its_own_references(job: Job) -> None:
    # Not in the dataset's order: a row is known by its context and its question.
    order = [(name, number) for name in reversed(ANSWERS) for number in (1, 0)]
    right = predict(job, [(name, number, ANSWERS[name][number]) for name, number in order])
    assert right["score"].tolist() == [1.0] * 4
    other_question = predict(job, [(name, i, ANSWERS[name][1 - i]) for name, i in order])
    assert other_question["score"].tolist() == [0.0] * 4
    swapped = {"c0": "c1", "c1": "c0"}
    other_context = predict(job, [(name, i, ANSWERS[swapped[name]][i]) for name, i in order])
    assert other_context["score"].tolist() == [0.0] * 4


def test_it_is_the_prediction_that_is_scored(job: Job) -> None:
    rows = predict(job, [("c0", 0, "so 10 11 ."), ("c0", 1, "20"), ("c1", 0, ""), ("c1", 1, "99")])
    assert rows["score"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rows["prediction"].tolist() == ["so 10 11 .", "20", "", "99"]
    assert [list(row) for row in rows["references"]] == [["10 11"], ["20 21"], ["30 31"], ["40 41"]]
    assert list(rows["score_fixed"].isna()) == [True] * 4
    assert rows["score_fixed"].dtype == float


@pytest.mark.parametrize(
    ("column", "value"), [("kl", float("inf")), ("nll", float("-inf")), ("seconds", float("nan"))]
)
def test_a_number_that_is_not_finite_is_one_line(job: Job, column: str, value: float) -> None:
    predict(job, [("c0", 0, "a")])
    predictions = pd.read_parquet(job.file("predictions"))
    name = next(c for c in predictions if c.endswith(column))
    write_parquet(job.file("predictions"), predictions.assign(**{name: value}))
    with pytest.raises(ConfigError, match=rf"row 0\.{name}: "):
        grade(job)


def test_predictions_of_other_data_are_one_line(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"no question 0 of 'c7'; delete the predictions"):
        predict(job, [("c7", 0, "x")])
    with pytest.raises(ConfigError, match=r"no question 2 of 'c0'; delete the predictions"):
        ANSWERS["c0"].append("x")
        try:
            predict(job, [("c0", 2, "x")])
        finally:
            ANSWERS["c0"].pop()
