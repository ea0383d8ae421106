"""The table of paired differences between methods."""

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
from proxykv.report.tables.means import context_means, strata


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


def _differences(
    means: pd.DataFrame, method: str, reference: str, metric: str, *, pool: bool
) -> Iterable[dict[str, Any]]:
    on = [*CELL, "retention", *UNIT]
    one, other = (means.loc[means.method == m, [*on, metric]] for m in (method, reference))
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
        differences = strata(group, "difference")
        estimate = mean_ci(differences)
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
            "p": permutation_p(differences),
            "mde": detectable_effect(differences),
            "n_contexts": len(group),
        }
