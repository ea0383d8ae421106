"""Quantile calibration: give each head's logits the distribution of its true logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEVELS = 129
"""Quantiles of a head's logits that are mapped to those of its true logits."""
TIE = 1e-3
"""Share of the predicted logit that is added to the true one, to order tokens whose true scores
are equal."""
STEP = 1e-5
"""Least distance between two quantiles of the predicted logits: with none there is no slope."""

_ALL = slice(None)


class QuantileCalibration(nn.Module):
    """A monotonic, piecewise linear map for each head; the identity until `learn` is called.

    A regression that is unsure predicts close to the mean. A head that is hard to predict then has
    too few scores at the top and gets too little of a small global budget.
    """

    def __init__(self, heads: int) -> None:
        """Make the identity.

        Args:
            heads: KV heads of all layers together.
        """
        super().__init__()
        levels = torch.linspace(-1, 1, LEVELS).repeat(heads, 1)
        self.register_buffer("predicted_levels", levels)
        self.register_buffer("true_levels", levels.clone())

    @torch.no_grad()
    def learn(
        self, predicted: Float[Tensor, "head token"], true: Float[Tensor, "head token"]
    ) -> None:
        """Set the map that gives `predicted` the distribution of `true`, head by head.

        Args:
            predicted: logits before calibration.
            true: logits of the true scores of the same tokens.
        """
        predicted_levels = _quantiles(predicted)
        predicted_levels += torch.arange(LEVELS, device=predicted.device) * STEP
        self.get_buffer("predicted_levels").copy_(predicted_levels)
        self.get_buffer("true_levels").copy_(_quantiles(true) + TIE * predicted_levels)

    def forward(
        self, logits: Float[Tensor, "head token"], heads: slice = _ALL
    ) -> Float[Tensor, "head token"]:
        """Map logits; beyond the lowest and the highest quantile the slope is 1.

        Args:
            logits: of some heads.
            heads: which of all heads these are.
        """
        predicted = self.get_buffer("predicted_levels")[heads]
        true = self.get_buffer("true_levels")[heads]
        inside = logits.clamp(predicted[:, :1], predicted[:, -1:])
        upper = torch.searchsorted(predicted, inside.contiguous()).clamp(1, LEVELS - 1)
        x0, x1 = predicted.gather(1, upper - 1), predicted.gather(1, upper)
        y0, y1 = true.gather(1, upper - 1), true.gather(1, upper)
        mapped = torch.lerp(y0, y1, (inside - x0) / (x1 - x0))
        return mapped + (logits - inside)


def _quantiles(logits: Float[Tensor, "head token"]) -> Float[Tensor, "head level"]:
    indices = torch.linspace(0, logits.shape[-1] - 1, LEVELS, device=logits.device)
    return logits.sort(dim=-1).values[:, indices.round().long()]
