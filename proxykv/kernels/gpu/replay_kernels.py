"""The two Triton kernels of a replayed chunk: its attention, and its scores.

The first is flash attention (Dao et al. 2022) that reads {replay, prefix, chunk} first, stores the
queries' log-sum-exp there, and continues with the rest of the context. The second takes the largest
logit minus log-sum-exp of each of the chunk's columns. Neither stores a matrix of weights.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(
    X, head, head_stride, row_stride, row0, limit,
    ROWS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, TMA: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """Rows `row0` and following of a head. What is not in the tensor is 0.

    Without TAIL, all rows are below `limit`. With TMA, rows from `limit` on may be the tensor's.
    """
    if TMA:
        tile = X.load([head, row0, 0]).reshape(ROWS, WIDTH)
    else:
        rows = row0 + tl.arange(0, ROWS)
        d = tl.arange(0, WIDTH)
        at = X + head.to(tl.int64) * head_stride + (rows[:, None] * row_stride + d[None, :])
        if TAIL:
            tile = tl.load(at, mask=(rows[:, None] < limit) & (d[None, :] < DIM), other=0.0)
        elif DIM < WIDTH:
            tile = tl.load(at, mask=d[None, :] < DIM, other=0.0)
        else:
            tile = tl.load(at)
    return tile


@triton.jit
def _fold(
    acc, top, total, q, K, V, head, k0, k1, v0, v1, start, limit, rows, scale,
    KEYS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr,
    TMA: tl.constexpr, TAIL: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A step of the online softmax, in powers of two: one tile of keys more."""
    k = _tile(K, head, k0, k1, start, limit, KEYS, DIM, WIDTH, TMA, TAIL)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if TAIL:
        columns = start + tl.arange(0, KEYS)
        visible = columns[None, :] < limit
        if CAUSAL:
            visible = visible & (columns[None, :] <= rows[:, None])
        s = tl.where(visible, s, float("-inf"))
    high = tl.maximum(top, tl.max(s, 1) * scale)
    p = tl.exp2(s * scale - high[:, None])
    fade = tl.exp2(top - high)
    total = total * fade + tl.sum(p, 1)
    if VALUES:
        v = _tile(V, head, v0, v1, start, limit, KEYS, DIM, WIDTH, TMA, TAIL)
        acc = acc * fade[:, None]
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, high, total


@triton.jit(do_not_specialize=["replay", "a0", "a1", "b0", "b1", "c0", "c1", "e0", "e1"])
def attention_kernel(
    Q, q0, q1, CK, ck0, ck1, CV, cv0, cv1, RK, rk0, rk1, RV, rv0, rv1, OUT, o0, o1, LSE,
    replay, a0, a1, b0, b1, c0, c1, e0, e1, scale,
    GROUP: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of a tile of queries to the replay and the spans a, b, c and e of the context.

    LSE gets the log-sum-exp (base 2) over the replay, a and b. Without VALUES, there is no output.
    """
    # The tiles that see most of the replay start first.
    row0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    q_head = tl.program_id(1)
    head = q_head // GROUP
    rows = row0 + tl.arange(0, QUERIES)
    q = _tile(Q, q_head, q0, q1, row0, replay, QUERIES, DIM, WIDTH, TMA, True)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    if VALUES:
        acc = tl.zeros([QUERIES, WIDTH], tl.float32)
    else:
        acc = total  # never used

    edge = row0 // KEYS * KEYS
    for start in tl.range(0, edge, KEYS):
        acc, top, total = _fold(
            acc, top, total, q, RK, RV, head, rk0, rk1, rv0, rv1, start, replay, rows, scale,
            KEYS, DIM, WIDTH, VALUES, TMA, False, False, PRECISION,
        )  # fmt: skip
    for start in tl.range(edge, tl.minimum(row0 + QUERIES, replay), KEYS):
        acc, top, total = _fold(
            acc, top, total, q, RK, RV, head, rk0, rk1, rv0, rv1, start, replay, rows, scale,
            KEYS, DIM, WIDTH, VALUES, TMA, True, True, PRECISION,
        )  # fmt: skip

    for span in range(4):
        if span == 2:
            tl.store(LSE + q_head * replay + rows, top + tl.log2(total), mask=rows < replay)
        low = tl.where(span == 0, a0, tl.where(span == 1, b0, tl.where(span == 2, c0, e0)))
        high = tl.where(span == 0, a1, tl.where(span == 1, b1, tl.where(span == 2, c1, e1)))
        tail = low + (high - low) // KEYS * KEYS
        for start in tl.range(low, tail, KEYS):
            acc, top, total = _fold(
                acc, top, total, q, CK, CV, head, ck0, ck1, cv0, cv1, start, high, rows, scale,
                KEYS, DIM, WIDTH, VALUES, TMA, False, False, PRECISION,
            )  # fmt: skip
        if tail < high:
            acc, top, total = _fold(
                acc, top, total, q, CK, CV, head, ck0, ck1, cv0, cv1, tail, high, rows, scale,
                KEYS, DIM, WIDTH, VALUES, TMA, True, False, PRECISION,
            )  # fmt: skip

    if VALUES:
        d = tl.arange(0, WIDTH)
        at = OUT + q_head.to(tl.int64) * o0 + (rows[:, None] * o1 + d[None, :])
        there = (rows[:, None] < replay) & (d[None, :] < DIM)
        tl.store(at, (acc / total[:, None]).to(OUT.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["replay", "first", "chunk", "split"])
def columns_kernel(
    Q, q0, q1, K, k0, k1, LSE, PAIRS, OUT, replay, first, chunk, split, scale,
    GROUP: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, PLUS: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The largest weight of each of a tile of columns; `split` programs share its queries.

    The maximum is taken of logit minus log-sum-exp, in registers; each column takes one
    exponential.
    """
    column0 = tl.program_id(0) * KEYS
    head = tl.program_id(1)
    columns = column0 + tl.arange(0, KEYS)
    k = _tile(K, head, k0, k1, first + column0, first + chunk, KEYS, DIM, WIDTH, TMA, True)
    best = tl.full([QUERIES, KEYS], float("-inf"), tl.float32)
    tiles = tl.cdiv(replay, QUERIES)
    share = tl.cdiv(GROUP * tiles, split)
    begin = tl.program_id(2) * share
    for i in tl.range(begin, tl.minimum(begin + share, GROUP * tiles)):
        q_head = head * GROUP + i // tiles
        row0 = i % tiles * QUERIES
        rows = row0 + tl.arange(0, QUERIES)
        q = _tile(Q, q_head, q0, q1, row0, replay, QUERIES, DIM, WIDTH, TMA, True)
        lse = tl.load(LSE + q_head * replay + rows, mask=rows < replay, other=float("inf"))
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale - lse[:, None]
        if PLUS:
            s += tl.load(PAIRS + q_head * chunk + columns, mask=columns < chunk, other=0.0)[None, :]
        best = tl.maximum(best, s)
    weight = tl.exp2(tl.max(best, 0))
    if not PLUS:
        weight = tl.minimum(weight, 1.0)  # the two kernels round differently
    tl.atomic_max(OUT + head * chunk + columns, weight, mask=columns < chunk)
