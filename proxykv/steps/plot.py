"""Rows to figures."""

from __future__ import annotations

from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.report.efficiency import measurement_files
from proxykv.report.plots import draw_figures
from proxykv.report.tabulate import write_provenance
from proxykv.runs.status import answers_and_scans


def plot(run: Run) -> None:
    """Draw the figures of a run, marked as partial if it is not finished."""
    partial = any(record["state"] != "done" for record in answers_and_scans(run))
    rows, folder = paths.row_files(run), run.dir / "figures"
    written = draw_figures(rows, run.dir, folder, partial=partial)
    write_provenance(folder, written, rows, measurement_files(run.dir))
