"""Rows to figures."""

from __future__ import annotations

from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.report.plots import draw_figures


def plot(run: Run) -> None:
    """Draw the figures of a run."""
    draw_figures(paths.row_files(run), run.dir, run.dir / "figures")
