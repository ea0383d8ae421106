"""Tables: each is a pure function of a run's rows and of the cards of its methods.

All tables share these conventions. Means are over contexts within a task, then over tasks. Every
interval is the 95 % bootstrap interval of `proxykv.report.stats`. `recovery` is the method's mean
over the oracle's on the same contexts and retentions. At retention 1.0 nothing is pruned, so the
rows of the full cache are every method's point there, the oracle's included.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.stats import (
    Estimate,
    Strata,
    detectable_effect,
    holm,
    mean_ci,
    permutation_p,
    ratio_ci,
)
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import read_parquet

LOW_RETENTION = 0.3
LOW = f"<={LOW_RETENTION}"
POOLS = {LOW: LOW_RETENTION, "<1": 0.9999}  # label -> largest retention pooled

CELL = ["family", "benchmark"]
METHOD = ["method", "scope"]
UNIT = ["task", "context_id"]
MODELS = ["target_digest", "proxy_digest"]
STATE = ["family", "method", "method_digest", *MODELS]
ROW_KEY = [*CELL, *UNIT, "question", *METHOD, "retention"]
VALUES = ["score", "score_fixed", "nll", "kl", "kv_bytes", "seconds"]
LEADERBOARD_COLUMNS = [
    "family",
    "benchmark",
    "method",
    "scope",
    "retention",
    "mean",
    "ci_low",
    "ci_high",
    "n_contexts",
    "recovery",
    "recovery_low",
    "recovery_high",
    "kl",
    "kl_low",
    "kl_high",
]
FIXED = ["fixed", "fixed_low", "fixed_high"]


def read_rows(paths: Iterable[Path]) -> pd.DataFrame:
    """All rows of these Parquet files.

    Raises:
        ConfigError: if there is none, if one question was answered twice by one method at one
            retention, or if rows are mixed that do not compare: of two protocols, of two states of
            a model, or of two states of a method.
    """
    paths = sorted(paths)
    frames = {path: frame for path in paths if len(frame := read_parquet(path))}
    if not frames:
        raise ConfigError(f"no rows in {len(paths)} Parquet files: run `proxykv grade` first")
    for path, frame in frames.items():
        if lacks := [column for column in [*MODELS, "kernels"] if column not in frame]:
            raise ConfigError(
                f"{path}: an earlier version made it (no column {lacks[0]}); run the same "
                "snakemake command again, which makes it again, or give the run another name"
            )
    _refuse_mixed(frames)
    rows = pd.concat(frames.values(), ignore_index=True)
    twice = rows[rows.duplicated(ROW_KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise ConfigError(
            f"rows hold {row.method} at retention {row.retention} of {row.task} more than once "
            f"({row.context_id}): run `proxykv forget --method {row.method} --task {row.task}`"
        )
    if rows.protocol.nunique() > 1:
        raise ConfigError("rows mix query_agnostic and query_aware: give each a run of its own")
    for family, ran in rows.kernels.str.extract(r"(\w+)", expand=False).groupby(rows.family):
        if ran.nunique() > 1:
            raise ConfigError(
                f"rows of {family} mix Triton kernels and the PyTorch reference, whose seconds do "
                "not compare: run each under a name of its own"
            )
    return rows


def _refuse_mixed(frames: Mapping[Path, pd.DataFrame]) -> None:
    """Raise ConfigError, naming two files, if rows come from two states of a model or method."""
    made = pd.concat([frame[STATE].assign(path=str(path)) for path, frame in frames.items()])
    made = made.drop_duplicates()
    for column, who in {**dict.fromkeys(MODELS, "family"), "method_digest": "method"}.items():
        for _, group in made.groupby(["family", who] if who != "family" else ["family"]):
            states = group.drop_duplicates(column)
            if len(states) > 1:
                one, other = states.iloc[0], states.iloc[1]
                raise ConfigError(
                    f"{one.path} and {other.path}: rows of {who} {one[who]} with {column} "
                    f"{one[column]} and {other[column]} do not compare: the {who} has changed "
                    "between them; run the same snakemake command again, which computes the "
                    "older ones again"
                )


def leaderboard(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Mean score, recovery and KL per family, benchmark, method and retention."""
    return _aggregate(context_means(rows, methods), [*CELL, *METHOD, "retention"])[
        LEADERBOARD_COLUMNS
    ]


def per_task(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The leaderboard of every task, with questions, NLL and the share of the full cache's score.

    `fixed` is the mean by the mended metric, for tasks whose official one is plainly wrong.
    """
    by = [*CELL, "task", *METHOD, "retention"]
    table = _aggregate(context_means(rows, methods), by)
    questions = rows.groupby(by).size().rename("n_questions").reset_index()
    full = table[table.retention == 1].set_index([*CELL, "task"])["mean"].rename("full")
    table = table.merge(questions, on=by).join(full, on=[*CELL, "task"])
    table["pct_of_full"] = 100 * table["mean"] / table["full"].where(table["full"] > 0)
    head = [c for c in LEADERBOARD_COLUMNS if c not in by]
    return table[[*by, *head, "n_questions", "nll", "nll_low", "nll_high", "pct_of_full", *FIXED]]


def summary(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The leaderboard with retentions pooled: `pool` is "<=0.3" or "<1" (everything pruned)."""
    means = context_means(rows, methods)
    by = [*CELL, "pool", *METHOD]
    pooled = [_pool(means, limit).assign(pool=label) for label, limit in POOLS.items()]
    table = _aggregate(pd.concat(pooled), by)
    return table[[*by, *(c for c in LEADERBOARD_COLUMNS if c not in (*by, "retention"))]]


def costs(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Mean score against what it costs: bytes of kept KV, seconds of prefill plus scoring."""
    by = [*CELL, *METHOD, "retention"]
    means = context_means(rows, methods).groupby([*by, "task"])[["score", "kv_bytes", "seconds"]]
    return means.mean().groupby(by).mean().reset_index()


def paired(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The run's comparisons: method minus reference on the same contexts, for score and KL.

    `retention` is a number as text, or "<=0.3": differences averaged in each context over the
    retentions up to there that both methods have.
    Holm's correction covers, for each family, benchmark and metric, the comparisons of one `group`
    at "<=0.3" (the main question), and the retentions of one comparison (where does it show?).
    """
    means = context_means(rows, methods)
    records = [
        {"group": group, "tested_with": LOW if pool else f"{method} {reference}", **record}
        for group, pairs in methods.comparisons.items()
        for pool in (True, False)
        for method, reference in pairs
        for metric in ("score", "kl")
        for record in _differences(means, method, reference, metric, pool=pool)
    ]
    columns = [
        "family",
        "benchmark",
        "metric",
        "group",
        "method",
        "reference",
        "retention",
        "difference",
        "ci_low",
        "ci_high",
        "p",
        "p_holm",
        "mde",
        "n_contexts",
    ]
    if not records:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(records)
    tests = table.groupby([*CELL, "metric", "group", "tested_with"])["p"]
    table["p_holm"] = tests.transform(lambda p: holm(p.to_numpy()))
    return table[columns]


def coverage(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """What is there and what is missing of the contexts that any method of the task has."""
    by = [*CELL, "task", "method", "retention"]
    counts = rows.groupby(by).agg(
        contexts=("context_id", "nunique"),
        questions=("question", "size"),
        truncated=("truncated", "sum"),
    )
    unpruned = set(rows.loc[rows.retention == 1, "method"])
    wanted = []
    for (family, benchmark), cell in rows.groupby(CELL):
        tasks, names, retentions = (
            sorted(cell[c].unique()) for c in ("task", "method", "retention")
        )
        for task, method, rho in product(tasks, names, retentions):
            if (method in unpruned) == (rho == 1.0):
                expected = cell.loc[cell.task == task, "context_id"].nunique()
                wanted.append((family, benchmark, task, method, rho, expected))
    table = pd.DataFrame(wanted, columns=pd.Index([*by, "expected"])).join(counts, on=by)
    numbers = ["contexts", "questions", "truncated"]
    table[numbers] = table[numbers].fillna(0).astype(int)
    table["missing"] = table.expected - table.contexts
    return table[[*by, "contexts", "expected", "missing", "questions", "truncated"]]


TABLES = {
    "leaderboard": leaderboard,
    "per_task": per_task,
    "summary": summary,
    "paired": paired,
    "coverage": coverage,
}


def context_means(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Questions of a context averaged: one line per context, method and retention.

    Adds `oracle`, the oracle's score there (NaN in a benchmark that was run without it), and
    `seconds` = prefill + scoring.
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


def _pool(means: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Retentions up to `limit` averaged within each context; recovery needs whole pairs."""
    low = means[means.retention <= limit]
    low = low.assign(numerator=low.score.where(low.oracle.notna()))
    columns = [*VALUES, "oracle", "numerator"]
    return low.groupby([*CELL, *UNIT, *METHOD])[columns].mean().reset_index()


def _aggregate(means: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    if "numerator" not in means:
        means = means.assign(numerator=means.score)
    records = []
    for key, group in means.sort_values(UNIT).groupby(by):
        both = group[group.numerator.notna() & group.oracle.notna()]
        record = dict(zip(by, key, strict=True))
        record |= _columns("mean", mean_ci(_strata(group, "score")), prefix="ci")
        record["n_contexts"] = len(group)
        recovery = ratio_ci(_strata(both, "numerator"), _strata(both, "oracle"))
        record |= _columns("recovery", recovery)
        record |= _columns("kl", mean_ci(_strata(group, "kl")))
        record |= _columns("nll", mean_ci(_strata(group, "nll")))
        record |= _columns("fixed", mean_ci(_strata(group, "score_fixed")))
        records.append(record)
    return pd.DataFrame(records)


def _columns(name: str, estimate: Estimate, prefix: str | None = None) -> dict[str, float]:
    prefix = prefix or name
    return {name: estimate.value, f"{prefix}_low": estimate.low, f"{prefix}_high": estimate.high}


def _strata(group: pd.DataFrame, column: str) -> Strata:
    """Known values of a column, one array per task; the frame must be sorted by UNIT."""
    values, tasks = group[column].to_numpy(dtype=float), group["task"].to_numpy()
    known = ~np.isnan(values)
    values, tasks = values[known], tasks[known]
    borders = np.flatnonzero(tasks[1:] != tasks[:-1]) + 1
    return np.split(values, borders) if len(values) else []


def _differences(
    means: pd.DataFrame, method: str, reference: str, metric: str, *, pool: bool
) -> Iterable[dict[str, Any]]:
    on = [*CELL, "retention", *UNIT]
    pruned = means[means.retention < 1]
    one, other = (pruned.loc[pruned.method == m, [*on, metric]] for m in (method, reference))
    pairs = one.merge(other, on=on, suffixes=("", "_reference")).dropna()
    pairs["difference"] = pairs[metric] - pairs[f"{metric}_reference"]
    if pool:
        low = pairs[pairs.retention <= LOW_RETENTION].groupby([*CELL, *UNIT])
        pairs = low["difference"].mean().reset_index().assign(retention=LOW)
    else:
        pairs["retention"] = pairs.retention.map("{:g}".format)
    for (family, benchmark, retention), group in pairs.sort_values(UNIT).groupby(
        [*CELL, "retention"]
    ):
        strata = _strata(group, "difference")
        estimate = mean_ci(strata)
        yield {
            "family": family,
            "benchmark": benchmark,
            "metric": metric,
            "method": method,
            "reference": reference,
            "retention": retention,
            "difference": estimate.value,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "p": permutation_p(strata),
            "mde": detectable_effect(strata),
            "n_contexts": len(group),
        }
