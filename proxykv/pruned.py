"""PrunedCache: a context pruned for good, in memory proportional to what is kept."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache

from proxykv.cache import ContextCache, ContextLayer, Layer, Slots, causal_attention
from proxykv.tensors import Keep, KeyValues, Queries


class PrunedCache(Cache):
    """The kept keys and values of one context, packed; heads of a layer may keep different counts.

    Kept entries are copied out of the full cache: drop the last reference to that one and its
    memory is free. Original positions are kept, so the next token's position is the full context's
    length, not the number of entries left.
    """

    layers: list[PrunedLayer]

    def __init__(self, context: ContextCache, prefix_len: int, keep: Keep) -> None:
        """Copy the prefix and the kept entries of every (layer, head) out of `context`."""
        seen = torch.nn.functional.pad(keep, (prefix_len, 0), value=True)
        super().__init__(
            layers=[
                PrunedLayer(layer, heads) for layer, heads in zip(context.layers, seen, strict=True)
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

    def __init__(self, context: ContextLayer, seen: Tensor) -> None:
        """`seen` [kv_head, key]: which entries of the context stay."""
        super().__init__()
        self.kept_keys = context.keys[0][seen]
        self.kept_values = context.values[0][seen]
        self.counts: list[int] = seen.sum(dim=1).tolist()
        self.slots = Slots()

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Append new tokens after the context."""
        self.keys, self.values = self.slots.write(self.length, keys, values)
        self.length += keys.shape[2]

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Causal attention over each head's kept entries and the tokens since (one row)."""
        heads = len(self.counts)
        packed = zip(
            query.chunk(heads, dim=1),
            self.kept_keys.split(self.counts),
            self.kept_values.split(self.counts),
            self.keys.split(1, dim=1),
            self.values.split(1, dim=1),
            strict=True,
        )
        return torch.cat(
            [
                causal_attention(
                    q,
                    torch.cat([kept_k[None, None], new_k], dim=2),
                    torch.cat([kept_v[None, None], new_v], dim=2),
                    scaling,
                )
                for q, kept_k, kept_v, new_k, new_v in packed
            ],
            dim=1,
        )
