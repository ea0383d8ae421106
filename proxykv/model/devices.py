"""The machine's accelerators: names, clocks, a second stream of work, layers on several of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from proxykv.runtime.errors import ConfigError

STREAMED = ("cuda", "xpu")
"""Devices with streams, which can be waited for one by one; others are waited for as a whole."""


def device_of(name: str) -> torch.device:
    """Return the named device; `auto` is the machine's accelerator, or the CPU if it has none.

    Raises:
        ConfigError: if the machine has no such device.
    """
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            raise ConfigError(f"device {name!r} cannot be used here: {why}") from error
        return device
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def free_bytes(device: torch.device) -> int | None:
    """Memory that tensors can still take; None where a device does not tell."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def clock(device: torch.device) -> float:
    """Wait for the work that this thread has queued on the device; return the time in seconds."""
    if device.type in STREAMED:
        torch.accelerator.current_stream(device).synchronize()
    elif device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Queue the work inside on a second stream, and wait for it at the end.

    It starts after the work that this thread has queued before, and runs at the same time as other
    threads' work. Devices without streams run it as usual.
    """
    if device.type not in STREAMED:
        yield
        return
    stream = _second(device)
    stream.wait_stream(torch.accelerator.current_stream(device))
    try:
        with stream:
            yield
    finally:
        stream.synchronize()


def spread(net: PreTrainedModel, home: torch.device, layers: Sequence[torch.device] = ()) -> None:
    """Move a network's weights, and let what enters a layer follow them.

    Embeddings, RoPE, the last norm and the LM head are at home. A forward therefore begins and ends
    there, wherever its layers are.

    Args:
        net: a causal language model of transformers.
        home: where forwards begin and end.
        layers: device of each layer; `home` for all by default.

    Raises:
        ValueError: if there are more or fewer devices than layers.
    """
    body: Any = net.base_model
    for layer, device in zip(body.layers, layers or [home] * len(body.layers), strict=True):
        layer.to(device)
        if device != home:
            _fetch(layer, device)
    if set(layers) - {home}:
        _fetch(body.norm, home)
    for part in (*body.children(), *net.children()):
        if part not in (body, body.layers):
            part.to(home)


@cache
def _second(device: torch.device) -> torch.Stream:
    """Return one stream for all requests: freed memory stays with the stream that allocated it."""
    return torch.Stream(device)


def _fetch(module: nn.Module, device: torch.device) -> None:
    """Move the tensors that enter a module to its device; a cache has its layers there already."""

    def fetched(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        there = send_to_device(kwargs, device, skip_keys="past_key_values")
        return send_to_device(args, device), there

    module.register_forward_pre_hook(fetched, with_kwargs=True)
