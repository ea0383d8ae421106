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

from proxykv.model.context_cache import ContextLayer
from proxykv.model.loading import Model
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


class SnapKV:
    """SnapKV in one of its published settings."""

    def __init__(self, context: MethodContext, preset: Preset = "original") -> None:
        """`preset`: `original` (the authors' LongBench setting) or `kvpress` (its defaults)."""
        self.settings = PRESETS[preset]

    def score(self, prefill: Prefill) -> Scores:
        """Pooled attention from the window; the window itself ranks first."""
        settings = self.settings
        return prefill.once(("snapkv", *settings.values()), lambda: _score(prefill, **settings))


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
    """SnapKV scores of a context: `input_ids` is 1-D, prefix + context.

    Attention of the last `window` queries over all earlier keys (causal softmax in float32, window
    keys included, then dropped), reduced over the window, pooled along tokens with `kernel`,
    averaged over the query heads of each KV head. The window's own tokens score above all others,
    the most recent highest.

    Raises:
        ValueError: if the context is shorter than the window.
    """
    bare = Model(model, tokenizer=None, prefix=(), suffix=(), digest="")
    filled = prefill(bare, input_ids, prefix_len, observed=window)
    return _score(filled, window=window, kernel=kernel, pooling=pooling, reduce=reduce)


@torch.inference_mode()
def _score(
    prefill: Prefill, *, window: int, kernel: int, pooling: Pooling, reduce: Reduce
) -> Scores:
    n = prefill.shape[2]
    if n < window:
        raise ValueError(f"SnapKV observes {window} tokens, but the context has only {n}")
    scaling = prefill.cache.layers[0].keys.shape[-1] ** -0.5
    layers = [
        _layer_scores(layer, window, kernel, pooling, reduce, scaling)
        for layer in prefill.cache.layers
    ]
    scores = torch.stack(layers)[..., prefill.prefix_len :]
    # Above every other score, finite, the most recent highest: a budget below the window keeps
    # the latest tokens of it.
    recency = torch.arange(1, window + 1, device=scores.device) / window
    last = (scores.max() + recency).expand(*scores.shape[:2], window)
    return torch.cat([scores, last], dim=-1)


def _layer_scores(
    layer: ContextLayer, window: int, kernel: int, pooling: Pooling, reduce: Reduce, scaling: float
) -> Float[Tensor, "kv_head earlier"]:
    assert layer.queries is not None
    keys = layer.keys[0]
    heads, total, dim = keys.shape
    query = layer.queries[0, :, -window:].reshape(heads, -1, dim)
    logits = (query @ keys.mT * scaling).float().view(heads, -1, window, total)
    visible = torch.ones(window, total, dtype=torch.bool, device=keys.device).tril(total - window)
    attention = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)[..., : total - window]
    seen = attention.mean(dim=2) if reduce == "mean" else attention.sum(dim=2)
    pool = avg_pool1d if pooling == "avg" else max_pool1d
    return pool(seen, kernel, stride=1, padding=kernel // 2).mean(dim=1)


METHOD = SnapKV
