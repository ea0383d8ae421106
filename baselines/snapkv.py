"""SnapKV: what the context's last tokens attend to (arXiv 2404.14469).

The observation window is the end of the context, since pruning never sees a question. The original
ranks tokens per *query* head; KV pairs are shared by a group of query heads, so their scores are
averaged here, which equals the original where the group has one head.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d
from transformers import PreTrainedModel

from proxykv.kernels.attention import window_attention
from proxykv.model.caches.context import ContextLayer
from proxykv.model.model import bare_model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, Scores
from proxykv.scoring.contract import MethodContext

Pooling = Literal["avg", "max"]
Reduce = Literal["mean", "sum"]
Preset = Literal["original", "kvpress"]

PRESETS: dict[str, dict] = {
    "kvpress": {"window": 64, "kernel": 5, "pooling": "avg", "reduce": "mean"},
    "original": {"window": 32, "kernel": 7, "pooling": "max", "reduce": "sum"},
}
VARIANTS = {"snapkv": {"scope": "head"}, "snapkv_global": {"scope": "global"}}
CARDS = {
    "snapkv": {
        "label": "SnapKV",
        "role": "rival",
        "about": "attention from the last tokens of the context (arXiv 2404.14469)",
        "color": "#009E73",
        "marker": "^",
    },
    "snapkv_global": {
        "label": "SnapKV, global",
        "role": "baseline",
        "about": "SnapKV's scores under one budget for all heads",
        "color": "#8BC34A",
        "marker": "h",
    },
}


class SnapKV:
    """SnapKV in one of its published settings."""

    def __init__(self, context: MethodContext, preset: Preset = "original") -> None:
        """`preset`: `original` (the authors' LongBench setting) or `kvpress` (its defaults)."""
        self.settings = PRESETS[preset]
        self.ledger = context.ledger

    def score(self, prefill: Prefill) -> Scores:
        """Pooled attention from the window; the window itself ranks first."""
        settings = self.settings
        key = ("snapkv", *settings.values())
        return self.ledger.once(prefill, key, lambda: _score(prefill, **settings))


def window_scores(
    model: PreTrainedModel,
    input_ids: Ids,
    prefix_len: int,
    *,
    window: int,
    kernel: int,
    pooling: Pooling,
    reduce: Reduce,
) -> Scores:
    """Score a context with SnapKV (arXiv 2404.14469).

    Attention of the last `window` queries over all earlier keys (causal softmax in float32, window
    keys included, then dropped), reduced over the window, pooled along tokens, averaged over the
    query heads of each KV head. The window's own tokens score above all others, the most recent
    highest. A context no longer than the window is ranked by recency alone.

    Args:
        model: a causal language model, loaded with `attn_implementation=proxykv.model.ATTENTION`.
        input_ids: 1-D, prefix + context.
        prefix_len: tokens before the context; always kept and not scored.
        window: last tokens of the context that observe.
        kernel: width of the pooling along tokens, odd.
        pooling: `avg` or `max`.
        reduce: `mean` or `sum` over the window's queries.

    Returns:
        Scores [layer, kv_head, token], float32.

    Raises:
        ConfigError: if the model was loaded with another attention.
    """
    prefilled = prefill(bare_model(model), input_ids, prefix_len, observed=window)
    return _score(prefilled, window=window, kernel=kernel, pooling=pooling, reduce=reduce)


@torch.inference_mode()
def _score(
    prefill: Prefill, *, window: int, kernel: int, pooling: Pooling, reduce: Reduce
) -> Scores:
    n = prefill.shape[2]
    observed = min(window, n)
    # Finite, above every other score, the most recent highest: a budget below the window keeps the
    # latest tokens of it.
    device = prefill.input_ids.device
    recency = torch.arange(1, observed + 1, device=device) / observed
    if n <= window:  # nothing but the window
        return recency.expand(prefill.shape).clone()
    layers = [
        _layer_scores(layer, window, kernel, pooling, reduce).to(device)
        for layer in prefill.cache.layers
    ]
    scores = torch.stack(layers)[..., prefill.prefix_len :]
    last = (scores.max() + recency).expand(*scores.shape[:2], window)
    return torch.cat([scores, last], dim=-1)


def _layer_scores(
    layer: ContextLayer, window: int, kernel: int, pooling: Pooling, reduce: Reduce
) -> Float[Tensor, "kv_head earlier"]:
    assert layer.queries is not None
    earlier = layer.length - window
    pool = avg_pool1d if pooling == "avg" else max_pool1d
    heads = []
    for weights in window_attention(layer.queries[0, :, -window:], layer.keys[0]):
        attention = weights[..., :earlier]
        reduced = attention.mean(dim=1) if reduce == "mean" else attention.sum(dim=1)
        heads.append(pool(reduced, kernel, stride=1, padding=kernel // 2).mean(dim=0))
    return torch.stack(heads)


METHOD = SnapKV
