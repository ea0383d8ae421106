"""Score against cost.

Left: bytes of keys and values that the pruned cache really keeps. Right: seconds of prefill plus
the method's own scoring, its proxy included, one after the other on the device that ran them. A
mark per retention, larger = more kept. The grey staircase is the Pareto front, whose marks are
labelled with ρ: no other point costs less and scores as much.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.report.plots import looks, ranking
from proxykv.report.plots._curves import legend, panels
from proxykv.report.stats import pareto_front
from proxykv.report.tables import CELL, costs, leaderboard


def draw(rows: pd.DataFrame, run_dir: Path) -> Figure | None:
    """Two panels, memory and time, per family and benchmark."""
    table = costs(rows).assign(mebibytes=lambda t: t.kv_bytes / 2**20)
    cells = list(table.groupby(CELL))
    axes_of = [("mebibytes", "kept KV, MiB"), ("seconds", "prefill + scoring, s")]
    titles = [f"{f} · {b}: {label.split(',')[0]}" for (f, b), _ in cells for _, label in axes_of]
    figure, axes = panels(titles, columns=2, width=5.4, height=4.2)
    for i, (_, cell) in enumerate(cells):
        for axis, (cost, label) in zip(axes[2 * i : 2 * i + 2], axes_of, strict=True):
            _scatter(axis, cell, cost)
            axis.set_xlabel(label)
            axis.set_ylabel("mean score")
            axis.set_ylim(-0.02, 1.06)
    legend(figure, ranking(leaderboard(rows)), "Best first, ρ ≤ 0.3")
    return figure


def _scatter(axis: Axes, cell: pd.DataFrame, cost: str) -> None:
    for method, look in looks(cell.method.unique()).items():
        points = cell[cell.method == method].sort_values("retention")
        line = look.line | {"marker": "", "linewidth": 0.8, "alpha": 0.4}
        axis.plot(points[cost], points.score, **line)
        axis.scatter(
            points[cost],
            points.score,
            s=18 + 60 * points.retention,
            color=look.color,
            marker=look.marker,
            edgecolor="white",
            linewidth=0.5,
            zorder=look.line["zorder"],
        )
    front = cell[pareto_front(cell[cost], cell.score)].sort_values([cost, "score"])
    front = front.drop_duplicates([cost, "score"])
    axis.step(front[cost], front.score, where="post", color="#9aa0a6", lw=4, alpha=0.35, zorder=0)
    last = np.array([-np.inf, -np.inf])
    for point in front.itertuples():
        at = axis.transData.transform((getattr(point, cost), point.score))
        if np.hypot(*(at - last)) > 22:  # pixels: labels closer than that would overlap
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
