"""Tokens that the proxy finds important, the same for every head of the target.

What a small model gives without a mapper. Draft-model methods choose tokens so: SpecPC (arXiv
2506.08373), SpecPrefill (arXiv 2502.02789).
"""

from __future__ import annotations

from typing import Literal

from proxykv.config.settings.bounds import Count, Index, Part
from proxykv.config.settings.signals import CHUNK, Kind, Signal
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import ProxySignal, Scores
from proxykv.scoring.contract import MethodContext

Pool = Literal["mean", "max"]

VARIANTS = {
    "proxy_tokens": {"scope": "head"},
    "proxy_tokens_max": {"scope": "head", "params": {"pool": "max"}},
    "proxy_tokens_prefill": {"scope": "head", "params": {"signal": "prefill"}},
    "proxy_tokens_prefill_max": {"scope": "head", "params": {"signal": "prefill", "pool": "max"}},
}
CARDS = {
    "proxy_tokens": {
        "label": "Proxy's tokens",
        "role": "rival",
        "about": "the tokens with the highest mean of the proxy's KVzip scores, in every head",
        "color": "#8C564B",
        "marker": (6, 1, 15),
        "spares": "the mapper",
        "cost": ["proxy"],
    },
    "proxy_tokens_max": {
        "label": "Proxy's tokens, maximum",
        "role": "baseline",
        "about": "the tokens with the highest maximum of the proxy's KVzip scores, in every head",
        "spares": "the mapper",
        "cost": ["proxy"],
    },
    "proxy_tokens_prefill": {
        "label": "Proxy's tokens, prefill",
        "role": "baseline",
        "about": "the tokens with the highest mean attention of the proxy's prefill, in every head",
        "spares": "the mapper",
        "cost": ["proxy"],
    },
    "proxy_tokens_prefill_max": {
        "label": "Proxy's tokens, prefill, maximum",
        "role": "baseline",
        "about": "the tokens with the highest attention of the proxy's prefill, in every head",
        "spares": "the mapper",
        "cost": ["proxy"],
    },
}


class ProxyTokens:
    """The proxy's scores, pooled over its layers and KV heads."""

    def __init__(
        self,
        context: MethodContext,
        pool: Pool = "mean",
        signal: Kind = "kvzip",
        signal_chunk: Count = CHUNK,
        signal_overlap: Index = 0,
        proxy_layers: Part = 1.0,
    ) -> None:
        """Choose what the proxy computes.

        Args:
            context: gives the proxy.
            pool: `mean` or `max` over all layers and KV heads of the proxy.
            signal: kind of the proxy's scores (see `proxykv.config.settings.signals.Signal`).
            signal_chunk: tokens of a replay or of a window.
            signal_overlap: tokens before a window that its prefill sees.
            proxy_layers: share of the proxy's layers that run.
        """
        self.proxy, self.ledger, self.pool = context.proxy, context.ledger, pool
        self.signal = Signal(signal, signal_chunk, signal_overlap, proxy_layers)
        self.key = ("proxy_tokens", self.signal, pool)
        self.during_prefill = True

    def score(self, prefill: Prefill) -> Scores:
        """A score per token, the same in every layer and head."""
        return self.ledger.once(prefill, self.key, lambda: self._score(prefill))

    def map(self, proxy_scores: ProxySignal) -> Scores:
        """Pool scores [proxy_layer, proxy_head, token] to [1, 1, token]."""
        heads = proxy_scores.flatten(0, 1)
        pooled = heads.mean(dim=0) if self.pool == "mean" else heads.amax(dim=0)
        return pooled[None, None]

    def _score(self, prefill: Prefill) -> Scores:
        found = self.proxy.scores(prefill, prefill.input_ids, self.signal)
        return self.map(found).to(prefill.input_ids.device).expand(prefill.shape)


METHOD = ProxyTokens
