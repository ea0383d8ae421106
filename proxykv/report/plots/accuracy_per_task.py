"""Accuracy against retention, task by task.

The curves of the overall figure for every task on its own. Bands, here for KVzip and ProxyKV
only, are 95 % bootstrap intervals over the contexts of that task, so they are wider.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportIndexIssue=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.report.plots import ranking
from proxykv.report.plots._curves import draw_curves, legend, panels
from proxykv.report.tables import CELL, per_task


def draw(rows: pd.DataFrame, run_dir: Path) -> Figure | None:
    """A panel per family, benchmark and task, three in a line."""
    table = per_task(rows)
    cells = list(table.groupby([*CELL, "task"]))
    several = table.groupby(CELL).ngroups > 1
    titles = [" · ".join(map(str, key if several else key[2:])) for key, _ in cells]
    figure, axes = panels(titles, columns=3 if len(cells) > 4 else 2, width=4.4, height=3.2)
    for axis, (_, cell) in zip(axes, cells, strict=True):
        draw_curves(axis, cell, "mean", "ci_low", "ci_high", faint_bands=False)
        axis.set_ylim(-0.02, 1.03)
        axis.set_ylabel("mean score")
    legend(figure, ranking(table), "Best first, ρ ≤ 0.3")
    return figure
