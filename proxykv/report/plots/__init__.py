"""Plots: one module per figure, found by its name, and the look that all of them share.

A plot module has a docstring and a function `draw(rows, methods, run_dir) -> Figure | None`. The
docstring's first line is the title of the figure, the rest its caption. `rows` is the DataFrame of
a run's rows, `methods` holds the cards of its methods, `run_dir` is its folder. None means that the
run has nothing to draw. Modules whose names start with an underscore are helpers, not plots.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots._emphasis import GID, mute
from proxykv.report.plots._image import mark, render, style
from proxykv.report.plots._points import points
from proxykv.report.tables import read_rows
from proxykv.report.tables.columns import CELL, LOW_RETENTION, PARTIAL, SYNTHETIC
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import write_csv


@dataclass(frozen=True)
class Look:
    """How one method is drawn and named.

    Attributes:
        label: name in legends and tables.
        color: a hex colour.
        marker: marker of Matplotlib.
        role: of the method's card.
        method: its id.
    """

    label: str
    color: str
    marker: Any
    role: str
    method: str

    @property
    def gid(self) -> str:
        """Name of what is drawn of the method, from which figures and page find it again."""
        return GID + self.method

    @property
    def strong(self) -> bool:
        """Whether the method stands out: it is judged, or it is what the others are measured by."""
        return self.role in ("subject", "oracle", "reference")

    @property
    def control(self) -> bool:
        """Whether the method lacks what the subject claims."""
        return self.role in ("control", "crossed")

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        width = 2.6 if self.role == "subject" else 2.0 if self.strong else 1.3
        return {
            "gid": self.gid,
            "color": self.color,
            "marker": self.marker,
            "markersize": 6 if self.strong else 4.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "linewidth": width,
            "linestyle": (0, (4, 1.6)) if self.control else "-",
            "alpha": 0.85 if self.control else 1.0,
            "zorder": 5
            if self.role == "subject"
            else 4
            if self.strong
            else 3
            if self.control
            else 2,
        }


SUFFIXES = (".svg", ".png", ".pdf")
RIVALS = 3
"""The strongest ones are in colour where a figure shows many methods."""
MAIN = ("accuracy_retention", "kl_retention", "pareto")


def looks(methods: MethodCards, ids: Iterable[str]) -> dict[str, Look]:
    """The looks of these methods.

    A method whose card has no colour or marker gets one that no other method of the run has.

    Args:
        methods: cards of the run's methods.
        ids: methods that are drawn.
    """
    ids = list(dict.fromkeys(ids))
    cards = {method: methods.card(method) for method in {*ids, *methods.cards}}
    plain = sorted(m for m, card in cards.items() if not (card.color and card.marker))
    spare = sns.husl_palette(len(plain), h=0.13, s=0.6, l=0.45).as_hex() if plain else []
    stars = [(3 + i, 1, 0) for i in range(len(plain))]  # points, style "star", rotation
    derived = dict(zip(plain, zip(spare, stars, strict=True), strict=True))
    found = {}
    for method in ids:
        card = cards[method]
        color, marker = derived.get(method, (card.color, card.marker))
        found[method] = Look(
            card.label, str(card.color or color), card.marker or marker, card.role, method
        )
    return found


def ranking(table: pd.DataFrame, column: str = "mean") -> list[str]:
    """Methods of a leaderboard-like table, best first by their mean at the low retentions.

    The full cache, the ceiling, leads. Low retentions decide because methods meet above them; a
    table without any is ranked by all its retentions.

    Args:
        table: with columns `method`, `retention` and `column`.
        column: the ranked metric; of `kl`, the lowest value is best.
    """
    pruned = table[table.retention < 1]
    low = pruned[pruned.retention <= LOW_RETENTION]
    best = (low if len(low) else pruned).groupby("method")[column].mean()
    rest = [str(m) for m in best.sort_values(ascending=column == "kl", kind="stable").index]
    return [str(m) for m in table.loc[table.retention == 1, "method"].unique()] + rest


def main_methods(rows: pd.DataFrame, methods: MethodCards) -> list[str]:
    """Methods in colour: the full cache, the oracle, the subject and the strongest rivals.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
    """
    main = methods.ids("reference", "oracle", "subject")
    if rows.empty:
        return main
    means = rows.groupby([*CELL, "task", "method", "retention"]).score.mean()
    order = ranking(means.reset_index(name="mean"))
    return main + [m for m in order if methods.card(m).role == "rival"][:RIVALS]


def names() -> list[str]:
    """Names of all plots: the main ones first, then the others in alphabetical order."""
    found = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return sorted(found, key=lambda name: (name not in MAIN, name))


def load(name: str) -> ModuleType:
    """The module of a plot.

    Args:
        name: of the plot.

    Raises:
        ConfigError: if there is no such plot.
    """
    if name not in names():
        raise ConfigError(f"no plot {name!r} in proxykv/report/plots; known: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def describe(name: str) -> tuple[str, str]:
    """Title and caption of a plot, from its docstring."""
    title, _, caption = (load(name).__doc__ or name).strip().partition("\n")
    return title.rstrip("."), " ".join(caption.split())


def draw(
    name: str, rows: pd.DataFrame, methods: MethodCards, run_dir: Path, *, partial: bool = False
) -> Figure | None:
    """Draw one plot in the common style; None if the run has nothing to show in it.

    Args:
        name: of the plot.
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
        partial: whether the run is not finished, which the figure then says.
    """
    with style():
        figure = load(name).draw(rows, methods, run_dir)
    if figure is not None:
        made_up = "code_hash" in rows and (rows.code_hash == SYNTHETIC).any()
        mark(figure, [SYNTHETIC] * bool(made_up) + [PARTIAL] * partial)
    return figure


def draw_figures(
    rows_paths: Iterable[Path],
    run_dir: Path,
    out_dir: Path,
    only: Iterable[str] | None = None,
    *,
    partial: bool = False,
) -> list[Path]:
    """Draw the plots of a run as SVG, PNG and PDF, with the numbers that they draw as CSV.

    Args:
        rows_paths: files of rows.
        run_dir: folder of the run.
        out_dir: where the files go.
        only: names of the plots; all by default.
        partial: whether the run is not finished, which its figures then say.

    Returns:
        The files that were written.
    """
    rows = read_rows(rows_paths)
    chosen = names() if only is None else only
    return [
        path
        for name in chosen
        for path in draw_figure(name, rows, run_dir, out_dir, partial=partial)
    ]


def draw_figure(
    name: str, rows: pd.DataFrame, run_dir: Path, out_dir: Path, *, partial: bool = False
) -> list[Path]:
    """Draw one plot as SVG, PNG and PDF, with the numbers that it draws as CSV.

    Args:
        name: of the plot.
        rows: rows of the run.
        run_dir: folder of the run.
        out_dir: where the files go.
        partial: whether the run is not finished, which the figure then says.

    Returns:
        The files that were written: none if the run has nothing to show.
    """
    methods = MethodCards.read(run_dir)
    figure = draw(name, rows, methods, run_dir, partial=partial)
    if figure is None:
        return []
    mute(figure, main_methods(rows, methods))
    images = {out_dir / f"{name}{s}": image for s, image in render(figure, SUFFIXES).items()}
    for path, image in images.items():
        files.write_bytes(path, image)
    numbers = out_dir / f"{name}.csv"
    write_csv(numbers, points(figure))
    return [*images, numbers]
