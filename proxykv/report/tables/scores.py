"""Tables of means: the leaderboard, by task, with retentions pooled, against costs."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.tables.columns import (
    CELL,
    FIXED,
    LEADERBOARD_COLUMNS,
    LOW,
    LOW_RETENTION,
    METHOD,
    POOLS,
    SPENT,
)
from proxykv.report.tables.means import aggregate, context_means, pool


def leaderboard(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Mean score, recovery and KL per family, benchmark, method and retention.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    return aggregate(context_means(rows, methods), [*CELL, *METHOD, "retention"])[
        LEADERBOARD_COLUMNS
    ]


def per_task(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The leaderboard of every task, with questions, NLL and the share of the full cache's score.

    `fixed` is the mean by the corrected metric, for tasks whose official metric has a known error.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    by = [*CELL, "task", *METHOD, "retention"]
    table = aggregate(context_means(rows, methods), by)
    questions = rows.groupby(by).size().rename("n_questions").reset_index()
    full = table[table.retention == 1].set_index([*CELL, "task"])["mean"].rename("full")
    table = table.merge(questions, on=by).join(full, on=[*CELL, "task"])
    table["pct_of_full"] = 100 * table["mean"] / table["full"].where(table["full"] > 0)
    head = [c for c in LEADERBOARD_COLUMNS if c not in by]
    return table[[*by, *head, "n_questions", "nll", "nll_low", "nll_high", "pct_of_full", *FIXED]]


def summary(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The leaderboard with retentions pooled: `pool` is "<=0.3" or "<1" (everything pruned).

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    means = context_means(rows, methods)
    by = [*CELL, "pool", *METHOD]
    pooled = [pool(means, limit).assign(pool=label) for label, limit in POOLS.items()]
    table = aggregate(pd.concat(pooled), by)
    return table[[*by, *(c for c in LEADERBOARD_COLUMNS if c not in (*by, "retention"))]]


def costs(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Mean score against bytes of kept KV, seconds and counted operations of prefill plus scoring.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    by = [*CELL, *METHOD, "retention"]
    spent = ["score", "kv_bytes", *SPENT]
    means = context_means(rows, methods).groupby([*by, "task"])[spent]
    return means.mean().groupby(by).mean().reset_index()


def quality_cost(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Recovery and KL at the low retentions against the cost of a request, one line per method.

    `prefills` is the number of target prefills that the operations of prefill plus scoring make
    up, and `seconds_per_prefill` the same for seconds.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    spent = costs(rows, methods)
    low = spent[spent.retention <= LOW_RETENTION].groupby([*CELL, *METHOD])[SPENT].mean()
    bare = spent[spent.retention == 1].groupby(CELL)[SPENT].mean().add_prefix("bare_")
    made = summary(rows, methods)
    table = made[made["pool"] == LOW].join(low, on=[*CELL, *METHOD]).join(bare, on=CELL)
    table["prefills"] = table.operations / table.bare_operations
    table["seconds_per_prefill"] = table.seconds / table.bare_seconds
    cost = ["seconds", "seconds_per_prefill", "operations", "prefills"]
    quality = [c for c in LEADERBOARD_COLUMNS if c not in (*CELL, *METHOD, "retention")]
    return table[[*CELL, *METHOD, *cost, *quality]].sort_values([*CELL, "prefills", "method"])
