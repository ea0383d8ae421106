"""SweepCache: many prunings of one context, decoded together as the rows of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from proxykv.kernels.layout import Entries
from proxykv.kernels.masked_attention import masked_attention, pack
from proxykv.model.caches.context import ContextCache
from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.tensors import Keep


class SweepCache(SlottedCache):
    """One shared context, and rows that differ in what they keep of it and in their own tokens.

    The context's keys and values are neither copied nor changed. Row `r` sees the context tokens of
    `keeps[row_keep[r]]` (and the prefix, always) and its new tokens that are valid: rows
    of different lengths are padded on the right, and padding is never attended to. What rows see
    takes one bit for each entry and row.
    """

    def __init__(
        self,
        context: ContextCache,
        prefix_len: int,
        keeps: Sequence[Keep],
        row_keep: Sequence[int],
    ) -> None:
        """`keeps`: kept sets of the context's tokens; `row_keep`: each row's index into them."""
        self.context, self.prefix_len, self.keeps = context, prefix_len, keeps
        self.row_keep = list(row_keep)
        super().__init__(self._entries(), 0, masked_attention, len(row_keep), padded=True)

    def admit(self, valid: Bool[Tensor, "row new"]) -> None:
        """Announce the tokens of the next forward, of which some are padding (False)."""
        self.reserve(valid.shape[1])
        for part in self.parts:
            assert part.valid is not None
            part.valid[:, part.used : part.used + valid.shape[1]] = valid.to(part.device)

    def truncate(self, lengths: Int[Tensor, " row"]) -> None:
        """Forget each row's own tokens from index `lengths[row]` on."""
        for part in self.parts:
            assert part.valid is not None
            used = torch.arange(part.used, device=part.device)
            mine = used < lengths[:, None].to(part.device)
            part.valid[:, : part.used] &= mine.to(torch.int8)

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows, in this order."""
        self.row_keep = [self.row_keep[row] for row in rows.tolist()]
        self.keep_rows(rows, self._entries())

    def _entries(self) -> list[Entries]:
        """The whole context, with the bits of these rows."""
        visible = (self.context.visible(self.prefix_len, keep) for keep in self.keeps)
        bits = pack(visible, self.row_keep)
        return [
            Entries(
                layer.keys[0].flatten(0, 1),
                layer.values[0].flatten(0, 1),
                [layer.length] * layer.keys.shape[1],
                row_bits.to(layer.keys.device),
            )
            for layer, row_bits in zip(self.context.layers, bits, strict=True)
        ]
