"""PrunedCache: the kept part of a context, in memory proportional to the retention."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from proxykv.kernels.layout import Entries
from proxykv.kernels.ragged_attention import ragged_attention
from proxykv.model.caches.context import ContextCache, ContextLayer
from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.tensors import Keep


class PrunedCache(SlottedCache):
    """The kept keys and values of one context, packed; heads of a layer may keep different counts.

    Kept entries are copied out of the full cache: drop the last reference to that one and its
    memory is free. Original positions are kept, so the next token's position is the full context's
    length, not the number of entries left. A model's own `generate` can use the cache, too.
    """

    def __init__(self, context: ContextCache, prefix_len: int, keep: Keep) -> None:
        """Copy the prefix and the kept entries of every (layer, head) out of `context`."""
        visible = context.visible(prefix_len, keep)
        counts = visible.sum(dim=-1).tolist()
        entries = [
            _kept(layer, heads.to(layer.keys.device), kept)
            for layer, heads, kept in zip(context.layers, visible, counts, strict=True)
        ]
        super().__init__(entries, context.layers[0].length, ragged_attention)

    @property
    def context_bytes(self) -> int:
        """Bytes that hold the context's keys and values."""
        return sum(t.nbytes for each in self.entries for t in (each.keys, each.values))


def _kept(
    layer: ContextLayer, visible: Bool[Tensor, "kv_head key"], counts: Sequence[int]
) -> Entries:
    return Entries(layer.keys[0][visible], layer.values[0][visible], counts)
