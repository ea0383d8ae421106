"""Random draws that a text or a generator determines."""

from __future__ import annotations

from hashlib import sha256

import torch


def generator(seed: str) -> torch.Generator:
    """Return a CPU generator that a text seeds."""
    return torch.Generator().manual_seed(int.from_bytes(sha256(seed.encode()).digest()[:7]))


def window(tokens: int, crop: int | None, draws: torch.Generator | None) -> slice:
    """Draw a random window of tokens; all tokens, without a draw, if there are no more than `crop`.

    Args:
        tokens: tokens of the context.
        crop: tokens of the window; None for all.
        draws: the generator.
    """
    if crop is None or tokens <= crop:
        return slice(None)
    start = int(torch.randint(tokens - crop + 1, (), generator=draws))
    return slice(start, start + crop)
