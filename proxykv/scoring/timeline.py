"""What a request did when: start and end of every phase, in seconds since it came in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from proxykv.config.settings.signals import Signal
from proxykv.model.devices import clock
from proxykv.model.parallel import check


@dataclass(frozen=True)
class Span:
    """A phase of a request.

    Attributes:
        phase: `target_prefill`, `proxy_prefill`, `proxy_scoring`, `mapper`, `scoring`, `select` or
            `prune`.
        start: seconds since the request came in.
        end: the same.
        part: the layers that a proxy prefills with, the signal that is scored, or the method that
            a mapper serves.
    """

    phase: str
    start: float
    end: float
    part: str | None = None

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
    def phase(self, phase: str, device: torch.device, part: str | None = None) -> Iterator[None]:
        """Record what runs inside the block as a phase, which ends when the device has finished it.

        Args:
            phase: name of the phase (see `Span`).
            device: where it runs.
            part: what the phase works on (see `Span`).
        """
        check()
        start = clock(device) - self.origin
        yield
        self.spans.append(Span(phase, start, clock(device) - self.origin, part))

    @property
    def end(self) -> float:
        """When the last phase ended."""
        return max(span.end for span in self.spans)

    def span(self, phase: str, part: str | None = None) -> Span:
        """The span of a phase that has ended; StopIteration if it has not.

        Args:
            phase: name of the phase (see `Span`).
            part: what the phase works on (see `Span`).
        """
        return next(s for s in self.spans if (s.phase, s.part) == (phase, part))

    def proxy_seconds(self, signal: Signal) -> float:
        """What one signal takes the proxy, with the prefill that it reads."""
        scoring = self.span("proxy_scoring", signal.name).seconds
        if signal.prefilled is None:
            return scoring
        return scoring + self.span("proxy_prefill", signal.prefilled).seconds

    def wait(self, method: str, signal: Signal) -> float:
        """Seconds that the target, after its prefill, waits for a method's scores.

        Counts only the method's own signal and mapper, not work for other methods.

        Args:
            method: id of the method.
            signal: the signal that its mapper reads.
        """
        start = min(span.start for span in self._proxy_spans())
        ready = start + self.proxy_seconds(signal) + self.span("mapper", method).seconds
        return max(0.0, ready - self.span("target_prefill").end)

    @property
    def with_proxy(self) -> bool:
        """Whether the proxy's side took part."""
        return bool(self._proxy_spans())

    def overlap(self) -> float:
        """Seconds in which the target prefilled while the proxy's side was at work."""
        target = self.span("target_prefill")
        return sum(
            max(0.0, min(s.end, target.end) - max(s.start, target.start))
            for s in self._proxy_spans()
        )

    def record(self) -> list[dict[str, Any]]:
        """The spans in order of their starts, for JSON."""
        return [asdict(span) for span in sorted(self.spans, key=lambda s: s.start)]

    def _proxy_spans(self) -> list[Span]:
        return [s for s in self.spans if s.phase in ("proxy_prefill", "proxy_scoring", "mapper")]
