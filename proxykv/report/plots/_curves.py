"""Curves against retention: the panels that several plots have in common."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from proxykv.report.plots import Look, ranking

LEGEND_WIDTH = 2.5  # inches


def panels(
    titles: Sequence[str], *, columns: int, width: float, height: float, legend: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with one axis per title, and room for a legend at the right.

    Args:
        titles: of the panels.
        columns: the most panels in a row.
        width: of a panel, in inches.
        height: of a panel, in inches.
        legend: whether to leave room for a legend.
    """
    columns = min(columns, len(titles))
    lines = -(-len(titles) // columns)
    # Figure(), unlike pyplot's figures, is not kept alive by a global register.
    size = (width * columns + LEGEND_WIDTH * legend, height * lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return figure, axes[: len(titles)]


def positions(retentions: Iterable[float]) -> dict[float, int]:
    """Evenly spaced places for the retentions that occur, so that small ones stay apart."""
    return {rho: i for i, rho in enumerate(sorted(retentions))}


def draw_curves(
    axis: Axes,
    table: pd.DataFrame,
    styles: Mapping[str, Look],
    value: str,
    low: str,
    high: str,
    *,
    faint_bands: bool = True,
) -> None:
    """Draw one line with the band of its interval per method; the full cache is a level.

    Every pruned method's curve ends in the full cache's point, which is theirs at retention 1.

    Args:
        axis: where to draw.
        table: a leaderboard or a part of one.
        styles: looks of the table's methods.
        value: the column to draw.
        low: the column of the lower end of its interval.
        high: that of the upper end.
        faint_bands: whether methods other than the subject and the oracle have bands.
    """
    place = positions(table.retention.unique())
    full = table[table.retention == 1]
    unpruned, curves = set(full.method), dict(iter(table.groupby("method")))
    for method in reversed(ranking(table, value)):
        curve, style = curves[method], styles[method]
        if method in unpruned:
            axis.axhline(
                curve[value].iloc[0], color=style.color, gid=style.gid, lw=1, ls=":", zorder=1
            )
            axis.plot(curve.retention.map(place), curve[value], **style.line)
            continue
        if value != "kl":
            curve = pd.concat([curve, full])
        curve = curve.sort_values("retention")
        # A method under the scope `custom` keeps what it chooses; others miss by rounding only.
        kept = curve.retention.where(curve["scope"] != "custom", curve.achieved_retention)
        x = np.interp(kept, list(place), list(place.values()))
        if style.strong or faint_bands:
            alpha = 0.16 if style.strong else 0.05
            axis.fill_between(
                x, curve[low], curve[high], color=style.color, alpha=alpha, lw=0, gid=style.gid
            )
        axis.plot(x, curve[value], **style.line)
    axis.set_xticks(list(place.values()), [f"{rho:g}" for rho in place])
    axis.set_xlim(-0.25, len(place) - 0.75)
    axis.set_xlabel("retention ρ (KV pairs kept)")


def log_scale(axis: Axes) -> None:
    """Logarithmic y axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def legend(
    figure: Figure,
    styles: Mapping[str, Look],
    order: Sequence[str],
    title: str,
    more: Sequence[Line2D] = (),
) -> None:
    """Legend at the right of the panels, in the given order of the methods.

    Args:
        figure: the figure.
        styles: looks by method.
        order: methods in their order.
        title: of the legend.
        more: entries after the methods.
    """
    handles = [_handle(styles[method]) for method in order]
    add_legend(figure, [*handles, *more], title)


def add_legend(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    """Legend at the right of the panels.

    Args:
        figure: the figure.
        handles: its entries; those of methods carry their names.
        title: of the legend.
    """
    made = figure.legend(
        handles=handles, loc="outside right upper", title=title, alignment="left", handlelength=3.2
    )
    for entry, handle, text in zip(handles, made.legend_handles, made.get_texts(), strict=True):
        for artist in (handle, text):
            if artist is not None:
                artist.set_gid(entry.get_gid())


def _handle(look: Look) -> Line2D:
    level = look.role == "reference"
    line = look.line | ({"linestyle": ":", "linewidth": 1} if level else {})
    return Line2D([], [], label=look.label, **line)
