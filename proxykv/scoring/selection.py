"""Scores to kept sets: pure functions that meet a budget exactly."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Literal, get_args

import numpy as np
import torch

from proxykv.model.tensors import Keep, Scores

Scope = Literal["global", "layer", "head"]
"""Where a budget is shared: over all layers and heads, within a layer, or equally by every head."""


def budget(retention: float, entries: int) -> int:
    """How many KV pairs a retention keeps: floor(retention * entries), in decimals.

    Binary floats would lose entries: int(0.7 * 90) is 62.

    Args:
        retention: share of the KV pairs to keep.
        entries: number of KV pairs.

    Raises:
        ValueError: if `retention` is outside (0, 1].
    """
    if not 0 < retention <= 1:
        raise ValueError(f"retention {retention} is outside (0, 1]")
    return int(Decimal(str(retention)) * entries)


def select(scores: Scores, retention: float, scope: Scope) -> Keep:
    """Keep the highest scores, exactly ⌊retention * entries⌋ of them in every unit of the scope.

    Ties go to the lowest index, so the kept set is deterministic and nested in `retention`.

    Args:
        scores: importance [layer, kv_head, token], finite.
        retention: share of the KV pairs to keep, in (0, 1].
        scope: `global` ranks all pairs together, `layer` each layer's, `head` each head's.

    Raises:
        ValueError: if a score is not finite, or retention or scope is not valid.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinite values; a scorer must return finite scores")
    units = scores.reshape(_units(scores, scope), -1)
    count = budget(retention, units.shape[1])
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = units.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above = units > threshold
    tied = units == threshold
    room = count - above.sum(dim=1, keepdim=True)
    keep = above | (tied & (tied.cumsum(dim=1) <= room))
    return keep.reshape(scores.shape)


def kept_digest(keep: Keep) -> str:
    """Return twelve hex digits that change with the kept set.

    Args:
        keep: the kept set [layer, kv_head, token].
    """
    kept = hashlib.sha256(str(tuple(keep.shape)).encode())
    kept.update(np.packbits(keep.cpu().numpy()).tobytes())
    return kept.hexdigest()[:12]


def transplant(allocation: Scores, ranking: Scores) -> Scores:
    """Give each head of `allocation` the token order of `ranking`.

    Every head keeps the score values of `allocation`, handed out in the order in which `ranking`
    ranks its tokens. Under the global scope the result therefore keeps, at every retention, as many
    tokens per head as `allocation` does, but the tokens that `ranking` prefers.

    Args:
        allocation: scores that decide how many tokens a head keeps, [layer, kv_head, token].
        ranking: scores that decide which ones, of the same shape.

    Raises:
        ValueError: if the shapes differ.
    """
    if allocation.shape != ranking.shape:
        raise ValueError(f"shapes differ: {tuple(allocation.shape)} and {tuple(ranking.shape)}")
    values = allocation.sort(dim=-1, descending=True).values
    order = ranking.sort(dim=-1, descending=True, stable=True).indices
    return torch.empty_like(allocation).scatter_(-1, order, values)


def _units(scores: Scores, scope: Scope) -> int:
    layers, heads, _ = scores.shape
    match scope:
        case "global":
            return 1
        case "layer":
            return layers
        case "head":
            return layers * heads
    raise ValueError(f"scope {scope!r} is not one of {', '.join(get_args(Scope))}")
