"""Attention of a replayed chunk that yields KVzip's scores on the way (arXiv 2505.23416)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.kernels.attention import blocks, causal_attention, causal_mask
from proxykv.kernels.choice import choose
from proxykv.kernels.replay import Plus, ReplayKeyValues

ROWS = {"cpu": 384}
"""Query rows (times query heads of a KV head) at a time: enough for a matrix product, few enough
for a CPU's cache."""
WIDE_ROWS = 8192
"""The same on accelerators."""


def attend_and_score(
    query: Float[Tensor, "q_head replay dim"],
    layer: ReplayKeyValues,
    scaling: float,
    plus: Plus | None = None,
    scores_only: bool = False,
) -> tuple[Float[Tensor, "q_head replay dim"] | None, Float[Tensor, "kv_head chunk"]]:
    """Attend to the context (or the chunk of it) and the replay, and score the chunk.

    A pair's score is the largest weight that any query of its KV head gives it in a softmax over
    {prefix, chunk, replay up to the query}. Logits are float32 in the Triton kernel; the reference
    multiplies in the model's dtype.

    Args:
        query: queries of the replay after RoPE; `group` consecutive heads share a KV head.
        layer: the layer's keys and values.
        scaling: factor of the logits.
        plus: for the scores of KVzip+.
        scores_only: attention is not needed.

    Returns:
        The attention output (None with `scores_only`), and the scores, float32.
    """
    if choose(query.device, query.dtype, query.shape[-1]).kernels == "triton":
        from proxykv.kernels.gpu import replay_scores  # noqa: PLC0415 (needs Triton)

        if replay_scores.fits(query, layer):
            return replay_scores.attend_and_score(query, layer, scaling, plus, scores_only)
    return _reference(query, layer, scaling, plus, scores_only)


def _reference(
    query: Tensor, layer: ReplayKeyValues, scaling: float, plus: Plus | None, scores_only: bool
) -> tuple[Tensor | None, Tensor]:
    """Score a tile of queries at a time; return attention, too.

    The weights of the scores give attention if it is over the same keys. Otherwise it is left to
    PyTorch's fused kernels.
    """
    keys = _columns(layer, layer.context_keys, layer.keys)
    shared = layer.attended_where_scored and not scores_only
    out = torch.empty_like(query) if shared else None
    values = _columns(layer, layer.context_values, layer.values) if shared else None
    grouped = (query * scaling).unflatten(0, (len(keys), -1))
    chunk = layer.scored.stop - layer.scored.start
    best = grouped.new_zeros(*grouped.shape[:2], chunk, dtype=torch.float32)
    for head, at, weights in _weights(grouped, keys):
        scored = weights[..., layer.scored]
        if plus is not None:
            scored = scored * plus.queries[at, None]
        torch.maximum(best[head], scored.amax(dim=1), out=best[head])
        if out is not None and values is not None:
            part = weights.to(values.dtype) @ values[head, : weights.shape[-1]]
            out.unflatten(0, (len(keys), -1))[head, :, at] = part
    if out is None and not scores_only:
        out = _over_everything(query, layer, scaling)
    return out, (best if plus is None else best * plus.pairs).amax(dim=1)


def _columns(
    layer: ReplayKeyValues, context: Tensor, replay: Tensor
) -> Float[Tensor, "kv_head column dim"]:
    """{prefix, chunk, replay}: what the scores' softmax runs over."""
    return torch.cat([context[:, : layer.prefix_len], context[:, layer.chunk], replay], dim=1)


def _over_everything(query: Tensor, layer: ReplayKeyValues, scaling: float) -> Tensor:
    # The copy takes a hundredth of the time of what follows.
    keys = torch.cat([layer.context_keys, layer.keys], dim=1)
    values = torch.cat([layer.context_values, layer.values], dim=1)
    return causal_attention(query[None], keys[None], values[None], scaling)[0]


def _weights(
    query: Float[Tensor, "kv_head group replay dim"], keys: Float[Tensor, "kv_head column dim"]
) -> Iterator[tuple[int, slice, Float[Tensor, "group query column"]]]:
    """Causal attention weights, a tile at a time: KV head, queries, and over the keys they see."""
    _, group, replay, _ = query.shape
    rows = ROWS.get(query.device.type, WIDE_ROWS)
    for at in blocks(0, replay, max(1, rows // group)):
        end = keys.shape[1] - replay + at.stop
        count = at.stop - at.start
        mask = causal_mask(count, count, query.device)
        for head, head_keys in enumerate(keys):
            logits = (query[head, :, at] @ head_keys[:end].mT).float()
            logits[..., -count:].masked_fill_(mask, -torch.inf)
            yield head, at, logits.softmax(dim=-1)
