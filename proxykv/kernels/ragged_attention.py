"""Attention over packed entries, of which each KV head keeps its own number."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.kernels.attention import PartialAttention, attend_part, blocks, causal_mask, join
from proxykv.kernels.layout import Entries, Place, Slots

BLOCK_ELEMENTS = 1 << 24
"""Attention logits of one head that the reference holds at a time (64 MiB in float32)."""


def ragged_attention(
    query: Float[Tensor, "row q_head new dim"],
    entries: Entries,
    slots: Slots,
    place: Place,
    scaling: float,
) -> Float[Tensor, "row q_head new dim"]:
    """Causal attention of one row's new tokens over each head's entries and the tokens since.

    Attention over the entries and over the tokens since is computed separately and joined, so that
    neither is copied. Each head reads its own entries; nothing is padded.

    Args:
        query: queries after RoPE, of one row.
        entries: what the heads keep of the context; a head may keep nothing.
        slots: the tokens since, the new ones included.
        place: position of the new tokens among the slots.
        scaling: factor of the logits.
    """
    if place.table is not None:
        from proxykv.kernels.gpu.split_attention import attention  # noqa: PLC0415 (needs Triton)

        return attention(query, entries, slots, place, scaling)
    return _reference(query, entries, slots, place.before, scaling)


def _reference(
    query: Tensor, entries: Entries, slots: Slots, before: int, scaling: float
) -> Tensor:
    _, q_heads, new, dim = query.shape
    heads, end = len(entries.counts), before + new
    group = q_heads // heads
    grouped = (query[0] * scaling).reshape(heads, group * new, dim)
    # One new token sees everything: on a CPU, operations on small tensors decide a step's time.
    mask = causal_mask(new, end, query.device).repeat(group, 1) if new > 1 else None
    since = attend_part(grouped, slots.keys[0, :, :end], slots.values[0, :, :end], mask)
    counts = list(entries.counts)
    packed = zip(grouped, entries.keys.split(counts), entries.values.split(counts), strict=True)
    kept = [_attend_kept(*head) for head in packed]
    both = join(since, PartialAttention(*(torch.stack(each) for each in zip(*kept, strict=True))))
    return both.out.to(query.dtype).view(1, q_heads, new, dim)


def _attend_kept(
    query: Float[Tensor, "query dim"], keys: Float[Tensor, "kept dim"], values: Tensor
) -> PartialAttention:
    """One head over its entries, a bounded number of logits at a time."""
    width = max(1, BLOCK_ELEMENTS // max(1, len(keys)))
    parts = [attend_part(query[at], keys, values) for at in blocks(0, len(query), width)]
    if len(parts) == 1:
        return parts[0]
    return PartialAttention(*(torch.cat(each) for each in zip(*parts, strict=True)))
