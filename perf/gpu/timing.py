"""Seconds on a device, and what is measured on it: random models and filled caches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig

from perf.gpu.sizes import Sizes
from perf.shapes import random_model
from proxykv.kernels.choice import choose
from proxykv.model.caches.context import ContextCache
from proxykv.model.devices import clock, device_of
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep
from proxykv.scoring.selection import select

HEAD_START = 10
"""Large matrix products that a GPU computes while the host queues what is timed."""


def seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """Wall time of some work, the host's part included.

    Args:
        device: where it runs.
        work: what is timed.
    """
    start = clock(device)
    work()
    return clock(device) - start


def device_seconds(device: torch.device, work: Callable[[], Any], calls: int = 5) -> float:
    """Time that a device takes for some work, without the host's.

    The host queues all calls while the device is busy with something else.

    Args:
        device: where it runs.
        work: what is timed; it has run before.
        calls: times that it runs.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls
    busy = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(HEAD_START):
        torch.mm(busy, busy)
    start.record()
    for _ in range(calls):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3 / calls


def model(config: PreTrainedConfig, sizes: Sizes) -> Model:
    """A random model on this machine's accelerator, of which no token ends an answer.

    Args:
        config: its shape.
        sizes: its dtype.
    """
    made = random_model(config, sizes.dtype, device_of("auto"))
    if made.net.generation_config:
        made.net.generation_config.eos_token_id = None
    return made


def kernels(config: PreTrainedConfig, sizes: Sizes) -> str:
    """Which kernels a model runs on here, and why.

    Args:
        config: its shape.
        sizes: its dtype.
    """
    return str(choose(device_of("auto"), getattr(torch, sizes.dtype), config.head_dim))


def filled(model: Model, tokens: int) -> Prefill:
    """A context with random keys and values, without the forward that would fill its cache.

    Args:
        model: whose cache it is.
        tokens: of the context.
    """
    config, device = model.net.config, model.device
    cache = ContextCache(config.num_hidden_layers, observed=1)
    sizes = 1, config.num_key_value_heads, tokens, config.head_dim
    for layer in cache.layers:
        layer.store(*(torch.randn(sizes, dtype=model.net.dtype, device=device) for _ in range(2)))
    return Prefill(model, ids(tokens, config.vocab_size, device), 0, cache, 0.0)


def kept(context: Prefill, retention: float) -> Keep:
    """A random kept set, in which heads keep very different counts.

    Args:
        context: what is selected from.
        retention: share that is kept.
    """
    scores = torch.rand(context.shape, device=context.model.device)
    offsets = torch.linspace(0, 0.3, context.shape[1], device=scores.device)
    return select(scores + offsets[:, None], retention, "global")


def ids(count: int, vocabulary: int, device: torch.device) -> torch.Tensor:
    """Random token ids (1-D).

    Args:
        count: how many.
        vocabulary: they are below this number.
        device: where they are.
    """
    generator = torch.Generator().manual_seed(count)
    return torch.randint(1, vocabulary, (count,), generator=generator).to(device)
