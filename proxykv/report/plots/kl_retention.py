"""Distance from the full cache against retention.

KL divergence of the next-token distributions of the full cache from those of the pruned one, in
nats per token along the reference answer (log scale; lower is better, 0 = identical). Bands are
95 % bootstrap intervals over contexts.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.report.plots import ranking
from proxykv.report.plots._curves import draw_curves, legend, log_scale, panels
from proxykv.report.tables import CELL, FULL, leaderboard


def draw(rows: pd.DataFrame, run_dir: Path) -> Figure | None:
    """A panel per family and benchmark; None where no row has a KL."""
    table = leaderboard(rows)
    # The full cache's distance from itself is 0, which a log scale has no place for.
    table = table[(table.method != FULL) & (table.kl > 0)]
    if table.empty:
        return None
    cells = list(table.groupby(CELL))
    titles = [f"{family} · {benchmark}" for (family, benchmark), _ in cells]
    figure, axes = panels(titles, columns=2, width=6, height=4.2)
    for axis, (_, cell) in zip(axes, cells, strict=True):
        draw_curves(axis, cell, "kl", "kl_low", "kl_high")
        log_scale(axis)
        axis.set_ylabel("KL(full ‖ pruned), nats per token")
    legend(figure, ranking(table, "kl"), "Closest first, ρ ≤ 0.3")
    return figure
