"""Accuracy against retention.

Mean score over tasks at each retention, one panel per family and benchmark. Bands are 95 %
bootstrap intervals over contexts. Every curve ends in the full cache's score, since nothing is
pruned at ρ = 1. Dashed curves are controls: they lack what the judged method claims. Where a
control reaches it, accuracy does not prove that its choice of tokens matters. Retentions are evenly
spaced.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportGeneralTypeIssues=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import looks, ranking
from proxykv.report.plots._curves import draw_curves, legend, panels
from proxykv.report.tables import leaderboard
from proxykv.report.tables.columns import CELL


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family and benchmark.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    table = leaderboard(rows, methods)
    styles = looks(methods, table.method)
    cells = list(table.groupby(CELL))
    titles = [f"{family} · {benchmark}" for (family, benchmark), _ in cells]
    figure, axes = panels(titles, columns=2, width=6, height=4.2)
    for axis, (_, cell) in zip(axes, cells, strict=True):
        draw_curves(axis, cell, styles, "mean", "ci_low", "ci_high")
        axis.set_ylim(-0.02, 1.03)
        axis.set_ylabel("mean score")
    legend(figure, styles, ranking(table), "Best first, ρ ≤ 0.3")
    return figure
