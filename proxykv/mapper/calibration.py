"""Give each head's logits, in their order, the distribution of its true ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEVELS = 129
"""Quantiles of a head's logits that are mapped to those of its true scores."""
TIE = 1e-3
"""Share of its logit that is added to a true score, to order those that tie."""

_ALL = slice(None)


class QuantileCalibration(nn.Module):
    """A monotonic map per head, the identity until `learn`.

    What a regression is unsure of it predicts too close to the mean, so a head that is hard to
    predict has too few scores at the top and gets too little of a small global budget.
    """

    def __init__(self, heads: int) -> None:
        """`heads`: all heads of all layers."""
        super().__init__()
        same = torch.linspace(-1, 1, LEVELS).repeat(heads, 1)
        self.register_buffer("seen", same)
        self.register_buffer("true", same.clone())

    @torch.no_grad()
    def learn(self, seen: Float[Tensor, "head token"], true: Float[Tensor, "head token"]) -> None:
        """From now on map each head's logits `seen` to the distribution of its logits `true`."""
        seen, true = _levels(seen), _levels(true)
        # Between two levels that are equal there would be no slope.
        seen = seen + torch.arange(LEVELS, device=seen.device) * 1e-5
        self.get_buffer("seen").copy_(seen)
        self.get_buffer("true").copy_(true + TIE * seen)

    def forward(
        self, logits: Float[Tensor, "head token"], heads: slice = _ALL
    ) -> Float[Tensor, "head token"]:
        """Piecewise linear between the levels and parallel to the diagonal beyond them.

        `heads` are those that the logits belong to.
        """
        seen, true = self.get_buffer("seen")[heads], self.get_buffer("true")[heads]
        inside = logits.clamp(seen[:, :1], seen[:, -1:])
        upper = torch.searchsorted(seen, inside.contiguous()).clamp(1, LEVELS - 1)
        x0, x1 = seen.gather(1, upper - 1), seen.gather(1, upper)
        y0, y1 = true.gather(1, upper - 1), true.gather(1, upper)
        mapped = torch.lerp(y0, y1, (inside - x0) / (x1 - x0))
        return mapped + (logits - inside)


def _levels(logits: Float[Tensor, "head token"]) -> Float[Tensor, "head level"]:
    places = torch.linspace(0, logits.shape[-1] - 1, LEVELS, device=logits.device)
    return logits.sort(dim=-1).values[:, places.round().long()]
