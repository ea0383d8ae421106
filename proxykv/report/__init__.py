"""From rows to tables, statistics, plots, the verdict and one offline HTML page.

Imports `config` and `runtime`, and never torch.
"""

from proxykv.report.build import build_report

__all__ = ["build_report"]
