"""Where each method keeps pairs.

Share of a head's pairs that is kept, by layer and head, at one low retention; mean over the first
contexts of each task. Best method first. A method whose scope is a head keeps the same share
everywhere; one with a global budget chooses heads, and two with the same picture split the budget
alike.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import ranking
from proxykv.report.plots._curves import panels
from proxykv.report.plots._kept import heat, mean_of, read_kept, scale
from proxykv.report.tables import leaderboard


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family and method.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    shown = {
        f"{methods.card(method).label}\n{title}": mean_of(part.heads[part.method == method])
        for title, part in read_kept(rows, run_dir)
        for method in ranking(leaderboard(rows, methods))
        if (part.method == method).any()
    }
    if not shown:
        return None
    figure, axes = panels(list(shown), columns=4, width=2.9, height=2.4, legend=False)
    for axis, heads in zip(axes, shown.values(), strict=True):
        heat(axis, heads, x="head", y="layer")
    scale(figure, axes, "share of the head's pairs that is kept")
    return figure
