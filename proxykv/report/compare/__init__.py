"""One page about several runs: what differs in how they were made, and in their answers."""

from proxykv.report.compare.page import compare_runs

__all__ = ["compare_runs"]
