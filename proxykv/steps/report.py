"""Rows, tables and figures to the report."""

from __future__ import annotations

from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.report.build import build_report


def report(run: Run) -> None:
    """Write the report of a run."""
    build_report(paths.row_files(run), run.dir, run.dir / "report" / "index.html")
