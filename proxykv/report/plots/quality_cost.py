"""Quality against the cost of scoring.

Top: recovery, below: KL divergence from the full cache, both at ρ ≤ 0.3 with 95 % intervals; one
point per method. Left: seconds of prefill plus scoring on the device that ran them. Right: counted
operations over those of the target's prefill alone: 1 is a method that costs nothing.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import Look, looks, ranking
from proxykv.report.plots._curves import legend, log_scale, panels
from proxykv.report.tables import leaderboard, quality_cost
from proxykv.report.tables.columns import CELL

QUALITIES = {"recovery": "recovery", "kl": "KL, nats per token"}
COSTS = {"seconds": "prefill + scoring, s", "prefills": "operations / those of a prefill"}


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Draw recovery and KL against seconds and operations, four panels per family and benchmark.

    Args:
        rows: of the run.
        methods: cards of its methods.
        run_dir: folder of the run.

    Returns:
        The figure, or None without pruned rows.
    """
    table = quality_cost(rows, methods)
    if table.empty:
        return None
    styles = looks(methods, table.method)
    cells = list(table.groupby(CELL))
    shown = [(quality, cost) for quality in QUALITIES for cost in COSTS]
    titles = [f"{f} · {b}: {quality}, {cost}" for (f, b), _ in cells for quality, cost in shown]
    figure, axes = panels(titles, columns=2, width=5.4, height=3.6)
    for i, (_, cell) in enumerate(cells):
        for axis, (quality, cost) in zip(axes[4 * i : 4 * i + 4], shown, strict=True):
            _points(axis, cell.dropna(subset=[quality, cost]), quality, cost, styles)
            axis.set_xlabel(COSTS[cost])
            axis.set_ylabel(QUALITIES[quality])
    order = [method for method in ranking(leaderboard(rows, methods)) if method in styles]
    legend(figure, styles, order, "Best first, ρ ≤ 0.3")
    return figure


def _points(
    axis: Axes, cell: pd.DataFrame, quality: str, cost: str, styles: Mapping[str, Look]
) -> None:
    for point in cell.to_dict("records"):
        value, look = point[quality], styles[point["method"]]
        ends = (value - point[f"{quality}_low"], point[f"{quality}_high"] - value)
        drawn = axis.errorbar(
            point[cost],
            value,
            yerr=[[np.maximum(end, 0.0)] for end in ends],  # NaN where no interval is known
            elinewidth=1,
            **look.line | {"linestyle": ""},
        )
        for artist in drawn.get_children():
            artist.set_gid(look.gid)
    if quality == "kl" and (cell.kl > 0).all() and len(cell):
        log_scale(axis)
