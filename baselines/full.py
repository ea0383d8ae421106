"""No pruning: the reference that every method is compared with."""

from __future__ import annotations

import torch

from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext

VARIANTS = {"full": {"scope": "none"}}
CARDS = {
    "full": {
        "label": "Full cache",
        "role": "reference",
        "about": "the full cache: nothing is pruned",
        "color": "#222222",
        "marker": "*",
    },
}


class Full:
    """Every KV pair is as important as every other; runs only at retention 1."""

    def __init__(self, context: MethodContext) -> None:
        """Nothing to set."""

    def score(self, prefill: Prefill) -> Scores:
        """Ones."""
        return torch.ones(prefill.shape, device=prefill.input_ids.device)


METHOD = Full
