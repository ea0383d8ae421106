"""KVzip's replay of a chunk in one layer, compared with its products; causal attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedConfig

from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes
from perf.gpu.timing import device_seconds, kernels, seconds
from perf.gpu.work import replay_flops
from proxykv.kernels.attention import causal_attention
from proxykv.kernels.choice import choose
from proxykv.kernels.replay import ReplayKeyValues
from proxykv.kernels.replay_scores import attend_and_score
from proxykv.model.devices import device_of

REQUEST = 24
"""Tokens of a replay before the chunk."""


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure a chunk in the middle of a context, for both models of the first pair.

    Args:
        sizes: how large the cases are.
    """
    name, family = next(iter(sizes.families.items()))
    for label in ("64k", "16k"):
        for role, config in (("target", family.target), ("proxy", family.proxy)):
            yield from _chunk(f"{name} {role}, {label}", config, sizes.lengths[label], sizes)
    for label in ("16k", "64k"):
        yield from _prefill(f"{name} target, {label}", family.target, sizes.lengths[label], sizes)


def chunk(
    config: PreTrainedConfig, tokens: int, sizes: Sizes
) -> tuple[torch.Tensor, ReplayKeyValues]:
    """Random queries, keys and values of a replay in the middle of a context.

    Args:
        config: the model's shape.
        tokens: of the context.
        sizes: the chunk's size and the dtype.
    """

    def normal(heads: int, count: int) -> torch.Tensor:
        made = torch.randn(heads, count, config.head_dim, device=device_of("auto"))
        return made.to(getattr(torch, sizes.dtype))

    heads, replay = config.num_key_value_heads, sizes.chunk + REQUEST
    start = (tokens - sizes.chunk) // 2
    layer = ReplayKeyValues(
        normal(heads, tokens),
        normal(heads, tokens),
        normal(heads, replay),
        normal(heads, replay),
        0,
        slice(start, start + sizes.chunk),
    )
    return normal(config.num_attention_heads, replay), layer


def _chunk(case: str, config: PreTrainedConfig, tokens: int, sizes: Sizes) -> Iterator[Row]:
    """A replay's layer and chunk, and the scores' part of it where a kernel computes them."""
    query, layer = chunk(config, tokens, sizes)
    device, scaling = query.device, config.head_dim**-0.5
    attend_and_score(query, layer, scaling)
    spent = [
        1e3 * device_seconds(device, lambda: attend_and_score(query, layer, scaling))
        for _ in range(sizes.repeats)
    ]
    flops = replay_flops(config, query.shape[1], sizes.chunk, tokens)
    ran = kernels(config, sizes)
    yield Row(f"replay of a layer and chunk: {case}", "ms", spent, ran, flops=flops)
    if choose(device, query.dtype, config.head_dim).kernels != "triton":
        return
    from proxykv.kernels.gpu import replay_scores  # noqa: PLC0415 (needs Triton)

    lse = torch.zeros(query.shape[:2], dtype=torch.float32, device=device)
    columns = lambda: replay_scores.column_scores(query, layer, lse, scaling)  # noqa: E731
    columns()
    spent = [1e3 * device_seconds(device, columns) for _ in range(sizes.repeats)]
    yield Row(f"… of which scores: {case}", "ms", spent, ran)


def _prefill(case: str, config: PreTrainedConfig, tokens: int, sizes: Sizes) -> Iterator[Row]:
    """Causal attention of one layer of a prefill, and what its first call costs more."""
    device, dtype = device_of("auto"), getattr(torch, sizes.dtype)
    query, keys, values = (
        torch.randn(1, heads, tokens, config.head_dim, device=device, dtype=dtype)
        for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)
    )

    def attend() -> torch.Tensor:
        return causal_attention(query, keys, values, config.head_dim**-0.5)

    first = 1e3 * seconds(device, attend)
    spent = [1e3 * device_seconds(device, attend) for _ in range(sizes.repeats)]
    flops = 2 * config.num_attention_heads * config.head_dim * tokens**2
    note = f"the first call took {first:.0f} ms"
    yield Row(f"a prefill's attention, one layer: {case}", "ms", spent, "PyTorch", flops, note=note)
