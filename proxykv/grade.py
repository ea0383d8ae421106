"""Predictions to rows: the task's own metric, on the CPU, apart from generation."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd

from proxykv import catalog, check
from proxykv.journal import write_parquet
from proxykv.spec import Cell, ConfigError


def grade(cell: Cell) -> Path:
    """Score every prediction of a cell in [0, 1] and write its rows.

    Raises:
        ConfigError: if a row departs from workflow/schemas/row.schema.yaml.
    """
    metric = importlib.import_module(f"proxykv.tasks.{cell.benchmark}").score
    rows = pd.read_parquet(cell.file("predictions"))
    rows["score"] = [
        float(metric(cell.task, row.prediction, list(row.references))) for row in rows.itertuples()
    ]
    rows = rows[list(catalog.schema("row")["properties"])]
    path = cell.file("rows")
    for number, row in enumerate(rows.to_dict("records")):
        row["references"] = list(row["references"])
        if problems := check.schema_problems(row, "row", f"{path} row {number}"):
            raise ConfigError(problems[0])
    write_parquet(path, rows)
    return path
