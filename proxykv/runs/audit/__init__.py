"""A second computation of a run's scores and tables, by other code than made them.

Scores follow from the stored predictions, table cells from the rows, and the page's numbers from
the tables. Nothing here is shared with the benchmarks' metrics or `proxykv.report`, and nothing is
aggregated by pandas: Python lists, loops, and resamples drawn here. Imports `benchmarks`, `config`
and `runtime`, and never torch.
"""

from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.run import audit

__all__ = ["Audit", "audit"]
