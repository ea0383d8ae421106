"""Tables: each is a pure function of a run's rows and of the cards of its methods.

All tables share these conventions. Means are over contexts within a task, then over tasks. Every
interval is the 95 % bootstrap interval of `proxykv.report.stats`. `recovery` is the method's mean
over the oracle's on the same contexts and retentions. At retention 1.0 nothing is pruned, so the
rows of the full cache are every method's point there, the oracle's included.
"""

from __future__ import annotations

from proxykv.report.tables.comparisons import by_length, paired
from proxykv.report.tables.coverage import coverage
from proxykv.report.tables.premise import premise
from proxykv.report.tables.rows import read_rows
from proxykv.report.tables.scores import costs, leaderboard, per_task, quality_cost, summary

__all__ = [
    "TABLES",
    "by_length",
    "costs",
    "coverage",
    "leaderboard",
    "paired",
    "per_task",
    "premise",
    "quality_cost",
    "read_rows",
    "summary",
]

TABLES = {
    "leaderboard": leaderboard,
    "per_task": per_task,
    "summary": summary,
    "quality_cost": quality_cost,
    "paired": paired,
    "by_length": by_length,
    "premise": premise,
    "coverage": coverage,
}
"""Those that a run writes, by their names."""
