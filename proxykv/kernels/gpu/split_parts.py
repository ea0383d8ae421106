"""The parts of a split attention, in Triton: of the context's segments and of the slots.

A program reads the keys and values of one segment of a head's entries once, for all query rows of
its tile (rows x query heads of the KV head x new tokens), and writes a normalized output with its
log-sum-exp (flash decoding, Dao et al. 2023). The tokens since the context are in slots; programs
of the same launch read them.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


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
def split_kernel(
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
