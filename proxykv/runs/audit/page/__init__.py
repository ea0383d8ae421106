"""The numbers of a run's page and of its figures, compared with the run's tables and rows."""

from proxykv.runs.audit.page.check import check_page
from proxykv.runs.audit.page.figures import check_figures

__all__ = ["check_figures", "check_page"]
