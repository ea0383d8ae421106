"""What both sides of a comparison share: contexts, clocks, and a loop that answers requests."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor

QUESTION, STEPS = 8, 24
"""Tokens of the question, and tokens that answer it."""
RETENTION = 0.3
RETENTIONS = tuple(i / 10 for i in range(1, 10))

Measure = Callable[[Tensor, Tensor, "Watch"], None]
"""Measures something of a context and a question, and notes it."""


@dataclass
class Watch:
    """Named seconds of one request."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start


def texts(length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """A random context and question, the same for both sides."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, vocabulary, (length + QUESTION,), generator=generator)
    return ids[:length], ids[length:]


@contextlib.contextmanager
def peak_memory(found: dict[str, Any]) -> Iterator[None]:
    """Note the process' largest resident size, sampled every few milliseconds."""
    process, done = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def sample() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found["peak_bytes"] = peak[0]


def serve(measures: dict[str, Measure], vocabulary: int) -> None:
    """Answer requests from standard input, a line of JSON each, until it ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        watch, found = Watch(), {}
        try:
            with torch.inference_mode(), peak_memory(found):
                measures[request["measure"]](*texts(request["length"], vocabulary), watch)
        except Exception as error:  # a side that fails is a result
            found["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps({**found, "seconds": watch.seconds}), flush=True)
