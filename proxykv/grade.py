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
    path = cell.file("rows")
    rows = pd.read_parquet(cell.file("predictions")).to_dict("records")
    for number, row in enumerate(rows):
        row["references"] = list(row["references"])
        row["score"] = float(metric(cell.task, row["prediction"], row["references"]))
        if problems := check.schema_problems(row, "row", f"{path} row {number}"):
            raise ConfigError(problems[0])
    columns = list(catalog.schema("row")["properties"])
    write_parquet(path, pd.DataFrame(rows).reindex(columns=columns))
    return path
