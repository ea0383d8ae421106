"""NLL and KL of many rows along one reference answer, in tiles of vocabulary-wide logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from proxykv.kernels.attention import blocks

ROWS = {"cpu": 1}
"""Rows at a time: on a CPU, more make no product faster."""

TILE_ELEMENTS = 1 << 25
"""Logits at a time (128 MiB in float32); a tile holds a token of a row at least."""

TILE_COPIES = 5
"""Tensors of a tile's size that exist at a time, those of the full cache included."""


class Likelihoods(NamedTuple):
    """What rows think of a reference answer, in float32.

    Attributes:
        nll: mean negative log-likelihood of the reference's tokens, in nats.
        kl: mean KL(full cache || row) of the next-token distributions, in nats.
    """

    nll: Float[Tensor, " row"]
    kl: Float[Tensor, " row"]


def likelihoods(
    logits: Callable[[Tensor], Tensor],
    reference: Int[Tensor, " token"],
    hidden: Float[Tensor, "row token+1 width"],
    vocabulary: int,
    full: Float[Tensor, "token+1 width"] | None = None,
) -> Likelihoods:
    """Compare rows with a reference, and with the full cache along it.

    Args:
        logits: the LM head, from hidden states to float32.
        reference: ids of the reference answer, at least one.
        hidden: last hidden states after the question and after each token of the reference.
        vocabulary: width of the logits.
        full: hidden states of the full cache; without them, the first row is the full cache's.
    """
    rows, tokens = len(hidden), len(reference)
    nll, kl = (torch.empty(rows, tokens, device=hidden.device) for _ in range(2))
    for at in blocks(0, tokens, max(1, TILE_ELEMENTS // vocabulary - 1)):
        fitting = max(1, TILE_ELEMENTS // (vocabulary * (at.stop + 1 - at.start)))
        log_full = None if full is None else _log_p(logits, full, at)
        for part in blocks(0, rows, ROWS.get(hidden.device.type, fitting)):
            log_p = _log_p(logits, hidden[part], at)
            log_full = log_p[0] if log_full is None else log_full
            expected = reference[at].expand(log_p.shape[:2])[..., None]
            nll[part, at] = -log_p.gather(-1, expected)[..., 0]
            kl[part, at] = log_full.sub(log_p).mul_(log_full.exp()).sum(dim=-1)
    return Likelihoods(nll.mean(dim=1), kl.mean(dim=1))


def tile_bytes(tokens: int, vocabulary: int, device: torch.device) -> int:
    """Bytes of the largest tile, float32.

    Args:
        tokens: of a reference.
        vocabulary: width of the logits.
        device: where it is.
    """
    row = vocabulary * (1 + min(tokens, max(1, TILE_ELEMENTS // vocabulary)))
    return 4 * (row if device.type in ROWS else max(row, TILE_ELEMENTS))


def _log_p(logits: Callable[[Tensor], Tensor], hidden: Tensor, at: slice) -> Tensor:
    """Log-probabilities of the tokens after `at`.

    The product takes one token more: its rounding depends on its shape, which stays what it was.
    """
    return logits(hidden[..., at.start : at.stop + 1, :])[..., :-1, :].log_softmax(dim=-1)
