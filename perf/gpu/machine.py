"""The card's peaks, which limits are computed with."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from perf.gpu.rows import COPY, PRODUCTS, Row
from perf.gpu.sizes import Sizes
from perf.gpu.timing import device_seconds
from proxykv.model.devices import device_of


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure a large matrix product, and a copy of device memory (bytes read and written).

    Args:
        sizes: how large they are.
    """
    device, dtype = device_of("auto"), getattr(torch, sizes.dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    one, other = (
        torch.randn(sizes.square, sizes.square, device=device, dtype=dtype) for _ in range(2)
    )
    device_seconds(device, lambda: one @ other)
    spent = [device_seconds(device, lambda: one @ other) for _ in range(sizes.repeats)]
    rates = [2 * sizes.square**3 / each / 1e12 for each in spent]
    yield Row(PRODUCTS, "TFLOP/s", rates, note=f"{name}: {sizes.square}³, {sizes.dtype}")
    source, target = (torch.zeros(sizes.copied, dtype=torch.uint8, device=device) for _ in range(2))
    target.copy_(source)
    spent = [device_seconds(device, lambda: target.copy_(source)) for _ in range(sizes.repeats)]
    rates = [2 * sizes.copied / each / 1e12 for each in spent]
    yield Row(COPY, "TB/s", rates, note=f"{name}: {sizes.copied / 1e9:.1f} GB")
