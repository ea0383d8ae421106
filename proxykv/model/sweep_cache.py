"""SweepCache: many prunings of one context, decoded together as the rows of one batch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from proxykv.model.context_cache import ContextCache, ContextLayer, Layer, Slots
from proxykv.model.tensors import KeyValues, Queries

BLOCK_ELEMENTS = 1 << 24
"""Attention logits computed at a time (64 MiB in float32)."""


class SweepCache(Cache):
    """One shared context, and rows that differ in what they keep of it and in their own tokens.

    The context's keys and values are neither copied nor changed. Row `r` sees the context tokens of
    `keeps[row_keep[r]]` (and the prefix, always) and those of its own tokens that are valid: rows
    of different lengths are padded on the right, and padding is never attended to.
    """

    layers: list[SweepLayer]

    def __init__(
        self,
        context: ContextCache,
        prefix_len: int,
        keeps: Bool[Tensor, "keep layer kv_head token"],
        row_keep: Int[Tensor, " row"],
    ) -> None:
        """`keeps`: kept sets of the context's tokens; `row_keep`: each row's index into them."""
        visible = context.visible(prefix_len, keeps)
        super().__init__(
            layers=[SweepLayer(c, visible[:, i], self) for i, c in enumerate(context.layers)]
        )
        self.row_keep = row_keep
        self.valid = torch.zeros(len(row_keep), 0, dtype=torch.bool, device=keeps.device)

    def admit(self, valid: Bool[Tensor, "row new"]) -> None:
        """Announce the tokens of the next forward; False marks padding."""
        self.valid = torch.cat([self.valid, valid], dim=1)

    def truncate(self, lengths: Int[Tensor, " row"]) -> None:
        """Forget each row's own tokens from index `lengths[row]` on."""
        positions = torch.arange(self.valid.shape[1], device=self.valid.device)
        self.valid &= positions < lengths[:, None]

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows, in this order."""
        self.row_keep, self.valid = self.row_keep[rows], self.valid[rows]
        for layer in self.layers:
            layer.select_rows(rows)


class SweepLayer(Layer):
    """One layer of a `SweepCache`; `length` counts the slots of the rows' own tokens."""

    def __init__(
        self, context: ContextLayer, visible: Bool[Tensor, "keep kv_head key"], cache: SweepCache
    ) -> None:
        """`visible`: which context keys (prefix included) each kept set shows."""
        super().__init__()
        self.context, self.visible, self.cache = context, visible, cache
        self.slots = Slots()

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Append one slot per new token to every row."""
        self.keys, self.values = self.slots.write(self.length, keys, values)
        self.length += keys.shape[2]

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows' own tokens."""
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.slots.keys, self.slots.values = self.keys, self.values

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Softmax over {kept context keys} and {the row's own valid tokens, causal}."""
        rows, q_heads, new, _ = query.shape
        keys = self.context.keys.shape[2] + self.length
        block = max(1, BLOCK_ELEMENTS // (q_heads * new * keys))
        parts = [self._attend(query[i : i + block], i, scaling) for i in range(0, rows, block)]
        return torch.cat(parts)

    def _attend(self, query: Queries, first: int, scaling: float) -> Queries:
        rows, q_heads, new, dim = query.shape
        context_k, context_v = self.context.keys[0], self.context.values[0]
        heads, split = context_k.shape[:2]
        part = slice(first, first + rows)
        # [kv_head, row, group * new, dim]: all rows share one matrix product with the context.
        q = (query * scaling).reshape(rows, heads, -1, dim).transpose(0, 1)
        logits = q.new_empty(*q.shape[:3], split + self.length)
        shared = q.reshape(heads, -1, dim) @ context_k.mT
        logits[..., :split] = shared.view(*q.shape[:3], split)
        logits[..., split:] = q @ self.keys[part].transpose(0, 1).mT
        logits.masked_fill_(~self._mask(part, new, q.shape[2] // new), -torch.inf)
        weights = logits.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        out = (weights[..., :split].reshape(heads, -1, split) @ context_v).view_as(q)
        out = out + weights[..., split:] @ self.values[part].transpose(0, 1)
        return out.transpose(0, 1).reshape(rows, q_heads, new, dim)

    def _mask(self, part: slice, new: int, group: int) -> Bool[Tensor, "kv_head row group_new key"]:
        visible = self.visible[self.cache.row_keep[part]].transpose(0, 1)  # kv_head, row, key
        causal = torch.ones(new, self.length, dtype=torch.bool, device=visible.device)
        own = self.cache.valid[part, None] & causal.tril(self.length - new)  # row, new, own
        visible = visible[:, :, None].expand(-1, -1, new, -1)
        both = torch.cat([visible, own.expand(visible.shape[0], -1, -1, -1)], dim=-1)
        return both.repeat(1, 1, group, 1)
