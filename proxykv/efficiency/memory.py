"""Memory of a request: its course over time on every device, and its peak."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread

import psutil
import torch

INTERVAL = 0.002
"""Seconds between two samples."""
POINTS = 240
"""Most points of a course that is kept."""


def used_bytes(device: torch.device) -> int:
    """Bytes that tensors take on an accelerator; on a CPU, what the process has in main memory."""
    if device.type == "cpu":
        return psutil.Process().memory_info().rss
    return torch.accelerator.memory_allocated(device)


def free_unused(devices: Sequence[torch.device]) -> None:
    """Return memory that no tensor takes, and forget the peaks so far."""
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library without it keeps what it has
        ctypes.CDLL(None).malloc_trim(0)
    for device in {device for device in devices if device.type != "cpu"}:
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats(device)


@dataclass
class Course:
    """Memory over time.

    Attributes:
        devices: those of the target, then the proxy's if it is another one.
        seconds: when samples were taken, since the request came in.
        bytes: for each device, what was taken then.
    """

    devices: Sequence[torch.device]
    seconds: list[float] = field(default_factory=list)
    bytes: list[list[int]] = field(default_factory=list)

    def sample(self, since: float) -> None:
        """Take a sample; the request came in at `since` (`time.perf_counter`)."""
        self.seconds.append(time.perf_counter() - since)
        self.bytes.append([used_bytes(device) for device in self.devices])

    def peaks(self) -> list[int]:
        """Highest memory of each device; an accelerator's allocator also knows what lay between."""
        sampled = [max(column) for column in zip(*self.bytes, strict=True)]
        return [
            peak if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)
            for device, peak in zip(self.devices, sampled, strict=True)
        ]

    def thinned(self) -> Course:
        """The same course in at most `POINTS` points: the highest of each stretch."""
        stretch = -(-len(self.seconds) // POINTS)
        starts = range(0, len(self.seconds), stretch)
        kept = [
            max(range(start, min(start + stretch, len(self.seconds))), key=lambda i: self.bytes[i])
            for start in starts
        ]
        return Course(self.devices, [self.seconds[i] for i in kept], [self.bytes[i] for i in kept])


@contextmanager
def watched(devices: Sequence[torch.device]) -> Iterator[Course]:
    """Sample memory in a second thread while the block runs.

    Args:
        devices: whose memory; each once.

    Yields:
        The course, which is complete when the block has ended.
    """
    course, done = Course(devices), Event()
    since = time.perf_counter()

    def sample() -> None:
        while not done.wait(INTERVAL):
            course.sample(since)

    course.sample(since)
    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield course
    finally:
        done.set()
        thread.join()
        course.sample(since)
