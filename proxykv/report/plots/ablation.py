"""Ablation: what each part of the judged method is worth.

Variants minus the run's own method, in score and in KL, on the same contexts with 95 % intervals.
One row of panels shows other terms of the loss, one other weights of the same terms, one other
parts and inputs of the mapper. Differences inside the grey band also occur between two seeds.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.ablations import ablations
from proxykv.report.plots._curves import panels, positions
from proxykv.report.tables.columns import CELL, LOW

METRICS = {
    "score": "score minus the reference's",
    "kl": "KL minus the reference's (nats per token)",
}
ROWS = {"loss": "terms of the loss", "weights": "weights of the loss"}
OTHERS = "parts of the mapper"


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Two panels (score and KL) per benchmark and kind of variant; None without variants.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    table = ablations(rows, methods, run_dir)
    table = table[table.metric.isin(METRICS) & (table.retention != LOW)]
    table = table[table.group != "reference"]
    if table.empty:
        return None
    table = table.assign(
        retention=table.retention.astype(float), row=table.group.map(ROWS).fillna(OTHERS)
    )
    parts = list(table.groupby([*CELL, "row"], sort=False))
    names = [" · ".join(map(str, key)) for key, _ in parts]
    titles = [f"{name}: {metric}" for name in names for metric in METRICS]
    figure, axes = panels(titles, columns=2, width=4.6, height=3.6)
    for i, (_, part) in enumerate(parts):
        variants = list(part.variant.unique())
        palette = sns.husl_palette(len(variants), s=0.75, l=0.5).as_hex()
        colors = dict(zip(variants, palette, strict=True))
        for axis, metric in zip(axes[2 * i : 2 * i + 2], METRICS, strict=True):
            _panel(axis, part[part.metric == metric], colors)
            axis.set_ylabel(METRICS[metric])
        axes[2 * i + 1].legend(title="Variant", loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _panel(axis: Axes, part: pd.DataFrame, colors: dict[str, str]) -> None:
    place = positions(part.retention.unique())
    spread = part.groupby("retention").seed_spread.first()
    x = [place[rho] for rho in spread.index]
    axis.fill_between(x, -spread, spread, color="#9aa0a6", alpha=0.25, lw=0)
    axis.axhline(0, color="#222222", lw=1)
    step = 0.5 / len(colors)
    for i, (name, color) in enumerate(colors.items()):
        curve = part[part.variant == name].sort_values("retention")
        low, high = curve.difference_low, curve.difference_high
        axis.errorbar(
            # Side by side, so that the intervals do not cover each other.
            curve.retention.map(place) + step * (i - (len(colors) - 1) / 2),
            curve.difference,
            yerr=[curve.difference - low, high - curve.difference],
            color=color,
            label=name,
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
        )
    axis.set_xticks(list(place.values()), [f"{rho:g}" for rho in place])
    axis.set_xlabel("retention ρ (KV pairs kept)")
