"""Curves against retention: the panels that several plots have in common."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from proxykv.report.plots import Look, looks, ranking

LEGEND_WIDTH = 2.5  # inches


def panels(
    titles: Sequence[str], *, columns: int, width: float, height: float, beside: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with one axis per title (sizes in inches), with room for a legend beside them."""
    columns = min(columns, len(titles))
    lines = -(-len(titles) // columns)
    # Figure(), unlike pyplot's figures, is not kept alive by a global register.
    size = (width * columns + LEGEND_WIDTH * beside, height * lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return figure, axes[: len(titles)]


def positions(retentions: Iterable[float]) -> dict[float, int]:
    """Even places for the retentions that occur, so that small ones stay apart."""
    return {rho: i for i, rho in enumerate(sorted(retentions))}


def draw_curves(
    axis: Axes, table: pd.DataFrame, value: str, low: str, high: str, *, faint_bands: bool = True
) -> None:
    """One line with its interval's band per method; `full` is a level, not a curve.

    Every pruned method's curve ends in the full cache's point, which is theirs at retention 1.
    Without `faint_bands` only ProxyKV's and KVzip's intervals are shown.
    """
    place = positions(table.retention.unique())
    styles = looks(table.method.unique())
    full = table[table.method == "full"]
    for method in reversed(ranking(table, value)):
        curve = table[table.method == method]
        if method == "full":
            axis.axhline(curve[value].iloc[0], color=styles[method].color, lw=1, ls=":", zorder=1)
        elif value != "kl":
            curve = pd.concat([curve, full])
        curve = curve.sort_values("retention")
        x = curve.retention.map(place)
        if method != "full":
            strong = styles[method].group in ("proxykv", "reference")
            alpha = 0.16 if strong else 0.05
            if strong or faint_bands:
                color = styles[method].color
                axis.fill_between(x, curve[low], curve[high], color=color, alpha=alpha, lw=0)
        axis.plot(x, curve[value], **styles[method].line)
    axis.set_xticks(list(place.values()), [f"{rho:g}" for rho in place])
    axis.set_xlim(-0.25, len(place) - 0.75)
    axis.set_xlabel("retention ρ (KV pairs kept)")


def log_scale(axis: Axes) -> None:
    """Logarithmic y axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, methods: Sequence[str], title: str) -> None:
    """Legend beside the panels, in the order of the ranking."""
    styles = looks(methods)
    handles = [_handle(styles[method]) for method in methods]
    figure.legend(
        handles=handles, loc="outside right upper", title=title, alignment="left", handlelength=3.2
    )


def _handle(look: Look) -> Line2D:
    line = look.line | ({"linestyle": ":", "linewidth": 1} if look.marker == "*" else {})
    return Line2D([], [], label=look.label, **line)
