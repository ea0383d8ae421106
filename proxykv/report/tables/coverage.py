"""The table of what a run has and lacks."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

from itertools import product

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.tables.columns import CELL


def coverage(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Count what is there and what is missing of the contexts that any method of the task has.

    Args:
        rows: rows of the run.
        methods: not used: the rows name the methods.
    """
    by = [*CELL, "task", "method", "retention"]
    counts = rows.groupby(by).agg(
        contexts=("context_id", "nunique"),
        questions=("question", "size"),
        truncated=("truncated", "sum"),
    )
    unpruned = set(rows.loc[rows.retention == 1, "method"])
    planned = []
    for (family, benchmark), cell in rows.groupby(CELL):
        tasks, names, retentions = (
            sorted(cell[c].unique()) for c in ("task", "method", "retention")
        )
        contexts = cell.groupby("task").context_id.nunique()
        for task, method, rho in product(tasks, names, retentions):
            if (method in unpruned) == (rho == 1.0):
                planned.append((family, benchmark, task, method, rho, contexts[task]))
    table = pd.DataFrame(planned, columns=pd.Index([*by, "expected"])).join(counts, on=by)
    numbers = ["contexts", "questions", "truncated"]
    table[numbers] = table[numbers].fillna(0).astype(int)
    table["missing"] = table.expected - table.contexts
    return table[[*by, "contexts", "expected", "missing", "questions", "truncated"]]
