"""Means of rows over contexts, then over tasks, with their intervals."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.stats import Estimate, Strata, mean_cis, ratio_cis, stratified_mean
from proxykv.report.tables.columns import CELL, METHOD, UNIT, VALUES

APART = 1.2
"""Contexts whose lengths differ by more than this factor are judged apart."""


def context_means(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Questions of a context averaged: one line per context, method and retention.

    Adds `oracle`, the oracle's score there (NaN in a benchmark that was run without it), and
    `seconds` = prefill + scoring.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    rows = rows.assign(seconds=rows.prefill_seconds + rows.score_seconds)
    by = [*CELL, *UNIT, *METHOD, "retention"]
    means = rows.groupby(by)[VALUES].mean().reset_index()
    oracle = means[means.method == methods.only("oracle")]
    full = means[means.retention == 1]
    oracle = pd.concat([oracle, full.merge(oracle[CELL].drop_duplicates(), on=CELL)])
    on = [*CELL, *UNIT, "retention"]
    return means.merge(
        oracle[[*on, "score"]].rename(columns={"score": "oracle"}), on=on, how="left"
    )


def length_classes(rows: pd.DataFrame) -> pd.DataFrame:
    """The length class of each context: the median of lengths that are close to each other.

    Args:
        rows: rows of the run.

    Returns:
        Family, benchmark, task and id of each context, with `tokens` of its class.
    """
    contexts = rows.drop_duplicates([*CELL, *UNIT])[[*CELL, *UNIT, "context_tokens"]]
    contexts = contexts.sort_values([*CELL, "context_tokens"])
    by_cell = contexts.groupby(CELL).context_tokens
    step = contexts.context_tokens > APART * by_cell.shift()
    contexts["class"] = step.groupby([contexts[c] for c in CELL]).cumsum()
    median = contexts.groupby([*CELL, "class"]).context_tokens.transform("median")
    return contexts.assign(tokens=median.round().astype(int))[[*CELL, *UNIT, "tokens"]]


def pool(means: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Average retentions within each context; recovery needs contexts that the oracle has, too.

    Args:
        means: means of contexts.
        limit: the highest retention.
    """
    low = means[means.retention <= limit]
    low = low.assign(numerator=low.score.where(low.oracle.notna()))
    columns = [*VALUES, "oracle", "numerator"]
    return low.groupby([*CELL, *UNIT, *METHOD])[columns].mean().reset_index()


def aggregate(means: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean score, recovery, KL, NLL and corrected score of each group, with their intervals.

    Adds the mean share of the KV pairs that was kept.

    Args:
        means: of `context_means` or `pool`.
        by: columns that make a group.
    """
    if "numerator" not in means:
        means = means.assign(numerator=means.score)
    ordered = means.sort_values(list(dict.fromkeys([*by, *UNIT])))
    places = ordered.groupby(by)
    sizes, group, task = places.size(), places.ngroup().to_numpy(), ordered["task"].to_numpy()

    def groups(values: pd.Series) -> list[Strata]:
        found: list[Strata] = [[] for _ in sizes]
        known = values.notna().to_numpy()
        for place, part in _parts(values.to_numpy(dtype=float)[known], group[known], task[known]):
            found[place].append(part)
        return found

    kept = groups(ordered.achieved_retention)
    # A ratio needs contexts that have both.
    above = groups(ordered.numerator.where(ordered.oracle.notna()))
    below = groups(ordered.oracle.where(ordered.numerator.notna()))
    columns = {
        **_columns("mean", mean_cis(groups(ordered.score)), prefix="ci"),
        "n_contexts": sizes.to_numpy(),
        "achieved_retention": [stratified_mean(parts) for parts in kept],
        **_columns("recovery", ratio_cis(above, below)),
        **_columns("kl", mean_cis(groups(ordered.kl))),
        **_columns("nll", mean_cis(groups(ordered.nll))),
        **_columns("fixed", mean_cis(groups(ordered.score_fixed))),
    }
    return sizes.index.to_frame(index=False).assign(**columns)


def strata_of(
    table: pd.DataFrame, by: list[str], column: str
) -> Iterator[tuple[dict[str, Any], Strata]]:
    """The labels of each group, with `strata` of it.

    Args:
        table: a line for each context of a group.
        by: columns that make a group.
        column: name of the values' column; all are known.

    Yields:
        Values of `by` by name, and one array per task.
    """
    ordered = table.sort_values([*by, *UNIT])
    groups = ordered.groupby(by, sort=False)
    parts: list[list[np.ndarray]] = [[] for _ in range(groups.ngroups)]
    group, task = groups.ngroup().to_numpy(), ordered["task"].to_numpy()
    for place, part in _parts(ordered[column].to_numpy(dtype=float), group, task):
        parts[place].append(part)
    labels = ordered[by].drop_duplicates().to_dict("records")
    yield from zip(labels, parts, strict=True)


def strata(group: pd.DataFrame, column: str) -> Strata:
    """Known values of a column, one array per task.

    Args:
        group: means of contexts, sorted by `UNIT`.
        column: name of the column.
    """
    known = group[column].notna()
    values, tasks = group.loc[known, column].to_numpy(dtype=float), group.loc[known, "task"]
    return [part for _, part in _parts(values, tasks.to_numpy())]


def _parts(values: np.ndarray, *labels: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Neighbours with the same labels, as one array each, with the first of their labels."""
    changes = np.any([label[1:] != label[:-1] for label in labels], axis=0)
    starts = [0, *(np.flatnonzero(changes) + 1), len(values)] if len(values) else []
    for start, end in pairwise(starts):
        yield labels[0][start], values[start:end]


def _columns(
    name: str, estimates: list[Estimate], prefix: str | None = None
) -> dict[str, list[float]]:
    """Columns of the values and of both ends of their intervals."""
    prefix = prefix or name
    return {
        name: [estimate.value for estimate in estimates],
        f"{prefix}_low": [estimate.low for estimate in estimates],
        f"{prefix}_high": [estimate.high for estimate in estimates],
    }
