"""Plots: one module per figure, found by its name, and the look that all of them share.

A plot module has a docstring, whose first line is the figure's title and whose rest is its
caption, and a function `draw(rows: DataFrame, run_dir: Path) -> Figure | None` (None: nothing to
draw in this run). Modules whose name starts with an underscore are helpers, not plots.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxykv.report.tables import LOW_RETENTION, read_rows
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError


@dataclass(frozen=True)
class Look:
    """How one method is drawn and called; `group` is reference, proxykv, baseline or control."""

    label: str
    color: str
    marker: str | tuple[int, Literal[0, 1], int]
    group: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        width = {"proxykv": 2.6, "reference": 2.0}.get(self.group, 1.3)
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": 6 if self.group in ("proxykv", "reference") else 4.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "linewidth": width,
            "linestyle": (0, (4, 1.6)) if self.group == "control" else "-",
            "alpha": 0.85 if self.group == "control" else 1.0,
            "zorder": {"proxykv": 5, "reference": 4, "control": 3}.get(self.group, 2),
        }


# Okabe-Ito and Tol's muted set; no colour twice, and a marker of its own for each.
LOOKS = {
    "full": Look("Full cache", "#222222", "*", "reference"),
    "kvzip": Look("KVzip", "#0072B2", "o", "reference"),
    "kvzip_head": Look("KVzip, per head", "#56B4E9", "v", "baseline"),
    "proxykv": Look("ProxyKV", "#D55E00", "D", "proxykv"),
    "proxykv_head": Look("ProxyKV, per head", "#F4A582", "<", "baseline"),
    "kvzip_iam": Look("KVzip+IAM", "#332288", "8", "baseline"),
    "kvzip_iam_rescaled": Look("KVzip+IAM, rescaled", "#6A51A3", (3, 0, 45), "baseline"),
    "kvzip_iam_head": Look("KVzip+IAM, per head", "#AA99DD", (3, 0, 135), "baseline"),
    "surrogate": Look("Surrogate (no proxy)", "#E7298A", (4, 1, 45), "baseline"),
    "surrogate_embedding": Look("Surrogate, tokens only", "#F2A0C8", (5, 0, 180), "baseline"),
    "snapkv": Look("SnapKV", "#009E73", "^", "baseline"),
    "snapkv_global": Look("SnapKV, global", "#8BC34A", "h", "baseline"),
    "streaming": Look("Streaming", "#CC79A7", "P", "baseline"),
    "random": Look("Random", "#8A8A8A", "X", "baseline"),
    "prior": Look("Head prior (control)", "#E6A700", "s", "control"),
    "prior_mean": Look("Head mean (control)", "#B2A000", ">", "control"),
    "proxykv_shuffled": Look("Shuffled proxy (control)", "#7B4B2A", "p", "control"),
    "cross_kvzip_budget": Look("KVzip budget, ProxyKV tokens", "#882255", "d", "control"),
    "cross_prior_budget": Look("Prior budget, KVzip tokens", "#6B7A00", "H", "control"),
}
MAIN = ("accuracy_retention", "kl_retention", "pareto")


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The look of every method; those without a fixed one get a colour that none else has."""
    methods = list(dict.fromkeys(methods))
    unknown = sorted(m for m in methods if m not in LOOKS)
    spare = sns.husl_palette(len(unknown), h=0.13, s=0.6, l=0.45).as_hex() if unknown else []
    taken = dict(LOOKS)
    for i, (method, color) in enumerate(zip(unknown, spare, strict=True)):
        star: tuple[int, Literal[1], int] = (3 + i, 1, 0)  # points, style "star", rotation
        taken[method] = Look(method, str(color), star, "baseline")
    return {method: taken[method] for method in methods}


def ranking(table: pd.DataFrame, column: str = "mean") -> list[str]:
    """Methods of a leaderboard-like table, best first by their mean at the low retentions.

    The full cache, the ceiling, leads. Low retentions decide because methods meet above them; a
    table without any is ranked by what it has.
    """
    pruned = table[table.retention < 1]
    low = pruned[pruned.retention <= LOW_RETENTION]
    best = (low if len(low) else pruned).groupby("method")[column].mean()
    rest = [str(m) for m in best.sort_values(ascending=column == "kl", kind="stable").index]
    return [m for m in ("full",) if (table.method == m).any()] + rest


@contextmanager
def style():
    """Matplotlib settings of every figure; `svg.hashsalt` makes the SVG's ids reproducible."""
    settings: dict[Any, Any] = {
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.edgecolor": "#9aa0a6",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.hashsalt": "proxykv",
        "svg.fonttype": "path",
    }
    with (
        sns.axes_style("ticks", {"axes.grid": True, "grid.color": "#eceff1"}),
        mpl.rc_context(settings),
    ):
        yield


def names() -> list[str]:
    """Every plot there is: the main ones first, then the others by alphabet."""
    found = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return sorted(found, key=lambda name: (name not in MAIN, name))


def load(name: str) -> ModuleType:
    """The module of a plot; raises ConfigError for a name that is none."""
    if name not in names():
        raise ConfigError(f"no plot {name!r} in proxykv/plots; there are: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def describe(name: str) -> tuple[str, str]:
    """Title and caption of a plot, from its docstring."""
    title, _, caption = (load(name).__doc__ or name).strip().partition("\n")
    return title.rstrip("."), " ".join(caption.split())


def draw(name: str, rows: pd.DataFrame, run_dir: Path) -> Figure | None:
    """Draw one plot in the common style; None where the run has nothing to show in it."""
    with style():
        return load(name).draw(rows, run_dir)


def render(figure: Figure, suffix: str) -> bytes:
    """The bytes of a figure as ".svg", ".png" or ".pdf"; the same figure gives the same bytes."""
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    image = BytesIO()
    with style():
        figure.savefig(
            image,
            format=suffix[1:],
            metadata=undated.get(suffix),
            bbox_inches="tight",
            facecolor="white",
        )
    return image.getvalue()


def draw_figures(
    rows_paths: Iterable[Path], run_dir: Path, out_dir: Path, only: Iterable[str] | None = None
) -> list[Path]:
    """Draw the plots of a run (all, or those named) as SVG and PNG; returns what was written."""
    rows = read_rows(rows_paths)
    wanted = names() if only is None else only
    return [path for name in wanted for path in draw_figure(name, rows, run_dir, out_dir)]


def draw_figure(name: str, rows: pd.DataFrame, run_dir: Path, out_dir: Path) -> list[Path]:
    """Draw one plot as SVG and PNG; returns what was written, nothing if there is none to show."""
    figure = draw(name, rows, run_dir)
    if figure is None:
        return []
    written = [out_dir / f"{name}{suffix}" for suffix in (".svg", ".png")]
    for path in written:
        files.write_bytes(path, render(figure, path.suffix))
    return written
