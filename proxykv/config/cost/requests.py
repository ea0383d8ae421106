"""Seconds of a request with each signal of the proxy, computed, for `proxykv check`.

The same cost model as the estimated hours (docs/explanation/cost.md): nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxykv.config.cost.operations import Operations
from proxykv.config.cost.speed import Device
from proxykv.config.settings.signals import Signal

LENGTHS = (4096, 16384, 65536, 131072)
SIGNALS = (Signal(), Signal("local"), Signal("windowed"), Signal("prefill"))
HEADS = (
    "tokens",
    "signal",
    "prefill",
    "proxy",
    "mapper",
    "one device",
    "two devices",
    "KVzip",
    "kvzip_local",
    "largest proxy",
)


@dataclass(frozen=True)
class RequestCost:
    """A request of n tokens whose target and proxy run on one kind of device.

    Attributes:
        prefill: seconds of the target's prefill.
        proxy: seconds of the proxy's prefill and signal.
        mapper: seconds of the mapper.
        kvzip: seconds of the target's replay.
        kvzip_local: seconds of the target's local replay.
    """

    prefill: float
    proxy: float
    mapper: float
    kvzip: float
    kvzip_local: float

    @property
    def sequential(self) -> float:
        """Seconds of ProxyKV over those of the prefill, on one device."""
        return (self.prefill + self.proxy + self.mapper) / self.prefill

    @property
    def parallel(self) -> float:
        """The same where the proxy is on another device."""
        return max(self.prefill, self.proxy + self.mapper) / self.prefill

    @property
    def room(self) -> float:
        """How many times larger the proxy may be and still end with the target's prefill."""
        return max(0.0, self.prefill - self.mapper) / self.proxy


def request(cost: Operations, signal: Signal, n: int, device: Device) -> RequestCost:
    """What a request takes.

    Args:
        cost: of the family.
        signal: of the proxy.
        n: tokens of the context.
        device: of target and proxy.
    """
    target = cost.target
    return RequestCost(
        prefill=target.prefill(n, device),
        proxy=cost.signal(signal, n, device),
        mapper=cost.mapping(n, device),
        kvzip=target.replay(n, device),
        kvzip_local=target.replay(n, device, local=True),
    )


def requests_table(cost: Operations, family: str, longest: int, device: Device) -> Iterator[str]:
    """A line for each length that the family may see and each signal.

    Args:
        cost: of the family.
        family: its name.
        longest: tokens that the family may see.
        device: of target and proxy.
    """
    yield (
        f"  {family}, computed for: {device.name}. Seconds of a request; ProxyKV on one device or "
        "two, KVzip and kvzip_local over the target's prefill; parameters of the largest proxy "
        "that is ready when the target is"
    )
    yield _line(HEADS)
    for n in LENGTHS:
        for signal in SIGNALS if n <= longest else ():
            found = request(cost, signal, n, device)
            ratios = (
                found.sequential,
                found.parallel,
                1 + found.kvzip / found.prefill,
                1 + found.kvzip_local / found.prefill,
            )
            seconds = found.prefill, found.proxy, found.mapper
            yield _line(
                (
                    f"{n}",
                    signal.name,
                    *(f"{value:.3g}" for value in seconds),
                    *(f"{value:.2f} x" for value in ratios),
                    f"{found.room * cost.proxy.parameters / 1e9:.2g} B",
                )
            )


def _line(cells: tuple[str, ...]) -> str:
    return aligned(cells, [max(len(head), 8) for head in HEADS])


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table whose cells end below each other.

    Args:
        cells: of the line.
        widths: of the columns.
    """
    return "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
