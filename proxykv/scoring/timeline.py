"""What a request did when: start and end of every phase, in seconds since it came in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from proxykv.model.devices import clock
from proxykv.model.parallel import check


@dataclass(frozen=True)
class Span:
    """A phase, `start` to `end` in seconds since the request; `method`: for which one, if for one.

    Phases: `target_prefill`, `proxy_prefill`, `proxy_scoring`, `mapper`, `select`, `prune`.
    """

    phase: str
    start: float
    end: float
    method: str | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Timeline:
    """Spans of one request; several threads may add to it."""

    def __init__(self) -> None:
        """The request comes in now."""
        self.origin = time.perf_counter()
        self.spans: list[Span] = []

    @contextmanager
    def phase(self, phase: str, device: torch.device, method: str | None = None) -> Iterator[None]:
        """Record what runs inside as a phase that ends when `device` is done with it."""
        check()
        start = clock(device) - self.origin
        yield
        self.spans.append(Span(phase, start, clock(device) - self.origin, method))

    @property
    def end(self) -> float:
        """When the last phase ended."""
        return max(span.end for span in self.spans)

    def span(self, phase: str, method: str | None = None) -> Span:
        """The phase's span; StopIteration if it has not ended."""
        return next(s for s in self.spans if (s.phase, s.method) == (phase, method))

    def wait(self, method: str) -> float:
        """Seconds that the target, its prefill done, waits for a method's scores.

        Counts the method's own mapper only, whatever other mappers ran before it.
        """
        ready = self.span("proxy_scoring").end + self.span("mapper", method).seconds
        return max(0.0, ready - self.span("target_prefill").end)

    def overlap(self) -> float:
        """Seconds in which the target prefilled while the proxy's side was at work."""
        target = self.span("target_prefill")
        theirs = [s for s in self.spans if s.phase in ("proxy_prefill", "proxy_scoring", "mapper")]
        return sum(max(0.0, min(s.end, target.end) - max(s.start, target.start)) for s in theirs)

    def record(self) -> list[dict[str, Any]]:
        """The spans in order of their starts, for JSON."""
        return [asdict(span) for span in sorted(self.spans, key=lambda s: s.start)]
