"""What the figures of time and memory have in common: cases, styles, axes of lengths."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import SCAN
from proxykv.report.plots import looks
from proxykv.report.plots._curves import add_legend

COMPARED_AT = 0.3
"""Retention at which lengths are compared (the paper's), or the measured one nearest to it."""
PHASES = {
    "target_prefill": ("target: prefill", "#0072B2"),
    "scoring": ("target: scoring", "#56B4E9"),
    "proxy_prefill": ("proxy: prefill", "#D55E00"),
    "proxy_scoring": ("proxy: scoring", "#E69F00"),
    "mapper": ("mapper", "#009E73"),
    "select": ("select", "#CC79A7"),
    "prune": ("prune", "#555555"),
}
"""Names and colours of the phases, in their order."""


def length_scans(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Scans over several lengths: title, and their requests of one context at one retention."""
    for (family, scan), part in rows[rows.batch == 1].groupby(SCAN, sort=False):
        pruned = part[part.retention < 1]
        if part.tokens.nunique() < 2 or pruned.empty:
            continue
        at = min(pruned.retention.unique(), key=lambda rho: (abs(rho - COMPARED_AT), rho))
        yield f"{family} · {scan}, ρ {at:g}", part[part.retention.isin([at, 1.0])]


def variants(part: pd.DataFrame) -> list[tuple[str, str]]:
    """The (method, schedule) pairs that occur, in the order of the measurements."""
    pairs = part[["method", "schedule"]].drop_duplicates()
    return [(str(m), str(s)) for m, s in pairs.itertuples(index=False)]


def variant_styles(
    part: pd.DataFrame, methods: MethodCards
) -> Mapping[tuple[str, str], dict[str, Any]]:
    """Styles of the variants; the parallel schedule is dashed.

    Args:
        part: measurements.
        methods: cards of the run's methods.

    Returns:
        Keyword arguments of `Axes.plot` by (method, schedule).
    """
    found = looks(methods, part.method.unique())
    styles = {}
    for method, schedule in variants(part):
        line = dict(found[method].line)
        aside = schedule == "parallel"
        line |= {"linestyle": (0, (3, 1.4))} if aside else {}
        styles[method, schedule] = line | {"label": found[method].label + ", parallel" * aside}
    return styles


def draw_range(axis: Axes, tokens: Sequence[int], values: pd.DataFrame, line: Mapping[str, Any]):
    """Draw medians with the range of the repeats.

    Args:
        axis: where to draw.
        tokens: lengths, ascending.
        values: columns `median`, `min` and `max`, in the order of the lengths.
        line: keyword arguments of `Axes.plot`.
    """
    axis.plot(tokens, values["median"], **line)
    low, high = values["min"], values["max"]
    axis.fill_between(tokens, low, high, color=line["color"], alpha=0.14, lw=0, gid=line["gid"])


def length_axis(axis: Axes, lengths: Sequence[int]) -> None:
    """Make the x axis one of lengths, logarithmic, with a tick at each measured one.

    Args:
        axis: whose x axis.
        lengths: tokens.
    """
    axis.set_xscale("log")
    axis.set_xticks(list(lengths), [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in lengths])
    axis.minorticks_off()
    axis.set_xlabel("context, tokens")


def legend_of(figure: Figure, styles: Mapping[Any, Mapping[str, Any]], title: str) -> None:
    """Add a legend at the right of the panels.

    Args:
        figure: with the panels.
        styles: keyword arguments of `Axes.plot`, with labels.
        title: of the legend.
    """
    handles = [Line2D([], [], **style) for style in styles.values()]
    add_legend(figure, handles, title)
