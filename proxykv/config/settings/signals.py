"""Signals: what a mapper, or a rival without one, reads from the proxy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

CHUNK = 2000
"""Context tokens that a replay repeats at a time (KVzip, arXiv 2505.23416)."""

Kind = Literal["kvzip", "local", "windowed", "prefill"]

SETTINGS = {
    "signal": "kind",
    "signal_chunk": "chunk",
    "signal_overlap": "overlap",
    "proxy_layers": "layers",
}
"""Settings of a method, and the attributes of its signal that they give."""


@dataclass(frozen=True, order=True)
class Signal:
    """Scores that the proxy gives its own KV pairs.

    Attributes:
        kind: `kvzip`: prefill and replay over the whole context; `local`: a replay attends to its
            chunk alone; `windowed`: the prefill, too, sees only a window, so that the proxy's cost
            is linear in the context; `prefill`: attention of the prefill, without a replay.
        chunk: context tokens of a replay, or of a window.
        overlap: tokens before a window that its prefill sees as well.
        layers: share of the proxy's layers that run, from the first one on.
    """

    kind: Kind = "kvzip"
    chunk: int = CHUNK
    overlap: int = 0
    layers: float = 1.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Signal:
        """The signal that settings of training name (see `TrainingSettings`)."""
        return cls(**{SETTINGS[name]: v for name, v in settings.items() if name in SETTINGS})

    @property
    def name(self) -> str:
        """What files and timelines call it: the kind, and what differs from the defaults."""
        standard = Signal(self.kind)
        parts: list[str] = [self.kind]
        if self.chunk != standard.chunk:
            parts.append(f"chunk{self.chunk}")
        if self.overlap != standard.overlap:
            parts.append(f"overlap{self.overlap}")
        if self.layers != standard.layers:
            parts.append(f"layers{self.layers:g}")
        return "_".join(parts)

    @property
    def prefilled(self) -> str | None:
        """Which prefill of the whole context it reads; None if it reads none."""
        return None if self.kind == "windowed" else f"layers{self.layers:g}"


def stored_signals(
    fitted: Iterable[Mapping[str, Any]], training: Mapping[str, Any]
) -> tuple[Signal, ...]:
    """Signals of the training contexts that a run stores besides the proxy's KVzip scores.

    Args:
        fitted: parameters of the methods that are fitted; a method without a signal
            reads the one that `training` names, or the proxy's KVzip scores.
        training: the config's section.

    Returns:
        The signals, in order.
    """
    named = {Signal.of({**training, **parameters}) for parameters in fitted}
    return tuple(sorted(named - {Signal()}))
