"""Rows to tables."""

from __future__ import annotations

from proxykv.config import paths
from proxykv.config.cards import MethodCards
from proxykv.config.run import Run
from proxykv.report.ablations import write_ablations
from proxykv.report.efficiency import measurement_files
from proxykv.report.paper import write_paper
from proxykv.report.tabulate import write_efficiency, write_tables
from proxykv.steps.screen import require_clean


def tabulate(run: Run) -> None:
    """Write the tables of a run.

    Raises:
        ConfigError: if a mapper of the run has seen evaluation text.
    """
    for family in run.families if run.fitted_here else ():
        require_clean(run, family)
    rows, measured = paths.row_files(run), measurement_files(run.dir)
    write_tables(rows, MethodCards.read(run.dir), run.dir / "tables", measured)
    write_ablations(rows, run.dir)
    write_paper(rows, run.dir)
    write_efficiency(run.dir, MethodCards.read(run.dir))
