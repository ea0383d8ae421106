"""SnapKV's original setting against attention as transformers' own eager models return it.

The authors' code is not a package. Theirs ranks tokens per query head, which a cache that stores
KV heads can follow where the two are one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_models import random_ids, random_net
from torch.nn.functional import max_pool1d

from baselines.snapkv import window_scores
from proxykv.model.caches.context import ATTENTION
from proxykv.scoring.selection import select

HEADS, LENGTH = 4, 150
AUTHORS: dict[str, Any] = {"window": 32, "kernel": 7, "pooling": "max", "reduce": "sum"}
"""Of their LongBench runs: window_size 32, kernel_size 7, pooling maxpool; they sum the window."""


@pytest.mark.parametrize("capacity", [33, 60, 149])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_original_keeps_what_the_authors_keep(architecture: str, capacity: int) -> None:
    """The window, and the highest of the rest; entries that tie at the threshold may differ."""
    ids, window, kernel = random_ids(LENGTH, seed=1), AUTHORS["window"], AUTHORS["kernel"]
    ours = window_scores(
        random_net(architecture, ATTENTION, num_key_value_heads=HEADS), ids, 0, **AUTHORS
    )
    kept = select(ours, (capacity + 0.5) / LENGTH, "head")
    eager = random_net(architecture, "eager", num_key_value_heads=HEADS)
    for layer, weights in enumerate(eager(ids[None], output_attentions=True).attentions):
        received = weights[0, :, -window:, :-window].sum(dim=1)
        pooled = max_pool1d(received, kernel, stride=1, padding=kernel // 2)
        best = pooled.topk(capacity - window, dim=-1)
        theirs = torch.zeros(HEADS, LENGTH, dtype=torch.bool)
        theirs.scatter_(1, best.indices, True)[:, -window:] = True
        assert torch.equal(kept[layer].sum(dim=-1), theirs.sum(dim=-1))
        threshold = best.values[:, -1:].expand(-1, LENGTH - window)
        differing = (kept[layer] ^ theirs)[:, :-window]
        assert not (kept[layer] ^ theirs)[:, -window:].any()
        torch.testing.assert_close(pooled[differing], threshold[differing], atol=1e-5, rtol=0)
