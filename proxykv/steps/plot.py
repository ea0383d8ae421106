"""Rows to figures."""

from __future__ import annotations

from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.report.plots import draw_figures
from proxykv.runs.status import answers_and_scans


def plot(run: Run) -> None:
    """Draw the figures of a run, marked as partial if it is not finished."""
    partial = any(record["state"] != "done" for record in answers_and_scans(run))
    draw_figures(paths.row_files(run), run.dir, run.dir / "figures", partial=partial)
