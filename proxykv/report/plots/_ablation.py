"""Differences from the reference against retention: the panels that the ablation plots share."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from proxykv.report.ablations import ablations
from proxykv.report.plots._curves import panels, positions
from proxykv.report.tables import CELL, LOW

METRICS = {
    "score": "score minus the reference's",
    "kl": "KL minus the reference's (nats per token)",
}


def draw_differences(rows: pd.DataFrame, run_dir: Path, *groups: str) -> Figure | None:
    """Two panels per benchmark (score and KL); None for a run without variants of these groups."""
    table = ablations(rows, run_dir)
    table = table[table.metric.isin(METRICS) & (table.retention != LOW)]
    table = table.assign(retention=table.retention.astype(float))
    mine = table[table.group.isin(groups)]
    if mine.empty:
        return None
    cells = [(cell, metric) for cell, _ in mine.groupby(CELL) for metric in METRICS]
    titles = [f"{' · '.join(map(str, cell))}: {metric}" for cell, metric in cells]
    figure, axes = panels(titles, columns=2, width=4.6, height=3.6)
    names = list(mine.variant.unique())
    colors = dict(zip(names, sns.husl_palette(len(names), s=0.75, l=0.5).as_hex(), strict=True))
    for (cell, metric), axis in zip(cells, axes, strict=True):
        part = mine[(mine[CELL] == list(cell)).all(axis=1) & (mine.metric == metric)]
        _panel(axis, part, colors)
        axis.set_ylabel(METRICS[metric])
    handles = [Line2D([], [], color=colors[name], marker="o", label=name) for name in names]
    figure.legend(handles=handles, loc="outside right upper", title="Variant", alignment="left")
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
            # Side by side, so that the intervals can be told apart.
            curve.retention.map(place) + step * (i - (len(colors) - 1) / 2),
            curve.difference,
            yerr=[curve.difference - low, high - curve.difference],
            color=color,
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
        )
    axis.set_xticks(list(place.values()), [f"{rho:g}" for rho in place])
    axis.set_xlabel("retention ρ (KV pairs kept)")
