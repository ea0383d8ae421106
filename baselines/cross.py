"""Crossed allocations: one method's budget per head, filled with the tokens another one prefers.

They tell the two parts of a score apart: how the budget is split among heads, and which tokens are
chosen inside a head.
"""

from __future__ import annotations

from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.selection import transplant

VARIANTS = {
    "cross_kvzip_budget": {
        "scope": "global",
        "params": {"allocation": "kvzip", "ranking": "proxykv"},
        "uses": ["allocation", "ranking"],
    },
    "cross_prior_budget": {
        "scope": "global",
        "params": {"allocation": "prior", "ranking": "kvzip"},
        "uses": ["allocation", "ranking"],
    },
}
CARDS = {
    "cross_kvzip_budget": {
        "label": "KVzip budget, ProxyKV tokens",
        "role": "crossed",
        "about": "KVzip's per-head budgets filled with ProxyKV's tokens",
        "shows": "what ProxyKV's tokens are worth",
        "color": "#882255",
        "marker": "d",
    },
    "cross_prior_budget": {
        "label": "Prior budget, KVzip tokens",
        "role": "crossed",
        "about": "the prior's per-head budgets filled with KVzip's tokens",
        "shows": "what a fixed split among heads costs",
        "color": "#6B7A00",
        "marker": "H",
    },
}


class Cross:
    """Scores of `allocation`, handed out within each head in the order of `ranking`."""

    def __init__(self, context: MethodContext, allocation: str, ranking: str) -> None:
        """`allocation`, `ranking`: ids of two methods of the run."""
        self.allocation, self.ranking = context.scorer(allocation), context.scorer(ranking)

    def score(self, prefill: Prefill) -> Scores:
        """Per-head counts of one method at every retention, tokens of the other."""
        return transplant(self.allocation.score(prefill), self.ranking.score(prefill))


METHOD = Cross
