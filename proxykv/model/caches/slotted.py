"""Caches to read and write text on top of: a context's entries, and slots for the tokens since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, islice

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache

from proxykv.kernels.choice import Choice, choose
from proxykv.kernels.layout import SLOT_SPAN, Entries, LayerTable, Place, Slots
from proxykv.kernels.store import store
from proxykv.model.caches.context import Layer
from proxykv.model.tensors import KeyValues, Queries

Attention = Callable[[Queries, Entries, Slots, Place, float], Queries]
"""An operation of `proxykv.kernels`: queries, entries, slots, place, scaling."""


class Since:
    """The tokens since a context on one device: slots of its layers, and how many are taken.

    That number is on the host and on the device: kernels write and read at the device's, so that a
    captured step stays the same from token to token.

    Attributes:
        entries: the context's entries, by layer of this device.
        rows: texts that are read together.
        used: slots taken, as far as the host knows.
        index: the same on the device, int64 [1].
        valid: int8 [row, slot], 0 for padding; None where there is none.
    """

    def __init__(self, entries: Sequence[Entries], rows: int, padded: bool) -> None:
        """Start without room; `padded`: rows may differ in length."""
        self.entries, self.rows, self.used = entries, rows, 0
        self._longest = max(max(each.counts) for each in entries)
        with torch.inference_mode(False):  # whoever writes later may not be in inference mode
            self.index = torch.zeros(1, dtype=torch.int64, device=entries[0].keys.device)
        self._hold(self._allocated(0), self._all_valid(0) if padded else None)

    @property
    def device(self) -> torch.device:
        """Where these layers are."""
        return self.index.device

    @property
    def kernels(self) -> Choice:
        """The implementation of attention that runs on these tokens, in every layer."""
        keys = self.entries[0].keys
        return choose(keys.device, keys.dtype, keys.shape[1], self._longest)

    @property
    def room(self) -> int:
        """Slots of a row."""
        return self._storage.shape[4]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return self._storage.nbytes

    def reserve(self, tokens: int) -> None:
        """Make room for at least so many tokens in all; those that are there stay."""
        if tokens <= self.room:
            return
        storage, valid = self._allocated(tokens), None
        storage[..., : self.used, :] = self._storage[..., : self.used, :]
        if self.valid is not None:
            valid = self._all_valid(tokens)
            valid[:, : self.used] = self.valid[:, : self.used]
        self._hold(storage, valid)

    def write(self, layer: int, keys: KeyValues, values: KeyValues) -> None:
        """Write the next tokens of every row into a layer's slots.

        Args:
            layer: index of the layer among this device's.
            keys: keys of the new tokens, after RoPE.
            values: their values.

        Raises:
            ValueError: if there are more or fewer rows than the cache has.
        """
        if len(keys) != self.rows:
            rows = "one row" if self.rows == 1 else f"{self.rows} rows"
            raise ValueError(f"this cache reads {rows} at a time, not {len(keys)}")
        needed = self.used + keys.shape[2]
        if needed > self.room:
            self.reserve(needed + needed // 4)
        store(keys, values, self.slots(layer), self.place(layer))

    def took(self, tokens: int) -> None:
        """Count tokens that every layer has written."""
        self.used += tokens
        self.index += tokens

    def forget(self) -> None:
        """Start again after the context; the slots stay where they are."""
        self.used = 0
        self.index.zero_()

    def keep_rows(self, rows: Int[Tensor, " kept"], entries: Sequence[Entries]) -> None:
        """Keep only the tokens of some rows.

        Args:
            rows: indices of the rows to keep.
            entries: the context's entries as these rows see them, by layer.
        """
        self.entries, self.rows = entries, len(rows)
        storage = self._allocated(self.room)
        storage[..., : self.used, :] = self._storage[:, :, rows, :, : self.used]
        self._hold(storage, None if self.valid is None else self.valid[rows])

    def slots(self, layer: int) -> Slots:
        """One layer's slots."""
        return self._slots[layer]

    def place(self, layer: int) -> Place:
        """Where the next tokens stand."""
        table = self.table() if self.kernels.kernels == "triton" else None
        return Place(self.used, self.index, layer, table)

    def table(self) -> LayerTable:
        """Where kernels find the layers."""
        if self._table is None:
            layers = range(len(self.entries))
            self._table = LayerTable([(self.entries[i], self.slots(i)) for i in layers])
        return self._table

    def point_to(self, table: LayerTable, index: Tensor) -> None:
        """Let kernels read the layers' addresses and the next slot from other memory.

        Args:
            table: addresses of the layers.
            index: number of slots taken, int64 [1].
        """
        self._table, self.index = table, index

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for caches that the same captured step can serve."""
        bits = self.entries[0].bits is not None
        spans = -(-self.room // SLOT_SPAN)
        return self.rows, spans, bits, self.valid is not None, self.table().plan

    def _hold(self, storage: Tensor, valid: Tensor | None) -> None:
        """Take other slots, which the table does not know."""
        self._storage, self.valid = storage, valid
        with torch.inference_mode(False):
            self._slots = [Slots(keys, values, valid) for keys, values in storage]
        self._table: LayerTable | None = None

    def _allocated(self, room: int) -> Tensor:
        """Uninitialized slots [layer, keys and values, row, kv_head, slot, dim]."""
        keys, heads = self.entries[0].keys, len(self.entries[0].counts)
        with torch.inference_mode(False):
            return keys.new_empty(len(self.entries), 2, self.rows, heads, room, keys.shape[1])

    def _all_valid(self, room: int) -> Tensor:
        with torch.inference_mode(False):
            return torch.ones(self.rows, room, dtype=torch.int8, device=self.index.device)


class SlottedLayer(Layer):
    """One layer of a `SlottedCache`."""

    def __init__(self, since: Since, number: int, context: int, attention: Attention) -> None:
        """`number`: among the layers of `since`; `context`: tokens before the slots'."""
        super().__init__()
        self.since, self.number, self.context, self.attention = since, number, context, attention

    @property
    def entries(self) -> Entries:
        """The context's entries."""
        return self.since.entries[self.number]

    def get_seq_length(self) -> int:
        """True length of the text, which is the next token's position."""
        return self.context + self.since.used

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Write the new tokens into their slots.

        Args:
            keys: keys after RoPE.
            values: their values.
        """
        self.since.write(self.number, keys, values)

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Causal attention to the context's entries and to the slots.

        Args:
            query: queries of the new tokens, after RoPE.
            scaling: factor of the logits.
        """
        since = self.since
        place = since.place(self.number)
        out = self.attention(query, self.entries, since.slots(self.number), place, scaling)
        if self.number == len(since.entries) - 1:  # the end of a forward here
            since.took(query.shape[2])
        return out


class SlottedCache(Cache):
    """A context's entries, and the tokens since in slots.

    Attributes:
        parts: the tokens since, for the layers of each device; usually one part.
    """

    layers: list[SlottedLayer]

    def __init__(
        self,
        entries: Sequence[Entries],
        context: int,
        attention: Attention,
        rows: int = 1,
        padded: bool = False,
    ) -> None:
        """Start without room.

        Args:
            entries: of the context, by layer.
            context: tokens of the context.
            attention: the operation that reads the entries.
            rows: texts that are read together.
            padded: rows may differ in length.
        """
        by_device = groupby(entries, key=lambda each: each.keys.device)
        self.parts = [Since(list(layers), rows, padded) for _, layers in by_device]
        super().__init__(
            layers=[
                SlottedLayer(part, number, context, attention)
                for part in self.parts
                for number in range(len(part.entries))
            ]
        )

    @property
    def entries(self) -> list[Entries]:
        """The context's entries, by layer."""
        return [each for part in self.parts for each in part.entries]

    def reserve(self, tokens: int) -> None:
        """Make room for so many more tokens of every row."""
        for part in self.parts:
            part.reserve(part.used + tokens)

    def reset(self) -> None:
        """Forget everything after the context, so that the next question starts clean."""
        for part in self.parts:
            part.forget()

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows, in this order."""
        self.keep_rows(rows, self.entries)

    def keep_rows(self, rows: Int[Tensor, " kept"], entries: Sequence[Entries]) -> None:
        """Keep only the tokens of some rows.

        Args:
            rows: indices of the rows to keep.
            entries: the context's entries as these rows see them, by layer.
        """
        each = iter(entries)
        for part in self.parts:
            part.keep_rows(rows.to(part.device), list(islice(each, len(part.entries))))
