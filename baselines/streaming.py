"""StreamingLLM's kept set: attention sinks and the most recent tokens (arXiv 2309.17453)."""

from __future__ import annotations

import torch

from proxykv.config.settings.bounds import Index
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext

VARIANTS = {"streaming": {"scope": "head"}}
CARDS = {
    "streaming": {
        "label": "Streaming",
        "role": "baseline",
        "about": "the first and the latest tokens",
        "color": "#CC79A7",
        "marker": "P",
    },
}


class Streaming:
    """The first `sinks` tokens of the context, then the latest ones; the same for every head."""

    def __init__(self, context: MethodContext, sinks: Index = 4) -> None:
        """`sinks`: tokens at the start of the context that rank above all others."""
        self.sinks = sinks

    def score(self, prefill: Prefill) -> Scores:
        """Position / n for later tokens; sinks above 1, the earliest highest."""
        n = prefill.shape[2]
        scores = torch.arange(n, device=prefill.input_ids.device) / n
        sinks = min(self.sinks, n)
        scores[:sinks] = 2 - scores[:sinks]
        return scores.expand(prefill.shape).clone()


METHOD = Streaming
