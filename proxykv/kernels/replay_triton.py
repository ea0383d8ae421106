"""Attention of a replayed chunk and its scores, in two Triton kernels. Importing needs Triton.

The first is flash attention (Dao et al. 2022) that reads {replay, prefix, chunk} first, stores the
queries' log-sum-exp there, and goes on with the rest of the context. The second takes the largest
logit minus log-sum-exp of each of the chunk's columns. Neither stores a matrix of weights.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from proxykv.kernels.replay import Plus, Seen

PROGRAMS = 264
"""Programs of the second kernel: two for each multiprocessor of an H100."""


class ReplayTiles(NamedTuple):
    """How a kernel cuts its work.

    Attributes:
        queries: at a time.
        keys: at a time.
        warps: of a program.
        stages: depth of the pipeline that loads tiles.
        tma: tiles come through descriptors (the tensor memory accelerator), not through pointers.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    tma: bool


class ReplayCut(NamedTuple):
    """Tiles of the two kernels."""

    attention: ReplayTiles
    columns: ReplayTiles


INTERPRETED = ReplayCut(ReplayTiles(32, 32, 4, 1, True), ReplayTiles(32, 32, 4, 1, True))
FLOAT32 = ReplayCut(ReplayTiles(16, 32, 4, 2, False), ReplayTiles(16, 32, 4, 2, False))
"""Products in three parts take many registers."""
SMALL = {
    64: ReplayCut(ReplayTiles(128, 64, 8, 2, False), ReplayTiles(128, 64, 8, 2, False)),
    128: ReplayCut(ReplayTiles(128, 32, 8, 2, False), ReplayTiles(128, 64, 8, 2, False)),
}
"""By the width of a tile that holds a head: GPUs with less shared memory than Hopper. Not tuned."""
LARGE = {
    64: ReplayCut(ReplayTiles(128, 128, 8, 3, True), ReplayTiles(128, 128, 8, 3, True)),
    128: ReplayCut(ReplayTiles(128, 128, 8, 2, True), ReplayTiles(128, 128, 8, 3, True)),
}
"""Hopper and data-centre Blackwell; tuned on an H100."""


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
def _attention_kernel(
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
def _columns_kernel(
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


def fits(query: Tensor, seen: Seen) -> bool:
    """Whether the kernels can address the tensors: dense heads, 32-bit places within a head."""
    tensors = (query, *seen[:4])
    return all(t.stride(2) == 1 and t.shape[1] * t.stride(1) < 2**31 for t in tensors)


def attend_and_score(
    query: Tensor, seen: Seen, scaling: float, plus: Plus | None, scores_only: bool,
    cut: ReplayCut | None = None,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """Run `proxykv.kernels.replay_scores.attend_and_score`; `cut`: other tiles than the GPU's."""
    cut = cut or _cut(query)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(query):
        out, lse = _attention(query, seen, scaling, scores_only, cut.attention)
        return out, _columns(query, seen, lse, scaling, plus, cut.columns)


def _attention(
    query: Tensor, seen: Seen, scaling: float, scores_only: bool, tiles: ReplayTiles
) -> tuple[Tensor | None, Tensor]:
    """Attention, and each query's log-sum-exp over what the scores' softmax runs over (base 2)."""
    q_heads, replay, _ = query.shape
    total, (start, stop) = seen.context_keys.shape[1], (seen.chunk.start, seen.chunk.stop)
    first = (
        [(0, stop), (0, 0)] if start == seen.prefix_len else [(0, seen.prefix_len), (start, stop)]
    )
    rest = [(seen.prefix_len, start), (stop, total)]
    if scores_only or seen.local:
        rest = [(0, 0), (0, 0)]
    keys, values = (seen.context_keys, seen.keys), (seen.context_values, seen.values)
    context, own = zip(keys, keys if scores_only else values, strict=True)
    tma = tiles.tma and all(_described(t) for t in (query, *context, *own))
    out = query if scores_only else torch.empty_like(query)
    lse = torch.empty(q_heads, replay, dtype=torch.float32, device=query.device)
    read = [(query, tiles.queries), *((t, tiles.keys) for t in (*context, *own))]
    _attention_kernel[(triton.cdiv(replay, tiles.queries), q_heads)](
        *(a for t, rows in read for a in _argument(t, rows, tma)),
        out, out.stride(0), out.stride(1), lse, replay, *first[0], *first[1], *rest[0], *rest[1],
        scaling * math.log2(math.e), VALUES=not scores_only, **_constants(query, seen, tiles, tma),
    )  # fmt: skip
    return None if scores_only else out, lse


def _columns(
    query: Tensor, seen: Seen, lse: Tensor, scaling: float, plus: Plus | None, tiles: ReplayTiles
) -> Tensor:
    """Scores of the chunk, from the queries' log-sum-exp."""
    heads, (start, stop) = len(seen.context_keys), (seen.chunk.start, seen.chunk.stop)
    scores = torch.zeros(heads, stop - start, dtype=torch.float32, device=query.device)
    pairs = lse
    if plus is not None:
        lse, pairs = lse - plus.queries.log2(), plus.pairs.log2().contiguous()
    tma = tiles.tma and _described(query) and _described(seen.context_keys)
    blocks = triton.cdiv(stop - start, tiles.keys)
    split = max(1, min(16, PROGRAMS // (blocks * heads)))
    _columns_kernel[(blocks, heads, split)](
        *_argument(query, tiles.queries, tma), *_argument(seen.context_keys, tiles.keys, tma),
        lse, pairs, scores, query.shape[1], start, stop - start, split,
        scaling * math.log2(math.e), PLUS=plus is not None, **_constants(query, seen, tiles, tma),
    )  # fmt: skip
    return scores


def _cut(query: Tensor) -> ReplayCut:
    """Tiles for the device that runs the kernels."""
    if knobs.runtime.interpret:
        return INTERPRETED
    if query.dtype == torch.float32:
        return FLOAT32
    target: Any = triton.runtime.driver.active.get_current_target()
    sizes = LARGE if target.arch // 10 in (9, 10) else SMALL
    return sizes[max(64, _width(query))]


def _constants(query: Tensor, seen: Seen, tiles: ReplayTiles, tma: bool) -> dict[str, Any]:
    """What a kernel is compiled for."""
    exact = query.dtype != torch.float32 or knobs.runtime.interpret
    return {
        "GROUP": len(query) // len(seen.context_keys),
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "DIM": query.shape[2],
        "WIDTH": _width(query),
        "TMA": tma,
        "PRECISION": "ieee" if exact else "tf32x3",
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _width(t: Tensor) -> int:
    """Columns of a tile that holds a head: a power of two."""
    return 1 << (t.shape[2] - 1).bit_length()


def _described(t: Tensor) -> bool:
    """Whether a descriptor can address a tensor: in units of 16 bytes."""
    places = t.data_ptr(), *(stride * t.element_size() for stride in t.stride()[:2])
    return not any(place % 16 for place in places)


def _argument(t: Tensor, rows: int, tma: bool) -> tuple[Tensor | TensorDescriptor, int, int]:
    """A tensor as `_tile` reads it, and the strides of its heads and rows."""
    if not tma:
        return t, t.stride(0), t.stride(1)
    return TensorDescriptor(t, list(t.shape), list(t.stride()), [1, rows, _width(t)]), 0, 0
