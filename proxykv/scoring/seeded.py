"""Draws that are the same every time."""

from __future__ import annotations

from hashlib import sha256

import torch


def generator(seed: str) -> torch.Generator:
    """A generator on the CPU, seeded by a text."""
    return torch.Generator().manual_seed(int.from_bytes(sha256(seed.encode()).digest()[:7]))


def window(tokens: int, crop: int | None, draws: torch.Generator | None) -> slice:
    """A random stretch of `crop` tokens; all of them, without a draw, if there are no more."""
    if crop is None or tokens <= crop:
        return slice(None)
    start = int(torch.randint(tokens - crop + 1, (), generator=draws))
    return slice(start, start + crop)
