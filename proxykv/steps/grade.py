"""Predictions to rows, by the task's own metric: on the CPU, and apart from generation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from proxykv.benchmarks import contract
from proxykv.benchmarks.examples import read_jsonl
from proxykv.config import catalog
from proxykv.config.check.schema import departures, not_finite
from proxykv.config.jobs import Job
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import read_parquet, write_parquet


def grade(job: Job) -> Path:
    """Score every prediction of a job in [0, 1] with its benchmark's `grade`; write the rows.

    Args:
        job: its dataset has the references, its `predictions` file what models wrote.

    Returns:
        The file of the rows.

    Raises:
        ConfigError: if a prediction answers another dataset's question, or a row departs from
            workflow/schemas/row.schema.yaml.
    """
    benchmark = contract.load(job.benchmark)
    questions = {
        (example.id, index): question
        for example in read_jsonl(job.dataset.path)
        for index, question in enumerate(example.questions)
    }
    path = job.file("rows")
    rows = read_parquet(job.file("predictions")).to_dict("records")
    for number, row in enumerate(rows):
        row["references"] = list(row["references"])
        key = row["context_id"], row["question"]
        if key not in questions:
            raise ConfigError(
                f"{job.file('predictions')}: {job.dataset.path} has no question {key[1]} of "
                f"{key[0]!r}; delete the predictions, and the next run makes them again"
            )
        question = questions[key]
        row |= {"score_fixed": None, **benchmark.grade(job.task, row["prediction"], question)}
        where = f"{path} row {number}"
        problems = departures(row, catalog.schema("row"), where)
        if problems := problems or not_finite(row, where, nullable=catalog.nullable()):
            raise ConfigError(problems[0])
    columns = list(catalog.schema("row")["properties"])
    # A column without a single number must still be one of numbers.
    optional = dict.fromkeys(catalog.nullable(), float)
    write_parquet(path, pd.DataFrame(rows).reindex(columns=columns).astype(optional))
    return path
