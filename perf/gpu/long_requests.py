"""The longest requests, which come last because they take long."""

from __future__ import annotations

from collections.abc import Iterator

from perf.gpu import whole_requests
from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure requests at 128k, as `whole_requests` does shorter ones.

    Args:
        sizes: how large the cases are.
    """
    yield from whole_requests.measure(sizes, ("128k",))
