"""Attention of many rows over one shared context, of which each row sees a part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from proxykv.kernels.attention import blocks, causal_mask
from proxykv.kernels.layout import WORD, Entries, Place, Slots

BLOCK_ELEMENTS = 1 << 24
"""Attention logits that the reference computes at a time (64 MiB in float32)."""


def masked_attention(
    query: Float[Tensor, "row q_head new dim"],
    entries: Entries,
    slots: Slots,
    place: Place,
    scaling: float,
) -> Float[Tensor, "row q_head new dim"]:
    """Attention of rows over {the entries that their bits mark} and {their valid slots}.

    Args:
        query: queries after RoPE.
        entries: the context's, with bits.
        slots: each row's tokens after the context, the new ones included; their attention is
            causal.
        place: position of the new tokens among the slots.
        scaling: factor of the logits.
    """
    if place.table is not None:
        from proxykv.kernels.gpu.split_attention import attention  # noqa: PLC0415 (needs Triton)

        return attention(query, entries, slots, place, scaling)
    rows, q_heads, new, _ = query.shape
    keys = entries.counts[0] + place.before + new
    block = max(1, BLOCK_ELEMENTS // (q_heads * new * keys))
    parts = [
        _reference(query[part], entries, slots, place.before, scaling, part)
        for part in blocks(0, rows, block)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def pack(
    visible: Iterable[Bool[Tensor, "layer kv_head key"]], rows: Sequence[int]
) -> Int[Tensor, "layer word entry"]:
    """Pack what each row sees into one bit an entry.

    Args:
        visible: kinds of rows: the keys of a context that they see. One exists at a time.
        rows: each row's index into `visible`.

    Returns:
        Bits, int32, as `Entries` holds them.
    """
    words: list[Tensor] = []
    for kind, marks in enumerate(visible):
        flat = marks.flatten(1).int()
        words = words or [torch.zeros_like(flat) for _ in range(-(-len(rows) // WORD))]
        for row, of in enumerate(rows):
            if of == kind:
                words[row // WORD] |= flat << (row % WORD)
    return torch.stack(words, dim=1)


def _reference(
    query: Tensor, entries: Entries, slots: Slots, before: int, scaling: float, part: slice
) -> Tensor:
    rows, q_heads, new, dim = query.shape
    heads, split = len(entries.counts), entries.counts[0]
    group, end = q_heads // heads, before + new
    context_keys, context_values = (
        each.view(heads, split, dim) for each in (entries.keys, entries.values)
    )
    slot_keys, slot_values = (
        each[part, :, :end].transpose(0, 1) for each in (slots.keys, slots.values)
    )
    # [kv_head, row, group * new, dim]: all rows share one matrix product with the context.
    q = (query * scaling).reshape(rows, heads, -1, dim).transpose(0, 1)
    logits = q.new_empty(*q.shape[:3], split + end)
    shared = q.reshape(heads, -1, dim) @ context_keys.mT
    logits[..., :split] = shared.view(*q.shape[:3], split)
    logits[..., split:] = q @ slot_keys.mT
    by_token = logits.view(heads, rows, group, new, split + end)
    by_token[..., :split].masked_fill_(_context_mask(entries, part)[:, :, None, None], -torch.inf)
    if (hidden := _slot_mask(slots, part, before, new)) is not None:
        by_token[..., split:].masked_fill_(hidden, -torch.inf)
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    out = (weights[..., :split].reshape(heads, -1, split) @ context_values).view_as(q)
    out = out + weights[..., split:] @ slot_values
    return out.transpose(0, 1).reshape(rows, q_heads, new, dim)


def _context_mask(entries: Entries, part: slice) -> Bool[Tensor, "kv_head row key"]:
    """Mark the entries that rows do not see."""
    assert entries.bits is not None
    rows = torch.arange(part.start, part.stop, device=entries.bits.device)
    bit = torch.ones_like(rows, dtype=torch.int32) << (rows % WORD)
    words = entries.bits[rows // WORD] if part.stop > WORD else entries.bits[:1]
    mask = (words & bit[:, None]) == 0
    return mask.view(len(rows), len(entries.counts), -1).transpose(0, 1)


def _slot_mask(
    slots: Slots, part: slice, before: int, new: int
) -> Bool[Tensor, "row 1 _ own"] | Bool[Tensor, "new own"] | None:
    """Mark the slots that rows do not see: padding, and what comes later than one of several."""
    end = before + new
    later = causal_mask(new, end, slots.keys.device) if new > 1 else None
    if slots.valid is None:
        return later
    padding = slots.valid[part, None, None, :end] == 0
    return padding if later is None else padding | later
