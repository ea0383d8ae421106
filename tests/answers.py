"""Predictions of a job replaced by answers of a test's choice, and then graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from proxykv.benchmarks.examples import Question, read_jsonl
from proxykv.config.jobs import Job
from proxykv.runtime.parquet import read_parquet, write_parquet
from proxykv.steps.grade import grade


def questions_of(job: Job) -> Mapping[tuple[str, int], Question]:
    """Questions of a job's dataset by context id and number."""
    return {
        (example.id, number): question
        for example in read_jsonl(job.dataset.path)
        for number, question in enumerate(example.questions)
    }


def graded(job: Job, full: str | Callable[[Question], str], other: str) -> pd.DataFrame:
    """Rows of a job whose full cache answered `full`, and whose other methods answered `other`."""
    path, by_question = job.file("predictions"), questions_of(job)
    rows: list[Any] = read_parquet(path).to_dict("records")
    for row in rows:
        question = by_question[row["context_id"], row["question"]]
        right = full if isinstance(full, str) else full(question)
        row["prediction"] = right if row["method"] == "full" else other
    write_parquet(path, pd.DataFrame(rows))
    return pd.read_parquet(grade(job))
