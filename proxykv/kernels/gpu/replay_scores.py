"""Attention of a replayed chunk and its scores: tiles and launches of the `replay_kernels`."""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from proxykv.kernels.choice import PLACES
from proxykv.kernels.gpu.replay_kernels import attention_kernel, columns_kernel
from proxykv.kernels.replay import Plus, ReplayKeyValues

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


def fits(query: Tensor, layer: ReplayKeyValues) -> bool:
    """Whether the kernels can address the tensors: dense heads, 32-bit places within a head.

    Args:
        query: queries [q_head, replay, dim].
        layer: keys and values of the layer.
    """
    tensors = (query, *layer[:4])
    return all(t.stride(2) == 1 and t.shape[1] * t.stride(1) < PLACES for t in tensors)


def attend_and_score(
    query: Tensor, layer: ReplayKeyValues, scaling: float, plus: Plus | None, scores_only: bool,
    cut: ReplayCut | None = None,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """Run `proxykv.kernels.replay_scores.attend_and_score` on a GPU.

    Args:
        query: queries [q_head, replay, dim].
        layer: keys and values of the layer.
        scaling: factor of the logits.
        plus: for the scores of KVzip+.
        scores_only: attention is not needed.
        cut: tiles; those that suit the GPU by default.
    """
    cut = cut or _cut(query, layer)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(query):
        out, lse = _attention(query, layer, scaling, scores_only, cut.attention)
        return out, column_scores(query, layer, lse, scaling, plus, cut)


def _attention(
    query: Tensor, layer: ReplayKeyValues, scaling: float, scores_only: bool, tiles: ReplayTiles
) -> tuple[Tensor | None, Tensor]:
    """Attention, and each query's log-sum-exp over what the scores' softmax runs over (base 2)."""
    q_heads, replay, _ = query.shape
    total, (start, stop) = layer.context_keys.shape[1], (layer.chunk.start, layer.chunk.stop)
    first = (
        [(0, stop), (0, 0)] if start == layer.prefix_len else [(0, layer.prefix_len), (start, stop)]
    )
    rest = [(layer.prefix_len, start), (stop, total)]
    if scores_only or layer.local:
        rest = [(0, 0), (0, 0)]
    keys, values = (layer.context_keys, layer.keys), (layer.context_values, layer.values)
    context, replayed = zip(keys, keys if scores_only else values, strict=True)
    tma = tiles.tma and all(_described(t) for t in (query, *context, *replayed))
    out = query if scores_only else torch.empty_like(query)
    lse = torch.empty(q_heads, replay, dtype=torch.float32, device=query.device)
    read = [(query, tiles.queries), *((t, tiles.keys) for t in (*context, *replayed))]
    attention_kernel[(triton.cdiv(replay, tiles.queries), q_heads)](
        *(a for t, rows in read for a in _argument(t, rows, tma)),
        out, out.stride(0), out.stride(1), lse, replay, *first[0], *first[1], *rest[0], *rest[1],
        scaling * math.log2(math.e), VALUES=not scores_only, **_constants(query, layer, tiles, tma),
    )  # fmt: skip
    return None if scores_only else out, lse


def column_scores(
    query: Tensor,
    layer: ReplayKeyValues,
    lse: Tensor,
    scaling: float,
    plus: Plus | None = None,
    cut: ReplayCut | None = None,
) -> Tensor:
    """Scores of the chunk, from the queries' log-sum-exp.

    Args:
        query: queries [q_head, replay, dim].
        layer: keys and values of the layer.
        lse: log-sum-exp over {prefix, chunk, replay} of each query, base 2 [q_head, replay].
        scaling: factor of the logits.
        plus: for the scores of KVzip+.
        cut: tiles; those that suit the GPU by default.

    Returns:
        Scores [kv_head, chunk], float32.
    """
    tiles = (cut or _cut(query, layer)).columns
    heads, (start, stop) = len(layer.context_keys), (layer.chunk.start, layer.chunk.stop)
    scores = torch.zeros(heads, stop - start, dtype=torch.float32, device=query.device)
    pairs = lse
    if plus is not None:
        lse, pairs = lse - plus.queries.log2(), plus.pairs.log2().contiguous()
    tma = tiles.tma and _described(query) and _described(layer.context_keys)
    blocks = triton.cdiv(stop - start, tiles.keys)
    split = max(1, min(16, PROGRAMS // (blocks * heads)))
    columns_kernel[(blocks, heads, split)](
        *_argument(query, tiles.queries, tma), *_argument(layer.context_keys, tiles.keys, tma),
        lse, pairs, scores, query.shape[1], start, stop - start, split,
        scaling * math.log2(math.e), PLUS=plus is not None, **_constants(query, layer, tiles, tma),
    )  # fmt: skip
    return scores


def _cut(query: Tensor, layer: ReplayKeyValues) -> ReplayCut:
    """Tiles for the device that runs the kernels. Large ones are for descriptors."""
    if knobs.runtime.interpret:
        return INTERPRETED
    if query.dtype == torch.float32:
        return FLOAT32
    target: Any = triton.runtime.driver.active.get_current_target()
    described = all(_described(t) for t in (query, *layer[:4]))
    sizes = LARGE if target.arch // 10 in (9, 10) and described else SMALL
    return sizes[max(64, _width(query))]


def _constants(
    query: Tensor, layer: ReplayKeyValues, tiles: ReplayTiles, tma: bool
) -> dict[str, Any]:
    """What a kernel is compiled for."""
    exact = query.dtype != torch.float32 or knobs.runtime.interpret
    return {
        "GROUP": len(query) // len(layer.context_keys),
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
