"""The tables of paired differences between methods."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.stats import Strata, detectable_effect, holm, mean_cis, permutation_ps
from proxykv.report.tables.columns import CELL, LOW, LOW_RETENTION, UNIT
from proxykv.report.tables.means import context_means, length_classes, strata_of

COMPARED = [*CELL, "metric", "method", "reference"]


def paired(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The run's comparisons: method minus reference on the same contexts, for score and KL.

    `retention` is a number as text, or "<=0.3": differences averaged in each context over the
    retentions up to there that both methods have.
    Holm's correction covers, for each family, benchmark and metric, the comparisons of one `group`
    at "<=0.3" (the main question), and the retentions of one comparison (where does it show?).

    Args:
        rows: rows of the run.
        methods: cards of its methods, with the comparisons.
    """
    means = context_means(rows, methods)
    compared = {
        (*pair, metric): _pairs(means, *pair, metric)
        for pair in dict.fromkeys(p for pairs in methods.comparisons.values() for p in pairs)
        for metric in ("score", "kl")
    }
    found = [
        ({"group": group, "tested_with": LOW if pool else f"{method} {reference}", **about}, parts)
        for group, pairs in methods.comparisons.items()
        for pool in (True, False)
        for method, reference in pairs
        for metric in ("score", "kl")
        for about, parts in _differences(compared[method, reference, metric], pool=pool)
    ]
    records = _tested(found)
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


def by_length(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The run's comparisons at the low retentions by length, where contexts are of several lengths.

    `tokens` names a class of lengths. Holm's correction covers the lengths of one comparison.

    Args:
        rows: rows of the run.
        methods: cards of its methods, with the comparisons.
    """
    means, lengths = context_means(rows, methods), length_classes(rows)
    several = lengths.groupby(CELL).tokens.transform("nunique") > 1
    by = [*CELL, "method", "reference"]
    found = [
        line
        for pair in dict.fromkeys(p for pairs in methods.comparisons.values() for p in pairs)
        for line in strata_of(
            _low(_pairs(means, *pair, "score")).merge(lengths[several]),
            [*by, "tokens"],
            "difference",
        )
    ]
    records = _tested(found)
    columns = [*by, "tokens", "difference", "ci_low", "ci_high", "p", "p_holm", "mde", "n_contexts"]
    if not records:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(records)
    table["p_holm"] = table.groupby(by)["p"].transform(lambda p: holm(p.to_numpy()))
    return table[columns]


def _differences(pairs: pd.DataFrame, *, pool: bool) -> Iterator[tuple[dict[str, Any], Strata]]:
    """What is compared, with the contexts' differences, for each retention or for the low ones."""
    if pool:
        pairs = _low(pairs).assign(retention=LOW)
    else:
        pairs = pairs.assign(retention=pairs.retention.map("{:g}".format))
    return strata_of(pairs, [*COMPARED, "retention"], "difference")


def _pairs(means: pd.DataFrame, method: str, reference: str, metric: str) -> pd.DataFrame:
    """`difference` of two methods in each context, at each retention that both have."""
    on = [*CELL, "retention", *UNIT]
    one, other = (means.loc[means.method == m, [*on, metric]] for m in (method, reference))
    pairs = one.merge(other, on=on, suffixes=("", "_reference")).dropna()
    difference = pairs[metric] - pairs[f"{metric}_reference"]
    return pairs[on].assign(
        metric=metric, method=method, reference=reference, difference=difference
    )


def _low(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each context's mean difference over the low retentions."""
    low = pairs[pairs.retention <= LOW_RETENTION].groupby([*COMPARED, *UNIT])
    return low["difference"].mean().reset_index()


def _tested(found: Sequence[tuple[dict[str, Any], Strata]]) -> list[dict[str, Any]]:
    """What is compared, with the mean difference of contexts, its interval and its test."""
    differences = [parts for _, parts in found]
    return [
        {
            **about,
            "difference": estimate.value,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "p": p,
            "mde": detectable_effect(parts),
            "n_contexts": sum(map(len, parts)),
        }
        for (about, parts), estimate, p in zip(
            found, mean_cis(differences), permutation_ps(differences), strict=True
        )
    ]
