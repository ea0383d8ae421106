"""PyTorch's attention kernels that the project could take instead: what its choices rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig

from perf.gpu.replay import chunk
from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes
from perf.gpu.timing import device_seconds, seconds
from perf.gpu.work import replay_flops
from proxykv.kernels.attention import PLAN_FROM, PartialAttention, join
from proxykv.kernels.replay import ReplayKeyValues
from proxykv.kernels.replay_scores import attend_and_score
from proxykv.model.devices import device_of

KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure a prefill's attention in one layer with each kernel, and a replay with cuDNN.

    Args:
        sizes: how large the cases are.
    """
    name, family = next(iter(sizes.families.items()))
    if device_of("auto").type != "cuda":
        yield Row("candidates", "ms", note="these kernels need CUDA")
        return
    for label in ("4k", "16k", "64k"):
        tokens, rows = sizes.lengths[label], {}
        for kernel in KERNELS:
            rows[kernel], first = _prefill(
                f"{name} target, {label}", kernel, family.target, sizes, tokens
            )
            yield rows[kernel]
        if not all(row.values for row in rows.values()):
            continue
        flash, planned = (median(rows[kernel].values) for kernel in KERNELS)
        layers = family.target.num_hidden_layers
        pays = plan_pays_from(tokens, layers, flash, planned, first - planned)
        yield Row(
            f"cuDNN's plan pays from, by the times at {label}",
            "tokens",
            [] if pays is None else [pays],
            note=f"{layers} layers; the project takes cuDNN from {PLAN_FROM}"
            + (": cuDNN is not faster here" if pays is None else ""),
        )
    for label in ("16k", "64k"):
        for role, config in (("target", family.target), ("proxy", family.proxy)):
            yield _replay(f"{name} {role}, {label}", config, sizes.lengths[label], sizes)


def plan_pays_from(
    tokens: int, layers: int, flash: float, planned: float, plan: float
) -> float | None:
    """Tokens of a prefill from which a plan, made once for all layers, pays.

    What the faster kernel saves grows with the square of the length.

    Args:
        tokens: of the measured prefill.
        layers: of the model.
        flash: milliseconds of FlashAttention in one layer.
        planned: milliseconds of cuDNN in one layer.
        plan: milliseconds that cuDNN's plan takes.

    Returns:
        None where cuDNN is not faster.
    """
    saved = layers * (flash - planned)
    return tokens * (max(0.0, plan) / saved) ** 0.5 if saved > 0 else None


def _prefill(
    case: str, kernel: str, config: PreTrainedConfig, sizes: Sizes, tokens: int
) -> tuple[Row, float]:
    """A row, and the milliseconds of the first call."""
    dtype = getattr(torch, sizes.dtype)
    query, keys, values = (
        torch.randn(1, heads, tokens, config.head_dim, device=device_of("auto"), dtype=dtype)
        for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)
    )

    def attend() -> Tensor:
        with sdpa_kernel(KERNELS[kernel]):
            return scaled_dot_product_attention(
                query, keys, values, is_causal=True, enable_gqa=True
            )

    flops = 2 * config.num_attention_heads * config.head_dim * tokens**2
    return _timed(f"a prefill's attention, one layer, {kernel}: {case}", attend, flops, sizes)


def _replay(case: str, config: PreTrainedConfig, tokens: int, sizes: Sizes) -> Row:
    """Attention to the context and to the replay by cuDNN, joined; scores by the kernels."""
    query, layer = chunk(config, tokens, sizes)
    scaling = config.head_dim**-0.5

    def attend() -> tuple[Tensor, Tensor]:
        _, scores = attend_and_score(query, layer, scaling, scores_only=True)
        return with_cudnn(query, layer, scaling), scores

    flops = replay_flops(config, query.shape[1], sizes.chunk, tokens)
    row, _ = _timed(f"replay of a layer and chunk, cuDNN: {case}", attend, flops, sizes)
    return row


def with_cudnn(query: Tensor, layer: ReplayKeyValues, scaling: float) -> Tensor:
    """Attention of a replay: cuDNN makes one plan for the context and one for the replay.

    Args:
        query: queries [q_head, replay, dim].
        layer: keys and values.
        scaling: factor of the logits.
    """
    heads = ((layer.context_keys, layer.context_values, False), (layer.keys, layer.values, True))
    parts = []
    for keys, values, causal in heads:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            query[None], keys[None], values[None], None, True, 0.0, causal, False, scale=scaling
        )
        parts.append(PartialAttention(out[0].float(), lse.reshape(*query.shape[:2], 1)))
    return join(*parts).out.to(query.dtype)


def _timed(
    what: str, attend: Callable[[], object], flops: float, sizes: Sizes
) -> tuple[Row, float]:
    """A row, and the milliseconds of the first call; without values where no kernel runs."""
    device = device_of("auto")
    try:
        first = 1e3 * seconds(device, attend)
    except RuntimeError as error:
        why = str(error).partition("\n")[0]
        return Row(what, "ms", (), "PyTorch", flops, note=f"not run: {why}"), 0.0
    spent = [1e3 * device_seconds(device, attend) for _ in range(sizes.repeats)]
    row = Row(what, "ms", spent, "PyTorch", flops, note=f"the first call took {first:.0f} ms")
    return row, first
