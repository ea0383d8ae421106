"""The table that tests the paper's premise: is the proxy's mask as good as the target's own?

The premise fails if the own mask scores `MARGIN` points more, and holds if it does not. A
confidence interval decides; one that contains the margin leaves the question open. So does an
interval without width: where all contexts differ alike (all at a floor, say), nothing is known
about how much they vary.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from proxykv.config.cards import PREMISE, MethodCards
from proxykv.report.stats import detectable_effect, mean_ci
from proxykv.report.tables.columns import CELL, LOW_RETENTION, UNIT
from proxykv.report.tables.means import context_means, length_classes, strata

MARGIN = 3.0
"""Points of score (of 100) by which the masks may differ."""
NO_WIDTH = 1e-6
"""Points; a narrower interval comes from contexts that all differ alike."""
COLUMNS = [
    *CELL,
    "method",
    "reference",
    "tokens",
    "points",
    "ci_low",
    "ci_high",
    "mde",
    "n_contexts",
    "n_needed",
    "outcome",
]


def premise(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """Points that the own mask scores more than the proxy's, at the low retentions, per length.

    One line per pair of the config's comparisons `premise` (own mask, proxy's mask), family,
    benchmark and length. `outcome` is "falsified" (the interval is above the margin), "upheld"
    (below it) or "undecided"; then `n_needed` contexts with the same mean and spread would decide.

    Args:
        rows: rows of the run.
        methods: cards of its methods, with the comparisons.
    """
    pairs = methods.comparisons.get(PREMISE, ())
    if not pairs:
        return pd.DataFrame(columns=COLUMNS)
    means = context_means(rows, methods)
    low = means[means.retention <= LOW_RETENTION].merge(length_classes(rows), on=[*CELL, *UNIT])
    records = []
    for method, reference in pairs:
        for key, group in low.groupby([*CELL, "tokens"]):
            points = group.pivot_table(index=UNIT, columns="method", values="score")
            if {method, reference} <= set(points):
                gap = 100 * (points[method] - points[reference]).dropna()
                head = dict(zip([*CELL, "tokens"], key, strict=True))
                names = {"method": method, "reference": reference}
                records.append({**head, **names, **judged(gap.rename("gap").reset_index())})
    return pd.DataFrame(records, columns=COLUMNS)


def judged(gaps: pd.DataFrame) -> dict[str, float | str]:
    """The outcome for one length.

    Args:
        gaps: points of difference `gap` of each context, with its task.
    """
    groups = strata(gaps.sort_values(UNIT), "gap")
    points, low, high = mean_ci(groups)
    outcome = _outcome(low, high)
    return {
        "points": points,
        "ci_low": low,
        "ci_high": high,
        "mde": detectable_effect(groups),
        "n_contexts": len(gaps),
        "n_needed": _needed(points, low, high, len(gaps)) if outcome == "undecided" else np.nan,
        "outcome": outcome,
    }


def _outcome(low: float, high: float) -> str:
    if high - low < NO_WIDTH:
        return "undecided"
    return "falsified" if low > MARGIN else "upheld" if high < MARGIN else "undecided"


def _needed(points: float, low: float, high: float, n: int) -> float:
    """Contexts at which an interval around the same mean would leave the margin out."""
    distance = abs(points - MARGIN)
    half = (high - low) / 2
    if np.isnan(half) or 2 * half < NO_WIDTH or not distance:
        return np.nan
    return float(math.floor(n * (half / distance) ** 2) + 1)
