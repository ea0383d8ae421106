"""The paper's numbers as hollow marks in the figures where they belong."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from proxykv.config.claims import Claim, claims, paper_models

HOLLOW: dict[str, Any] = {
    **{"markerfacecolor": "none", "markeredgecolor": "auto", "markeredgewidth": 1.4},
    **{"markersize": 9, "linestyle": "", "zorder": 6, "alpha": 1.0},
}
NAME = "stated in the paper"


def stated(rows: pd.DataFrame, family: str, metric: str) -> Iterator[tuple[Claim, float]]:
    """Claims of one number about a family; none unless the family's target is the paper's.

    Args:
        rows: rows of the run.
        family: name of the family.
        metric: of the claims.
    """
    targets = rows.target[rows.family == family].unique() if len(rows) else rows
    if {str(target).partition("@")[0] for target in targets} == {paper_models().get(family)}:
        for claim in claims():
            number = claim.at_least
            if claim.metric == metric and family in claim.families and number is not None:
                yield claim, number


def mark_scores(
    axis: Axes,
    told: Iterable[tuple[Claim, float]],
    task: tuple[str, str],
    places: Mapping[float, float],
    lines: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Mark the stated scores of a task, by method and retention.

    Args:
        axis: a panel of scores in [0, 1] against retention.
        told: claims about its family.
        task: name of the benchmark and of the task.
        places: of the retentions along the axis.
        lines: keyword arguments of `Axes.plot` by method.

    Returns:
        Whether there was one.
    """
    found = False
    for claim, number in told:
        if task[0] in claim.benchmarks and task[1] in claim.tasks and claim.method in lines:
            x = [places[rho] for rho in claim.retentions if rho in places]
            axis.plot(x, [number / 100] * len(x), **{**lines[claim.method], **HOLLOW}, label=NAME)
            found |= bool(x)
    return found


def entry() -> Line2D:
    """The marks' entry in a legend."""
    return Line2D([], [], color="#5f6368", marker="o", label=NAME, **HOLLOW)
