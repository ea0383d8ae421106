"""The numbers of a run's report page, compared with the run's CSV tables."""

from proxykv.runs.audit.page.check import check_page

__all__ = ["check_page"]
