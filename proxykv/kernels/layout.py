"""How the layers of a cache lie in memory, for attention over a context and the tokens since.

A *segment* is a run of a context's entries of one KV head, which one program of a kernel reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

DECODE, READ = 8, 10
"""Fields of a layer's row of the table that hold the addresses of segments; the next ones hold
those of their bounds. The fields before: addresses of keys, values and bits; entries; addresses of
the slots' keys, values and marks of validity; slots."""

WORD = 32
"""Rows of a word of bits."""

SLOT_SPAN = 256
"""Slots that a program reads."""

CUT_AT = 128
"""Segments are multiples of so many entries, except the last of a head."""

GROUP = 4
"""Query heads of a KV head, as far as the number of segments goes."""

READ_TILES = 4
"""Tiles that the queries of a question are, for each row and KV head."""


@dataclass(frozen=True)
class Entries:
    """A context's entries of one layer, flat, head after head.

    Attributes:
        keys: keys after RoPE, contiguous.
        values: their values, contiguous.
        counts: entries of each KV head.
        bits: bit `r % 32` of `bits[r // 32]` says whether row r sees an entry; without bits, every
            row sees every entry.
    """

    keys: Float[Tensor, "entry dim"]
    values: Float[Tensor, "entry dim"]
    counts: Sequence[int]
    bits: Int[Tensor, "word entry"] | None = None


class Slots(NamedTuple):
    """Room for the tokens after a context, in one layer.

    Attributes:
        keys: allocated in advance, contiguous.
        values: the same for values.
        valid: int8, 0 for slots of padding that no row sees; shared by the layers of a cache.
    """

    keys: Float[Tensor, "row kv_head room dim"]
    values: Float[Tensor, "row kv_head room dim"]
    valid: Int[Tensor, "row room"] | None = None


class Place(NamedTuple):
    """Position of the new tokens among the slots, for the host and for the device.

    Attributes:
        before: tokens in the slots before the new ones.
        index: the same number on the device, int64 [1].
        layer: number of the layer.
        table: where kernels find the layers; None where the reference runs.
    """

    before: int
    index: Tensor
    layer: int = 0
    table: LayerTable | None = None

    def found(self) -> tuple[Tensor, Plan]:
        """The layer's row of the table, and the numbers of segments."""
        assert self.table is not None, "kernels read where a layer lies from a table"
        return self.table.layers[self.layer], self.table.plan


@dataclass(frozen=True)
class Cut:
    """How a launch is cut.

    Attributes:
        rows: query rows of a tile, at least 16.
        keys: keys at a time.
        stages: depth of the pipeline that loads them.
        warps: of a program.
        per_sm: programs that a multiprocessor holds.
    """

    rows: int
    keys: int
    stages: int
    warps: int
    per_sm: int


RAGGED = Cut(16, 128, 3, 8, 1)
RAGGED_BYTES = 139_264
"""Shared memory that RAGGED takes with heads of 128, as compiled."""
NARROW = Cut(16, 64, 3, 8, 1)
"""RAGGED for GPUs with less shared memory than that, as most outside data centres. Not tuned."""
MASKED = Cut(64, 32, 4, 4, 2)
READING = Cut(64, 64, 3, 4, 2)
"""Many query rows for each head: a question that is read."""
WIDE = Cut(16, 32, 2, 8, 2)
"""Float32 is multiplied without tensor cores, in registers."""


class Tiles(NamedTuple):
    """How query rows are dealt out: `rows` batch rows a tile, or `chunks` tiles a batch row."""

    rows: int
    chunks: int

    @classmethod
    def of(cls, size: int, block: int) -> Tiles:
        """Choose the tiles.

        Args:
            size: query rows of a batch row (query heads of a KV head x new tokens).
            block: query rows that a program reads at most.
        """
        if size <= block:
            return cls(min(32, 1 << (block // size).bit_length() - 1), 1)
        return cls(1, -(-size // block))

    def count(self, rows: int) -> int:
        """Tiles of so many batch rows."""
        return -(-rows // self.rows) * self.chunks


class Plan(NamedTuple):
    """Segments that every layer's table holds; some may be empty.

    Attributes:
        decode: for one new token.
        read: for many new tokens, whose tiles fill the device with fewer segments.
    """

    decode: int
    read: int


class LayerTable:
    """Where the kernels find a cache's layers: addresses, sizes and segments, on the device.

    Attributes:
        layers: int64 [layer, field].
        plan: caches of one shape have the same.
    """

    def __init__(self, layers: Sequence[tuple[Entries, Slots]]) -> None:
        """Cut the heads of a cache's layers, whose tensors must live as long as the table."""
        self.plan = _plan(*layers[0])
        self._segments: list[Tensor] = []  # alive, since only their addresses are in the table
        parts = [self._cut(layers, number) for number in self.plan]
        rows = [
            [*_addresses(*layer), *decode, *read]
            for layer, decode, read in zip(layers, *parts, strict=True)
        ]
        self.layers = torch.tensor(rows, device=layers[0][1].keys.device)

    def _cut(self, layers: Sequence[tuple[Entries, Slots]], number: int) -> list[tuple[int, int]]:
        """Addresses of each layer's segments and of their bounds."""
        cut = [segments(entries.counts, number) for entries, _ in layers]
        device = layers[0][1].keys.device
        tables = [
            torch.tensor([one[kind] for one in cut], dtype=torch.int32, device=device)
            for kind in range(2)
        ]
        self._segments += tables
        return [(one.data_ptr(), other.data_ptr()) for one, other in zip(*tables, strict=True)]


def segments(counts: Sequence[int], number: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Cut heads of `counts` entries, flat one after the other, into at most `number` runs.

    Args:
        counts: entries of each head.
        number: at least the number of heads.

    Returns:
        `number` segments (head, first entry, entries, 0), the last of which may be empty; and
        bounds: segments `bounds[h]` to `bounds[h + 1]` are head h's.
    """
    low, high = 1, max(1, -(-max(counts) // CUT_AT))
    while low < high:  # the shortest span that does with so many segments
        middle = (low + high) // 2
        if sum(-(-count // (middle * CUT_AT)) for count in counts) <= number:
            high = middle
        else:
            low = middle + 1
    span = low * CUT_AT
    runs: list[tuple[int, ...]] = []
    bounds, start = [0], 0
    for head, count in enumerate(counts):
        runs += [(head, start + at, min(span, count - at), 0) for at in range(0, count, span)]
        bounds.append(len(runs))
        start += count
    return runs + [(0, 0, 0, 0)] * (number - len(runs)), bounds


def cut_for(device: torch.device, dtype: torch.dtype, size: int, masked: bool) -> Cut:
    """Choose how to cut a launch.

    Args:
        device: of the tensors.
        dtype: of queries, keys and values.
        size: query rows of each batch row and KV head.
        masked: whether rows see different entries of the context.
    """
    if dtype == torch.float32:
        return WIDE
    if size > MASKED.rows or (size > RAGGED.rows and not masked):
        return READING
    if masked:
        return MASKED
    return RAGGED if shared_memory(device) >= RAGGED_BYTES else NARROW


def width(dim: int) -> int:
    """Columns of a tile that holds a head: a power of two."""
    return max(16, 1 << (dim - 1).bit_length())


def _plan(entries: Entries, slots: Slots) -> Plan:
    rows, heads, room, _ = slots.keys.shape
    masked = entries.bits is not None
    cut = cut_for(slots.keys.device, slots.keys.dtype, GROUP, masked)
    programs = multiprocessors(slots.keys.device) * cut.per_sm
    splits = -(-room // SLOT_SPAN)
    decode = programs // Tiles.of(GROUP, cut.rows).count(rows)
    if not masked:
        decode -= splits * heads  # programs of one row's slots run in the same wave
    return Plan(max(heads, decode), max(heads, programs // (READ_TILES * rows)))


def _addresses(entries: Entries, slots: Slots) -> list[int]:
    """The fields of a layer before its segments."""
    at = [entries.keys, entries.values, entries.bits, slots.keys, slots.values, slots.valid]
    keys, values, bits, *since = (0 if each is None else each.data_ptr() for each in at)
    return [keys, values, bits, len(entries.keys), *since, slots.keys.shape[2]]


def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; the interpreter gets a few."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 4


def shared_memory(device: torch.device) -> int:
    """Bytes that a program may take on a CUDA device; enough in the interpreter."""
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return properties.shared_memory_per_block_optin
    return RAGGED_BYTES
