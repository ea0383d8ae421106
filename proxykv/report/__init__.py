"""The report: one offline HTML page made from a run's rows."""

from proxykv.report.build import build_report

__all__ = ["build_report"]
