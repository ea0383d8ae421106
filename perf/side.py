"""Shared by both sides of the comparison with kvpress: contexts, clocks, the loop of requests."""

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
"""Tokens of the question, and of the answer."""
RETENTION = 0.3
RETENTIONS = tuple(i / 10 for i in range(1, 10))

Measure = Callable[[Tensor, Tensor, "Watch"], None]
"""Runs a context and a question, and notes the seconds in the watch."""


@dataclass
class Watch:
    """Stopwatch of one request.

    Attributes:
        seconds: by the name of what was timed; repeated times add up.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to those of a name."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start


def texts(length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Draw a context and a question (1-D token ids), the same for both sides.

    Args:
        length: tokens of the context.
        vocabulary: ids are drawn below this number.
    """
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, vocabulary, (length + QUESTION,), generator=generator)
    return ids[:length], ids[length:]


@contextlib.contextmanager
def peak_memory(result: dict[str, Any]) -> Iterator[None]:
    """Store the largest resident size of the process as `peak_bytes`, sampled every 5 ms."""
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
        result["peak_bytes"] = peak[0]


def serve(measures: dict[str, Measure], vocabulary: int) -> None:
    """Answer requests on standard input until it ends; one line of JSON each.

    Args:
        measures: functions by the name that a request gives as `measure`.
        vocabulary: ids are drawn below this number.
    """
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        watch, result = Watch(), {}
        try:
            with torch.inference_mode(), peak_memory(result):
                measures[request["measure"]](*texts(request["length"], vocabulary), watch)
        except Exception as error:  # a failure is a result, too
            result["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps({**result, "seconds": watch.seconds}), flush=True)
