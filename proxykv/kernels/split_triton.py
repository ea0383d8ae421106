"""Attention of a few new tokens over a context of many, in Triton: split over keys, then joined.

A program reads the keys and values of one segment of a head's entries once, for all query rows of
its tile (rows x query heads of the KV head x new tokens), and writes a normalized output with its
log-sum-exp (flash decoding, Dao et al. 2023). The tokens since the context stand in slots; programs
of the same launch read them. A second kernel joins the parts.

What changes from token to token (the number of tokens in the slots), and where the tensors of a
layer lie, is read from device memory. So a launch is the same for every token and every context of
a shape, and can be captured in a CUDA graph and replayed.

Importing this module needs Triton.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from proxykv.kernels.layout import (
    DECODE,
    READ,
    SLOT_SPAN,
    Entries,
    Place,
    Plan,
    Slots,
    Tiles,
    cut_for,
)


@triton.jit
def _span(
    q, K, V, size, BITS, shift, last, VALID, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, BITTED: tl.constexpr, CAUSAL: tl.constexpr, VALIDATED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of a tile of query rows over `size` consecutive keys: (output, log2-sum-exp2).

    A row sees key n if bit `shift[row]` of BITS[n] is set (BITTED), n <= last[row] (CAUSAL) and
    VALID[n] is not 0 (VALIDATED). A row that sees nothing gets 0 and minus infinity.
    """
    d = tl.arange(0, WIDTH)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    for at in tl.range(0, size, BLOCK_N, num_stages=STAGES):
        n = at + tl.arange(0, BLOCK_N)
        inside = n < size
        there = inside[:, None] & (d < D)[None, :]
        k = tl.load(K + n[:, None] * D + d[None, :], mask=there, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        ok = inside[None, :]
        if BITTED:
            bits = tl.load(BITS + n, mask=inside, other=0)
            ok = ok & (((bits[None, :] >> shift[:, None]) & 1) != 0)
        if CAUSAL:
            ok = ok & (n[None, :] <= last[:, None])
        if VALIDATED:
            ok = ok & (tl.load(VALID + n, mask=inside, other=0) != 0)[None, :]
        s = tl.where(ok, s, float("-inf"))
        high = tl.maximum(m, tl.max(s, 1))
        safe = tl.where(high == float("-inf"), 0.0, high)
        p = tl.exp2(s - safe[:, None])
        fade = tl.exp2(m - safe)
        total = total * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        v = tl.load(V + n[:, None] * D + d[None, :], mask=there, other=0.0)
        acc += tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        m = high
    some = total > 0
    out = acc / tl.where(some, total, 1.0)[:, None]
    lse = tl.where(some, m + tl.log2(tl.where(some, total, 1.0)), float("-inf"))
    return out, lse


@triton.jit
def _context_part(
    at, Q, TABLE, PARTS, PART_LSE, scale, first_row, rows, new, tiles, tile_rows, chunks,
    q_row, q_head, q_new, GROUP: tl.constexpr, PLAN: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
    BITTED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One segment of the context, for one tile of query rows."""
    size_q = GROUP * new
    segment = at // tiles
    tile = at % tiles
    SEGMENTS = tl.load(TABLE + PLAN).to(tl.pointer_type(tl.int32))
    head = tl.load(SEGMENTS + segment * 4)
    start = tl.load(SEGMENTS + segment * 4 + 1).to(tl.int64)
    size = tl.load(SEGMENTS + segment * 4 + 2)
    first = (tile // chunks) * tile_rows
    m = (tile % chunks) * BLOCK_M + tl.arange(0, BLOCK_M)  # several rows a tile, or tiles a row
    row = first + m // size_q
    j = m % size_q
    ok = (m < tile_rows * size_q) & (row < rows)
    d = tl.arange(0, WIDTH)
    where = row.to(tl.int64) * q_row + (head * GROUP + j // new) * q_head + (j % new) * q_new
    there = ok[:, None] & (d < D)[None, :]
    q = tl.load(Q + where[:, None] + d[None, :], mask=there, other=0.0)
    K = tl.multiple_of(tl.load(TABLE + 0).to(Q.dtype), 16) + start * D
    V = tl.multiple_of(tl.load(TABLE + 1).to(Q.dtype), 16) + start * D
    bits = tl.load(TABLE + 2).to(tl.pointer_type(tl.int32))
    if BITTED:  # the rows of a tile share a word: their number is a power of two, at most 32
        bits = bits + ((first_row + first) // 32).to(tl.int64) * tl.load(TABLE + 3) + start
    out, lse = _span(
        q, K, V, size, bits, (first_row + row) % 32, row, bits, scale,
        D, WIDTH, BLOCK_M, BLOCK_N, STAGES, BITTED, False, False, PRECISION,
    )  # fmt: skip
    to = segment.to(tl.int64) * rows * size_q + row * size_q + j
    tl.store(PARTS + to[:, None] * D + d[None, :], out, mask=there)
    tl.store(PART_LSE + to, lse, mask=ok)


@triton.jit
def _slots_part(
    at, Q, TABLE, INDEX, SINCE, SINCE_LSE, scale, first_row, rows, new, heads, chunks,
    q_row, q_head, q_new, GROUP: tl.constexpr, SPAN: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    VALIDATED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """SPAN slots of one row and KV head, for one tile of its query rows."""
    size_q = GROUP * new
    chunk = at % chunks
    head = (at // chunks) % heads
    row = (at // (chunks * heads)) % rows
    split = at // (chunks * heads * rows)
    room = tl.load(TABLE + 7)
    before = tl.load(INDEX).to(tl.int32)
    lo = split * SPAN
    hi = tl.minimum(tl.minimum(lo + SPAN, before + new), room.to(tl.int32))
    m = tl.arange(0, BLOCK_M)
    j = chunk * BLOCK_M + m
    ok = j < size_q
    d = tl.arange(0, WIDTH)
    where = row.to(tl.int64) * q_row + (head * GROUP + j // new) * q_head + (j % new) * q_new
    there = ok[:, None] & (d < D)[None, :]
    q = tl.load(Q + where[:, None] + d[None, :], mask=there, other=0.0)
    slots_row = (first_row + row).to(tl.int64)
    base = ((slots_row * heads + head) * room + lo) * D
    K = tl.multiple_of(tl.load(TABLE + 4).to(Q.dtype), 16) + base
    V = tl.multiple_of(tl.load(TABLE + 5).to(Q.dtype), 16) + base
    valid = tl.load(TABLE + 6).to(tl.pointer_type(tl.int8))
    if VALIDATED:
        valid = valid + slots_row * room + lo
    out, lse = _span(
        q, K, V, hi - lo, valid, j, before + j % new - lo, valid, scale,
        D, WIDTH, BLOCK_M, BLOCK_N, 2, False, True, VALIDATED, PRECISION,
    )  # fmt: skip
    to = ((split * rows + row) * heads + head).to(tl.int64) * size_q + j
    tl.store(SINCE + to[:, None] * D + d[None, :], out, mask=there)
    tl.store(SINCE_LSE + to, lse, mask=ok)


@triton.jit(
    do_not_specialize=[
        "first_row",
        "rows",
        "new",
        "slot_programs",
        "slot_chunks",
        "tiles",
        "tile_rows",
        "chunks",
    ]
)
def _split_kernel(
    Q, TABLE, INDEX, PARTS, PART_LSE, SINCE, SINCE_LSE,
    scale, first_row, rows, new, heads, slot_programs, slot_chunks, tiles, tile_rows, chunks,
    q_row, q_head, q_new,
    GROUP: tl.constexpr, PLAN: tl.constexpr, SPAN: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, SLOT_M: tl.constexpr, SLOT_N: tl.constexpr,
    BITTED: tl.constexpr, VALIDATED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Every part, each in a program; the slots' go first, so that they start no wave alone."""
    at = tl.program_id(0)
    if at < slot_programs:
        _slots_part(
            at, Q, TABLE, INDEX, SINCE, SINCE_LSE, scale, first_row, rows, new, heads, slot_chunks,
            q_row, q_head, q_new, GROUP, SPAN, D, WIDTH, SLOT_M, SLOT_N, VALIDATED, PRECISION,
        )  # fmt: skip
    else:
        _context_part(
            at - slot_programs, Q, TABLE, PARTS, PART_LSE, scale, first_row, rows, new,
            tiles, tile_rows, chunks, q_row, q_head, q_new,
            GROUP, PLAN, D, WIDTH, BLOCK_M, BLOCK_N, STAGES, BITTED, PRECISION,
        )  # fmt: skip


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


@triton.jit(do_not_specialize=["new", "rows"])
def _store_kernel(
    NEW_KEYS, NEW_VALUES, TABLE, INDEX, rows, new, heads,
    k_row, k_head, k_new, v_row, v_head, v_new, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One new key and value into their slot, behind the tokens that INDEX counts."""
    at = tl.program_id(0)
    i = at % new
    head = (at // new) % heads
    row = (at // (new * heads)).to(tl.int64)
    room = tl.load(TABLE + 7)
    slot = tl.load(INDEX) + i
    d = tl.arange(0, WIDTH)
    k = tl.load(NEW_KEYS + row * k_row + head * k_head + i * k_new + d, mask=d < D)
    v = tl.load(NEW_VALUES + row * v_row + head * v_head + i * v_new + d, mask=d < D)
    to = ((row * heads + head) * room + slot) * D + d
    fits = (d < D) & (slot < room)  # full slots drop tokens rather than writing elsewhere
    tl.store(tl.multiple_of(tl.load(TABLE + 4).to(NEW_KEYS.dtype), 16) + to, k, mask=fits)
    tl.store(tl.multiple_of(tl.load(TABLE + 5).to(NEW_VALUES.dtype), 16) + to, v, mask=fits)


def write(keys: Tensor, values: Tensor, slots: Slots, place: Place) -> None:
    """Write new tokens' keys and values into their slots, at the index on the device."""
    rows, heads, new, dim = keys.shape
    table, _ = _found(place)
    _store_kernel[(rows * heads * new,)](
        keys, values, table, place.index, rows, new, heads,
        *keys.stride()[:3], *values.stride()[:3], D=dim, WIDTH=width(dim), num_warps=1,
    )  # fmt: skip


def attention(
    query: Tensor, entries: Entries, slots: Slots, place: Place, scaling: float, first_row: int = 0
) -> Tensor:
    """Attention of new tokens over a context's entries and the slots, theirs included.

    Args:
        query: queries of rows from `first_row` on.
        entries: the context.
        slots: the tokens since.
        place: where the new tokens stand in the slots.
        scaling: factor of the logits.
        first_row: a multiple of 32.
    """
    rows, q_heads, new, dim = query.shape
    heads, room = slots.keys.shape[1:3]
    group = q_heads // heads
    size = group * new
    reading = new > 1
    cut = cut_for(query.dtype, size, entries.bits is not None)
    tiles = Tiles.of(size, cut.rows)
    table, plan = _found(place)
    number = plan.read if reading else plan.decode
    splits = -(-room // SLOT_SPAN)
    slot_rows = 64 if size > 16 and query.dtype != torch.float32 else 16
    slot_chunks = -(-size // slot_rows)
    slot_programs = splits * rows * heads * slot_chunks
    parts = query.new_empty(number, rows, size, dim, dtype=torch.float32)
    since = query.new_empty(splits, rows, heads, size, dim, dtype=torch.float32)
    lse, since_lse = parts.new_empty(parts.shape[:-1]), since.new_empty(since.shape[:-1])
    out = query.new_empty(rows, new, q_heads, dim).transpose(1, 2)
    shape = {
        "GROUP": group, "PLAN": READ if reading else DECODE, "D": dim, "WIDTH": width(dim),
    }  # fmt: skip
    tile_count = tiles.count(rows)
    _split_kernel[(slot_programs + number * tile_count,)](
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
    return out


def _found(place: Place) -> tuple[Tensor, Plan]:
    """The layer's row of the table, and the numbers of segments."""
    assert place.table is not None, "kernels read where a layer lies from a table"
    return place.table.layers[place.layer], place.table.plan


def width(dim: int) -> int:
    """Columns of a tile that holds a head: a power of two."""
    return max(16, triton.next_power_of_2(dim))
