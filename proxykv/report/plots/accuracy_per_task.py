"""Accuracy against retention, task by task.

The curves of the overall figure, for each task alone. Bands are 95 % bootstrap intervals over the
contexts of the task, so they are wider. Only the judged method and the oracle have bands here. A
hollow mark is a score that the paper states for the same target.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportIndexIssue=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import looks, ranking
from proxykv.report.plots._curves import draw_curves, legend, panels, positions
from proxykv.report.plots._paper import entry, mark_scores, stated
from proxykv.report.tables import per_task
from proxykv.report.tables.columns import CELL


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family, benchmark and task, three in a row.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    table = per_task(rows, methods)
    styles = looks(methods, table.method)
    cells = list(table.groupby([*CELL, "task"]))
    several = table.groupby(CELL).ngroups > 1
    titles = [" · ".join(map(str, key if several else key[2:])) for key, _ in cells]
    figure, axes = panels(titles, columns=3 if len(cells) > 4 else 2, width=4.4, height=3.2)
    told = {family: list(stated(rows, family, "score")) for family in table.family.unique()}
    lines, marked = {method: look.line for method, look in styles.items()}, False
    for axis, (key, cell) in zip(axes, cells, strict=True):
        draw_curves(axis, cell, styles, "mean", "ci_low", "ci_high", faint_bands=False)
        axis.set_ylim(-0.02, 1.03)
        axis.set_ylabel("mean score")
        places = positions(cell.retention.unique())
        marked |= mark_scores(axis, told[key[0]], key[1:], places, lines)
    more = [entry()] if marked else []
    legend(figure, styles, ranking(table), "Best first, ρ ≤ 0.3", more)
    return figure
