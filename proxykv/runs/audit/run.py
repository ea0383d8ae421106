"""The audit of a whole run."""

from __future__ import annotations

from pathlib import Path

from proxykv.config.cards import MethodCards
from proxykv.config.run import Run
from proxykv.runs.audit import efficiency
from proxykv.runs.audit.answers import check_answers, check_digests
from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.means import groups
from proxykv.runs.audit.page import check_figures, check_page
from proxykv.runs.audit.tables import check_tables


def audit(folder: Path, *, finished: bool = True) -> Audit:
    """Recompute a run's scores and tables, and compare its figures and its page with them.

    Args:
        folder: `results/<run>`, or a copy of it. Data are read from the cache of its config.
        finished: whether the run has its figures and its page already.

    Returns:
        Counts and findings.

    Raises:
        ConfigError: if the folder holds no run.
    """
    run = Run.read(folder / "config.json", made=True)
    found = Audit()
    rows = check_answers(run, folder, found)
    for made in ("tables", "figures") if finished else ("tables",):
        check_digests(run, folder, made, found)
    if rows:
        check_tables(rows, run.config, folder, found)
        if finished:
            cards = MethodCards.read(folder)
            # What is damaged has been found with the tables.
            requests = efficiency.measurements(run.config, folder, Audit())
            check_figures(groups(rows, cards.only("oracle")), requests, cards, folder, found)
            check_page(folder, found)
    found.require_counts()
    return found
