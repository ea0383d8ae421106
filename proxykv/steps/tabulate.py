"""Rows to tables."""

from __future__ import annotations

from proxykv.config import paths
from proxykv.config.cards import MethodCards
from proxykv.config.run import Run
from proxykv.report.ablations import write_ablations
from proxykv.report.efficiency import measurement_files
from proxykv.report.paper import write_paper
from proxykv.report.tabulate import write_efficiency, write_provenance, write_tables
from proxykv.steps.screen import require_clean


def tabulate(run: Run) -> None:
    """Write the tables of a run.

    Raises:
        ConfigError: if a mapper of the run has seen evaluation text.
    """
    for family in run.families if run.fitted_here else ():
        require_clean(run, family)
    rows, tables, cards = paths.row_files(run), run.dir / "tables", MethodCards.read(run.dir)
    written = [
        *write_tables(rows, cards, tables),
        *write_ablations(rows, run.dir),
        write_paper(rows, run.dir),
        *write_efficiency(run.dir, cards),
    ]
    write_provenance(tables, written, rows, measurement_files(run.dir))
