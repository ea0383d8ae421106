"""Score against cost.

Left: bytes of keys and values that the pruned cache keeps. Right: seconds of prefill plus the
method's scoring, its proxy included, one after the other on the device that ran them. There is one
mark per retention; a larger mark keeps more. The grey staircase is the Pareto front: no other point
costs less and scores as much. Its marks are labelled with ρ.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import Look, looks, ranking
from proxykv.report.plots._curves import legend, panels
from proxykv.report.stats import pareto_front
from proxykv.report.tables import costs, leaderboard
from proxykv.report.tables.columns import CELL


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Two panels, memory and time, per family and benchmark.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    table = costs(rows, methods).assign(mebibytes=lambda t: t.kv_bytes / 2**20)
    styles = looks(methods, table.method)
    cells = list(table.groupby(CELL))
    axes_of = [("mebibytes", "kept KV, MiB"), ("seconds", "prefill + scoring, s")]
    titles = [f"{f} · {b}: {label.split(',')[0]}" for (f, b), _ in cells for _, label in axes_of]
    figure, axes = panels(titles, columns=2, width=5.4, height=4.2)
    for i, (_, cell) in enumerate(cells):
        for axis, (cost, label) in zip(axes[2 * i : 2 * i + 2], axes_of, strict=True):
            _scatter(axis, cell, cost, styles)
            axis.set_xlabel(label)
            axis.set_ylabel("mean score")
            axis.set_ylim(-0.02, 1.06)
    legend(figure, styles, ranking(leaderboard(rows, methods)), "Best first, ρ ≤ 0.3")
    return figure


def _scatter(axis: Axes, cell: pd.DataFrame, cost: str, styles: Mapping[str, Look]) -> None:
    axis.margins(x=0.08)  # for the labels at the left of the marks
    for method in cell.method.unique():
        look = styles[method]
        points = cell[cell.method == method].sort_values("retention")
        line = look.line | {"marker": "", "linewidth": 0.8, "alpha": 0.4}
        axis.plot(points[cost], points.score, **line)
        axis.scatter(
            points[cost],
            points.score,
            s=18 + 60 * points.retention,
            gid=look.gid,
            color=look.color,
            marker=look.marker,
            edgecolor="white",
            linewidth=0.5,
            zorder=look.line["zorder"],
        )
    front = cell[pareto_front(cell[cost], cell.score)].sort_values([cost, "score"])
    front = front.drop_duplicates([cost, "score"])
    look = {"color": "#9aa0a6", "lw": 4, "alpha": 0.35, "zorder": 0, "label": "Pareto front"}
    axis.step(front[cost], front.score, where="post", **look)
    last = np.array([-np.inf, -np.inf])
    for point in front.itertuples():
        at = axis.transData.transform((getattr(point, cost), point.score))
        if np.hypot(*(at - last)) > 22:  # pixels: closer labels would overlap
            axis.annotate(
                f"{point.retention:g}",
                (getattr(point, cost), point.score),
                xytext=(-3, 6),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color="#3c4043",
            )
            last = at
