"""Distance from the full cache against retention.

KL(full ‖ pruned) of the next-token distributions, in nats per token along the reference answer. The
scale is logarithmic; lower is better, and 0 means the same distributions. Bands are 95 % bootstrap
intervals over contexts.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import looks, ranking
from proxykv.report.plots._curves import draw_curves, legend, log_scale, panels
from proxykv.report.tables import leaderboard
from proxykv.report.tables.columns import CELL


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family and benchmark; None where no row has a KL.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    table = leaderboard(rows, methods)
    # The full cache's distance from itself is 0, which a log scale cannot show.
    table = table[(table.retention < 1) & (table.kl > 0)]
    if table.empty:
        return None
    styles = looks(methods, table.method)
    cells = list(table.groupby(CELL))
    titles = [f"{family} · {benchmark}" for (family, benchmark), _ in cells]
    figure, axes = panels(titles, columns=2, width=6, height=4.2)
    for axis, (_, cell) in zip(axes, cells, strict=True):
        draw_curves(axis, cell, styles, "kl", "kl_low", "kl_high")
        log_scale(axis)
        axis.set_ylabel("KL(full ‖ pruned), nats per token")
    legend(figure, styles, ranking(table, "kl"), "Closest first, ρ ≤ 0.3")
    return figure
