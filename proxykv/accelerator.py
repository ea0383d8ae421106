"""The machine's accelerator: what its name stands for, its clock, and work beside other work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is the machine's accelerator, or the CPU if it has none."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def clock(device: torch.device) -> float:
    """Seconds, once the device has finished what this thread's stream was given."""
    if device.type != "cpu":
        torch.accelerator.current_stream(device).synchronize()
    return time.perf_counter()


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Let what is queued inside run beside other work of the same device, and be done at the end.

    It starts after what the thread's stream was given before.
    """
    if device.type == "cpu":
        yield
        return
    stream = torch.Stream(device)
    stream.wait_stream(torch.accelerator.current_stream(device))
    with stream:
        yield
    stream.synchronize()
