"""Kept share along the context.

Share of the pairs that is kept in each twentieth of the context, over all layers and heads, at one
low retention; mean over the first contexts of each task. A flat line keeps old and new tokens
alike.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import looks, ranking
from proxykv.report.plots._curves import legend, panels
from proxykv.report.plots._kept import mean_of, read_kept
from proxykv.report.tables import leaderboard


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family and benchmark.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    shown = {}
    for title, part in read_kept(rows, run_dir):
        parts = part.positions.map(len)
        long = part[parts == parts.max()]  # a context shorter than the parts has fewer of them
        shown |= {f"{title} · {name}": group for name, group in long.groupby("benchmark")}
    if not shown:
        return None
    drawn = pd.concat(shown.values()).method.unique()
    order = [method for method in ranking(leaderboard(rows, methods)) if method in drawn]
    styles = looks(methods, order)
    figure, axes = panels(list(shown), columns=2, width=6, height=4.2)
    for axis, part in zip(axes, shown.values(), strict=True):
        for method in reversed(order):
            if (part.method == method).any():
                shares = mean_of(part.positions[part.method == method])
                places = (np.arange(len(shares)) + 0.5) / len(shares)
                axis.plot(places, shares, **styles[method].line)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, None)
        axis.set_xlabel("place in the context (0: start)")
        axis.set_ylabel("share of pairs kept")
    legend(figure, styles, order, "Best first, ρ ≤ 0.3")
    return figure
