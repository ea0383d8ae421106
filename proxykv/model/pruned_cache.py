"""PrunedCache: the kept part of a context, in memory proportional to the retention."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from proxykv.kernels.attention import PartialAttention, attend_part, blocks, causal_mask, join
from proxykv.model.context_cache import ContextCache, ContextLayer, Layer, Slots
from proxykv.model.tensors import Keep, KeyValues, Queries

BLOCK_ELEMENTS = 1 << 24
"""Attention logits of one head that exist at a time (64 MiB in float32)."""


class PrunedCache(Cache):
    """The kept keys and values of one context, packed; heads of a layer may keep different counts.

    Kept entries are copied out of the full cache: drop the last reference to that one and its
    memory is free. Original positions are kept, so the next token's position is the full context's
    length, not the number of entries left. A model's own `generate` can use the cache, too.
    """

    layers: list[PrunedLayer]

    def __init__(self, context: ContextCache, prefix_len: int, keep: Keep) -> None:
        """Copy the prefix and the kept entries of every (layer, head) out of `context`."""
        visible = context.visible(prefix_len, keep)
        super().__init__(
            layers=[
                PrunedLayer(layer, heads)
                for layer, heads in zip(context.layers, visible, strict=True)
            ]
        )

    def reset(self) -> None:
        """Forget everything after the context, so that the next question starts clean."""
        for layer in self.layers:
            layer.length = 0

    @property
    def context_bytes(self) -> int:
        """Bytes that hold the context's keys and values."""
        return sum(t.nbytes for layer in self.layers for t in (layer.kept_keys, layer.kept_values))


class PrunedLayer(Layer):
    """One layer: packed context entries, head after head, and the tokens that came since."""

    def __init__(self, context: ContextLayer, visible: Tensor) -> None:
        """`visible` [kv_head, key]: which entries of the context stay."""
        super().__init__()
        self.kept_keys = context.keys[0][visible]
        self.kept_values = context.values[0][visible]
        self.counts: list[int] = visible.sum(dim=1).tolist()
        self.context_length = context.length
        self.slots = Slots()

    def get_seq_length(self) -> int:
        """True length of the text, which is the next token's position."""
        return self.context_length + self.length

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Append new tokens after the context."""
        self.keys, self.values = self.slots.write(self.length, keys, values)
        self.length += keys.shape[2]

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Causal attention over each head's kept entries and the tokens since (one row).

        Attention over the kept entries and over the new tokens is computed separately and joined,
        so that neither is copied. Each head reads its own kept entries; nothing is padded.
        """
        rows, q_heads, new, dim = query.shape
        if rows != 1:
            raise ValueError(f"a pruned cache answers one row at a time, not {rows}")
        heads = len(self.counts)
        group = q_heads // heads
        grouped = (query[0] * scaling).reshape(heads, group * new, dim)
        mask = causal_mask(new, self.length, query.device).repeat(group, 1)
        since = attend_part(grouped, self.keys[0], self.values[0], mask)
        packed = zip(
            grouped,
            self.kept_keys.split(self.counts),
            self.kept_values.split(self.counts),
            strict=True,
        )
        kept = [_attend_kept(*head) for head in packed]
        both = join(
            since, PartialAttention(*(torch.stack(each) for each in zip(*kept, strict=True)))
        )
        return both.out.to(query.dtype).view(1, q_heads, new, dim)


def _attend_kept(
    query: Float[Tensor, "query dim"], keys: Float[Tensor, "kept dim"], values: Tensor
) -> PartialAttention:
    """One head over its kept entries, a bounded number of logits at a time."""
    width = max(1, BLOCK_ELEMENTS // max(1, len(keys)))
    parts = [attend_part(query[at], keys, values) for at in blocks(0, len(query), width)]
    return PartialAttention(*(torch.cat(each) for each in zip(*parts, strict=True)))
