"""The look that all figures share, marks across a figure, and its bytes as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


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
        "axes.titley": 1.0,  # a place that need not be found: no ticks are above the panels
        "axes.labelsize": 9.5,
        "axes.edgecolor": "#9aa0a6",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.hashsalt": "proxykv",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,  # publishers refuse Type 3
    }
    with (
        sns.axes_style("ticks", {"axes.grid": True, "grid.color": "#eceff1"}),
        mpl.rc_context(settings),
    ):
        yield


def mark(figure: Figure, words: Sequence[str]) -> None:
    """Write what a reader must not miss across a figure, a word a line.

    Args:
        figure: the figure.
        words: what to write.
    """
    look = {"color": "#c62828", "alpha": 0.3, "weight": "bold", "rotation": 20}
    figure.text(0.5, 0.5, "\n".join(words), size=48, ha="center", va="center", **look)


def render(figure: Figure, suffixes: Iterable[str]) -> dict[str, bytes]:
    """The bytes of a figure in some formats; the same figure gives the same bytes.

    The layout is computed once for all formats: that takes longer than drawing.

    Args:
        figure: the figure.
        suffixes: of the formats, such as ".svg".
    """
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    images = {}
    with style():
        renderer = FigureCanvasAgg(figure).get_renderer()
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine(None)
        box = figure.get_tightbbox(renderer).padded(mpl.rcParams["savefig.pad_inches"])
        for suffix in suffixes:
            image = BytesIO()
            figure.savefig(
                image,
                format=suffix[1:],
                metadata=undated.get(suffix),
                bbox_inches=box,
                facecolor="white",
            )
            images[suffix] = image.getvalue()
    return images
