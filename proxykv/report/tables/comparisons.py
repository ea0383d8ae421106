"""The tables of paired differences between methods."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.stats import detectable_effect, holm, mean_ci, permutation_p
from proxykv.report.tables.columns import CELL, LOW, LOW_RETENTION, UNIT
from proxykv.report.tables.means import context_means, length_classes, strata


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


def by_length(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """The run's comparisons at the low retentions by length, where contexts are of several lengths.

    `tokens` names a class of lengths. Holm's correction covers the lengths of one comparison.

    Args:
        rows: rows of the run.
        methods: cards of its methods, with the comparisons.
    """
    means, lengths = context_means(rows, methods), length_classes(rows)
    several = lengths.groupby(CELL).tokens.transform("nunique") > 1
    records = []
    for method, reference in dict.fromkeys(
        p for pairs in methods.comparisons.values() for p in pairs
    ):
        pairs = _low(_pairs(means, method, reference, "score")).merge(lengths[several])
        for (family, benchmark, tokens), group in pairs.groupby([*CELL, "tokens"]):
            head = {"family": family, "benchmark": benchmark, "method": method}
            records.append({**head, "reference": reference, "tokens": tokens, **_tested(group)})
    by = [*CELL, "method", "reference"]
    columns = [*by, "tokens", "difference", "ci_low", "ci_high", "p", "p_holm", "mde", "n_contexts"]
    if not records:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(records)
    table["p_holm"] = table.groupby(by)["p"].transform(lambda p: holm(p.to_numpy()))
    return table[columns]


def _differences(
    means: pd.DataFrame, method: str, reference: str, metric: str, *, pool: bool
) -> Iterable[dict[str, Any]]:
    pairs = _pairs(means, method, reference, metric)
    if pool:
        pairs = _low(pairs).assign(retention=LOW)
    else:
        pairs["retention"] = pairs.retention.map("{:g}".format)
    for (family, benchmark, retention), group in pairs.groupby([*CELL, "retention"]):
        yield {
            "family": family,
            "benchmark": benchmark,
            "metric": metric,
            "method": method,
            "reference": reference,
            "retention": retention,
            **_tested(group),
        }


def _pairs(means: pd.DataFrame, method: str, reference: str, metric: str) -> pd.DataFrame:
    """`difference` of two methods in each context, at each retention that both have."""
    on = [*CELL, "retention", *UNIT]
    one, other = (means.loc[means.method == m, [*on, metric]] for m in (method, reference))
    pairs = one.merge(other, on=on, suffixes=("", "_reference")).dropna()
    pairs["difference"] = pairs[metric] - pairs[f"{metric}_reference"]
    return pairs


def _low(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each context's mean difference over the low retentions."""
    low = pairs[pairs.retention <= LOW_RETENTION].groupby([*CELL, *UNIT])
    return low["difference"].mean().reset_index()


def _tested(group: pd.DataFrame) -> dict[str, Any]:
    """Mean difference of contexts with its interval and test."""
    differences = strata(group.sort_values(UNIT), "difference")
    estimate = mean_ci(differences)
    return {
        "difference": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "p": permutation_p(differences),
        "mde": detectable_effect(differences),
        "n_contexts": len(group),
    }
