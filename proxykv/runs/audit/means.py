"""From rows to one value per context: the questions of a context are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

Row = dict[str, Any]
Unit = tuple[str, str]
"""(task, context id)."""
Point = tuple[str, str, float]
"""(method, scope, retention)."""
Means = Mapping[Unit, Mapping[str, float]]
"""Per context: the mean of each column over the questions whose value is known."""

SPENT = ("kv_bytes", "seconds", "operations")
COLUMNS = ("score", "score_fixed", "nll", "kl", "achieved_retention", *SPENT)


class Group:
    """The rows of one family and benchmark.

    `points` holds the means of a method at a retention; `oracle` is the method that recovery
    compares with, None if the run has none.
    """

    def __init__(self, cell: tuple[str, str], rows: list[Row], oracle: str | None):
        self.cell, self.rows = cell, rows
        found: dict[Point, dict[Unit, list[Row]]] = {}
        for row in rows:
            point = row["method"], row["scope"], row["retention"]
            unit = row["task"], row["context_id"]
            found.setdefault(point, {}).setdefault(unit, []).append(row)
        self.points: dict[Point, Means] = {
            point: {
                unit: {name: known_mean(_value(row, name) for row in several) for name in COLUMNS}
                for unit, several in units.items()
            }
            for point, units in found.items()
        }
        self.oracle = oracle if any(point[0] == oracle for point in found) else None

    def at(self, method: str, retention: float) -> Means:
        """A method's means at a retention.

        Args:
            method: id of the method.
            retention: share of the KV pairs that are kept.
        """
        here = (m for p, m in self.points.items() if (p[0], p[2]) == (method, retention))
        return next(here, {})

    def oracle_at(self, retention: float) -> dict[Unit, float]:
        """The oracle's scores; at retention 1, where nothing is pruned, the full cache's."""
        if self.oracle is None:
            return {}
        if retention < 1:
            return {unit: means["score"] for unit, means in self.at(self.oracle, retention).items()}
        return {
            unit: means["score"]
            for point, units in self.points.items()
            for unit, means in units.items()
            if point[2] == 1
        }


def groups(rows: list[Row], oracle: str | None) -> list[Group]:
    """The rows of each family and benchmark.

    Args:
        rows: rows of a run.
        oracle: id of the oracle; None if the run has none.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["family"], row["benchmark"]), []).append(row)
    return [Group(cell, of_cell, oracle) for cell, of_cell in sorted(found.items())]


def _value(row: Row, name: str) -> float | None:
    """A column of a row; `seconds` are those of prefill and scoring."""
    return row["prefill_seconds"] + row["score_seconds"] if name == "seconds" else row[name]


def known_mean(values: Iterable[float | None]) -> float:
    """Mean of the values that are known and finite; NaN if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if known else math.nan


def by_task(values: Mapping[Unit, float]) -> list[list[float]]:
    """Known values, a list for each task; contexts are in one order everywhere."""
    tasks: dict[str, list[float]] = {}
    for (task, _), value in sorted(values.items()):
        if not math.isnan(value):
            tasks.setdefault(task, []).append(value)
    return list(tasks.values())


def column(means: Means, name: str) -> list[list[float]]:
    """One column of contexts' means, a list for each task.

    Args:
        means: means of contexts.
        name: of the column.
    """
    return by_task({unit: values[name] for unit, values in means.items()})
