"""Exact attention, whole or in parts: softmaxes over parts of the keys join by log-sum-exp."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

PLAN_FROM = 16_384
"""Tokens from which cuDNN's plan pays. A plan is made for every length, in 45 to 580 ms on an H100
(torch 2.11, 2026-11-27: prototypes of the kernels, not this code). The faster kernel then saves
about 85 ms in the 32 layers of an 8B model at this length, and more with its square. The section
`candidates` of `perf/gpu.sh` measures both on a card and prints from where the plan pays there."""

_PRIORITY = Lock()
"""Which of PyTorch's kernels may run is a setting of the process, and a request has two threads."""


class PartialAttention(NamedTuple):
    """Attention over some of the keys.

    Attributes:
        out: the output, float32.
        lse: log-sum-exp of the logits, float32.
    """

    out: Float[Tensor, "*batch query dim"]
    lse: Float[Tensor, "*batch query 1"]


def attend_part(
    query: Float[Tensor, "*batch query dim"],
    keys: Float[Tensor, "*heads key dim"],
    values: Float[Tensor, "*heads key dim"],
    mask: Bool[Tensor, "query key"] | None = None,
) -> PartialAttention:
    """Attention of scaled queries over these keys alone; there may be none.

    Args:
        query: queries times the scaling.
        keys: keys after RoPE.
        values: their values.
        mask: the keys that a query must not see; every query sees at least one. None hides none.
    """
    logits = (query @ keys.mT).float()
    if mask is not None:
        logits.masked_fill_(mask, -torch.inf)
    lse = logits.logsumexp(dim=-1, keepdim=True)
    weights = logits.sub_(lse).exp_()
    return PartialAttention((weights.to(values.dtype) @ values).float(), lse)


def join(one: PartialAttention, other: PartialAttention) -> PartialAttention:
    """Attention over the keys of both parts.

    Args:
        one: attention over some keys.
        other: attention of the same queries over other keys.
    """
    lse = torch.logaddexp(one.lse, other.lse)
    return PartialAttention(
        one.out * (one.lse - lse).exp() + other.out * (other.lse - lse).exp(), lse
    )


def causal_attention(
    query: Float[Tensor, "row q_head query dim"],
    keys: Float[Tensor, "row kv_head key dim"],
    values: Float[Tensor, "row kv_head key dim"],
    scaling: float,
) -> Float[Tensor, "row q_head query dim"]:
    """Attention of the last tokens of a text to all of it, or of the text to itself.

    Queries have `group` heads for each KV head (GQA).

    Args:
        query: queries of the last tokens, after RoPE.
        keys: keys of the whole text, after RoPE.
        values: their values.
        scaling: factor of the logits.
    """
    # The only public way to a fused kernel for this mask; PyTorch calls it a prototype.
    mask = causal_lower_right(query.shape[2], keys.shape[2])

    def attend() -> Tensor:
        return scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True
        )

    preferred = fused_kernels(query.device, query.shape[2], keys.shape[2])
    if not preferred:
        return attend()
    with _PRIORITY, sdpa_kernel(preferred, set_priority=True):
        return attend()


def fused_kernels(device: torch.device, queries: int, keys: int) -> list[SDPBackend]:
    """PyTorch's kernels for causal attention, the best one first.

    On CUDA, cuDNN is the fastest for a whole text (about 600 TFLOP/s on an H100, FlashAttention-2
    350), but makes a plan for each length. It has no kernel for queries that are the last tokens
    of the keys; there PyTorch takes FlashAttention by itself.

    Args:
        device: of the tensors.
        queries: number of queries.
        keys: number of keys.

    Returns:
        Kernels that may run, in order; empty where PyTorch's own choice is right.
    """
    if device.type != "cuda" or queries != keys:
        return []
    planned = [SDPBackend.CUDNN_ATTENTION] if keys >= PLAN_FROM else []
    # The last two take what the others cannot: float32, large heads.
    unplanned = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return planned + unplanned


def window_attention(
    queries: Float[Tensor, "query_head window dim"], keys: Float[Tensor, "kv_head key dim"]
) -> Iterator[Float[Tensor, "group window key"]]:
    """Attention weights of a text's last tokens over all of it, one KV head at a time.

    The causal softmax in float32. All heads at once would take more memory than the cache.

    Args:
        queries: the last tokens' queries after RoPE; `group` consecutive heads share a KV head.
        keys: keys of the whole text after RoPE.

    Yields:
        For each KV head, the weights of its query heads.
    """
    heads, total, dim = keys.shape
    window = queries.shape[1]
    mask = causal_mask(window, total, keys.device)
    for head_queries, head_keys in zip(queries.reshape(heads, -1, dim), keys, strict=True):
        logits = (head_queries @ head_keys.mT * dim**-0.5).float().view(-1, window, total)
        yield logits.masked_fill(mask, -torch.inf).softmax(dim=-1)


def causal_mask(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "query key"]:
    """Mark the keys that causality hides from queries that are the last tokens of the keys.

    Args:
        queries: number of queries.
        keys: number of keys.
        device: of the mask.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(keys - queries + 1)


def blocks(start: int, stop: int, width: int) -> Iterator[slice]:
    """Consecutive slices of at most `width`.

    Args:
        start: the first index.
        stop: the index after the last one.
        width: the most indices of a slice.
    """
    for first in range(start, stop, width):
        yield slice(first, min(first + width, stop))
