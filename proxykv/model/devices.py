"""The machine's accelerator: what its name stands for, its clock, and work beside other work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

STREAMED = ("cuda", "xpu")
"""Devices that take work from several queues; others are waited for as a whole."""


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is the machine's accelerator, or the CPU if it has none."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def clock(device: torch.device) -> float:
    """Seconds, once the device has finished what this thread has given it."""
    if device.type in STREAMED:
        torch.accelerator.current_stream(device).synchronize()
    elif device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Let what is queued inside run beside other work of the same device, and be done at the end.

    It starts after what the thread has queued before. Nothing to do for a device that takes its
    work from one queue.
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
    """One for all requests: memory that is freed stays with the stream that it was made for."""
    return torch.Stream(device)
