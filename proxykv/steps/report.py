"""Rows and tables to the report, audited first."""

from __future__ import annotations

import logging

from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.report.build import build_report
from proxykv.runs.audit import audit
from proxykv.runs.status import answers_and_scans

log = logging.getLogger(__name__)


def report(run: Run) -> None:
    """Audit a run and write its report, which begins with what is missing and what is wrong.

    Raises:
        ConfigError: if no report can be made of the rows. An earlier report is gone then, too.
    """
    page = run.dir / "report" / "index.html"
    page.unlink(missing_ok=True)
    found = audit(run.dir, finished=False)
    for finding in found.findings:
        log.warning("%s", finding)
    log.info("%s", found.summary)
    build_report(
        paths.row_files(run),
        run.dir,
        page,
        audited=found.summary,
        findings=found.findings,
        progress=answers_and_scans(run),
        positions=run.positions,
    )
