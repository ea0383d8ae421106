"""The machine's accelerator: its name, its clock, and a second stream of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

STREAMED = ("cuda", "xpu")
"""Devices with streams, which can be waited for one by one; others are waited for as a whole."""


def device_of(name: str) -> torch.device:
    """Return the named device; `auto` is the machine's accelerator, or the CPU if it has none."""
    if name != "auto":
        return torch.device(name)
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


@cache
def _second(device: torch.device) -> torch.Stream:
    """Return one stream for all requests: freed memory stays with the stream that allocated it."""
    return torch.Stream(device)
