"""Attention of a few new tokens over a context of many, in Triton: split over keys, then joined.

One launch computes the parts (`split_parts`), a second kernel joins them.

What changes from token to token (the number of tokens in the slots), and where the tensors of a
layer lie, is read from device memory. So a launch is the same for every token and every context of
a shape, and can be captured in a CUDA graph and replayed.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from proxykv.kernels.attention import blocks
from proxykv.kernels.gpu.split_parts import split_kernel
from proxykv.kernels.layout import (
    DECODE,
    READ,
    SLOT_SPAN,
    WORD,
    Entries,
    Place,
    Slots,
    Tiles,
    cut_for,
    width,
)

PART_ELEMENTS = 1 << 26
"""Elements of the parts that exist at a time (256 MiB in float32); more for a word of rows."""


@triton.jit(do_not_specialize=["rows", "new", "splits"])
def _join_kernel(
    TABLE, PARTS, PART_LSE, SINCE, SINCE_LSE, OUT, rows, new, heads, splits,
    o_row, o_head, o_new, GROUP: tl.constexpr, PLAN: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, AT_ONCE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Join the parts of one query: of a row, a query head and a new token."""
    size_q = GROUP * new
    at = tl.program_id(0)
    j = at % size_q
    head = (at // size_q) % heads
    row = at // (size_q * heads)
    d = tl.arange(0, WIDTH)
    here = (d < D)[None, :]
    s = tl.arange(0, SPLITS)
    split_at = ((s * rows + row) * heads + head).to(tl.int64) * size_q + j
    split_lse = tl.load(SINCE_LSE + split_at, mask=s < splits, other=float("-inf"))
    split_part = tl.load(
        SINCE + split_at[:, None] * D + d[None, :], mask=(s < splits)[:, None] & here, other=0.0
    )
    high = tl.max(split_lse, 0)
    safe = tl.where(high == float("-inf"), 0.0, high)
    weight = tl.exp2(split_lse - safe)
    total = tl.sum(weight, 0)
    acc = tl.sum(weight[:, None] * split_part, 0)
    BOUNDS = tl.load(TABLE + PLAN + 1).to(tl.pointer_type(tl.int32))
    end = tl.load(BOUNDS + head + 1)
    for first in tl.range(tl.load(BOUNDS + head), end, AT_ONCE):
        segment = first + tl.arange(0, AT_ONCE)
        there = segment < end
        to = segment.to(tl.int64) * rows * size_q + row * size_q + j
        lse = tl.load(PART_LSE + to, mask=there, other=float("-inf"))
        part = tl.load(PARTS + to[:, None] * D + d[None, :], mask=there[:, None] & here, other=0.0)
        higher = tl.maximum(high, tl.max(lse, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(lse - base)
        fade = tl.exp2(high - base)
        total = total * fade + tl.sum(weights, 0)
        acc = acc * fade + tl.sum(weights[:, None] * part, 0)
        high = higher
    out = acc / tl.where(total > 0, total, 1.0)
    to = row.to(tl.int64) * o_row + (head * GROUP + j // new) * o_head + (j % new) * o_new
    tl.store(OUT + to + d, out.to(OUT.dtype.element_ty), mask=d < D)


def attention(
    query: Tensor, entries: Entries, slots: Slots, place: Place, scaling: float
) -> Tensor:
    """Attention of new tokens over a context's entries and the slots, theirs included.

    Rows and new tokens are dealt out to as many launches as bound the memory of the parts.

    Args:
        query: queries [row, q_head, new, dim].
        entries: the context.
        slots: the tokens since.
        place: position of the new tokens among the slots.
        scaling: factor of the logits.
    """
    rows, q_heads, new, dim = query.shape
    heads, room = slots.keys.shape[1:3]
    _, plan = place.found()
    token = q_heads // heads * dim * (max(plan) + _splits(room) * heads)
    tokens = max(1, PART_ELEMENTS // (token * min(rows, WORD)))
    block = max(WORD, PART_ELEMENTS // (token * min(new, tokens)) // WORD * WORD)
    out = query.new_empty(rows, new, q_heads, dim).transpose(1, 2)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(query):
        for at in blocks(0, new, tokens):
            tile = place._replace(index=place.index + at.start) if at.start else place
            for row in blocks(0, rows, block):
                part = query[row, :, at], out[row, :, at]
                _launch(*part, entries, slots, tile, scaling, row.start)
    return out


def _launch(
    query: Tensor,
    out: Tensor,
    entries: Entries,
    slots: Slots,
    place: Place,
    scaling: float,
    first_row: int,
) -> None:
    """Attention of a tile of rows and new tokens; `first_row` is a multiple of 32."""
    rows, q_heads, new, dim = query.shape
    heads, room = slots.keys.shape[1:3]
    group = q_heads // heads
    size = group * new
    reading = new > 1
    cut = cut_for(query.device, query.dtype, size, entries.bits is not None)
    tiles = Tiles.of(size, cut.rows)
    table, plan = place.found()
    number = plan.read if reading else plan.decode
    splits = _splits(room)
    slot_rows = 64 if size > 16 and query.dtype != torch.float32 else 16
    slot_chunks = -(-size // slot_rows)
    slot_programs = splits * rows * heads * slot_chunks
    parts = query.new_empty(number, rows, size, dim, dtype=torch.float32)
    since = query.new_empty(splits, rows, heads, size, dim, dtype=torch.float32)
    lse, since_lse = parts.new_empty(parts.shape[:-1]), since.new_empty(since.shape[:-1])
    shape = {
        "GROUP": group, "PLAN": READ if reading else DECODE, "D": dim, "WIDTH": width(dim),
    }  # fmt: skip
    tile_count = tiles.count(rows)
    split_kernel[(slot_programs + number * tile_count,)](
        query, table, place.index, parts, lse, since, since_lse,
        scaling * math.log2(math.e), first_row, rows, new, heads, slot_programs, slot_chunks,
        tile_count, tiles.rows, tiles.chunks, *query.stride()[:3],
        SPAN=SLOT_SPAN, BLOCK_M=cut.rows, BLOCK_N=cut.keys, STAGES=cut.stages, SLOT_M=slot_rows,
        SLOT_N=32 if query.dtype == torch.float32 else 64, BITTED=entries.bits is not None,
        VALIDATED=slots.valid is not None,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=cut.warps, num_stages=cut.stages, **shape,
    )  # fmt: skip
    _join_kernel[(rows * heads * size,)](
        table, parts, lse, since, since_lse, out, rows, new, heads, splits,
        *out.stride()[:3], AT_ONCE=16 if reading else 64,
        SPLITS=triton.next_power_of_2(splits), num_warps=8, **shape,
    )  # fmt: skip


def _splits(room: int) -> int:
    """Programs that share the slots of a row and KV head."""
    return -(-room // SLOT_SPAN)
