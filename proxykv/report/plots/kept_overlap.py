"""Agreement with the oracle, layer by layer.

Share of the pairs kept by the oracle that a method keeps, too, at one low retention; mean over the
first contexts of each task. Best method first. What is kept at random would agree in a share equal
to the retention. A layer is blank where the oracle keeps nothing.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import ranking
from proxykv.report.plots._curves import panels
from proxykv.report.plots._kept import heat, mean_of, read_kept, scale
from proxykv.report.tables import leaderboard


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family: a line per method, a column per layer.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    order = [m for m in ranking(leaderboard(rows, methods)) if m != methods.only("oracle")]
    shown = {}
    for title, part in read_kept(rows, run_dir):
        known = part.dropna(subset="overlap") if "overlap" in part else part[:0]
        lines = {
            methods.card(method).label: mean_of(known.overlap[known.method == method])
            for method in order
            if (known.method == method).any()
        }
        if lines:
            shown[title] = lines
    if not shown:
        return None
    most = max(map(len, shown.values()))
    height = 1.2 + 0.24 * most
    figure, axes = panels(list(shown), columns=2, width=5.4, height=height, legend=False)
    for axis, lines in zip(axes, shown.values(), strict=True):
        heat(axis, np.array(list(lines.values())), x="layer", y="", names=list(lines))
    scale(figure, axes, f"share of {methods.label('oracle')}'s pairs")
    return figure
