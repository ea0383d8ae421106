"""HybridAxialMapper: a proxy's KVzip scores to target-shaped scores, and its folder on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from proxykv.mapper.calibration import QuantileCalibration
from proxykv.mapper.fitted import fill, load_fitted, save_fitted
from proxykv.mapper.stages import ConvStage, HeadStage, MapperConfig, TimeStage
from proxykv.model.parallel import check
from proxykv.runtime.errors import ConfigError

EPS = 1e-4
"""Distance from 0 or 1 within which differences between KVzip scores are noise."""


class Mapper(nn.Module):
    """What every mapper shares: normalised features, a bias for each head, scoring in blocks.

    A subclass defines `channels` (features to logits) and, if a token's logits depend on its
    neighbours, `halo`.
    """

    def __init__(self, config: MapperConfig) -> None:
        """Make a mapper that passes features through without normalisation.

        Args:
            config: settings of the mapper, and the shapes of the pair.
        """
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.proxy_channels))
        self.register_buffer("std", torch.ones(config.proxy_channels))
        self.bias = nn.Parameter(torch.zeros(config.target_channels))
        self.calibration = QuantileCalibration(config.target_channels)

    @property
    def halo(self) -> int:
        """Number of tokens on either side that a token's logits depend on."""
        return 0

    def channels(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token target"]:
        """Compute logits before the bias.

        Args:
            x: normalised features of the proxy's heads.

        Returns:
            Logits of the target's heads.
        """
        raise NotImplementedError

    @staticmethod
    def logit_features(
        proxy_scores: Float[Tensor, "proxy_layer proxy_head token"],
    ) -> Float[Tensor, "token proxy"]:
        """Compute log(S + ε) − log(1 − S + ε), before normalisation.

        The first term alone cannot tell scores near 1 apart. In heads that attend to most tokens,
        a small budget has to choose among these.

        Args:
            proxy_scores: the proxy's KVzip scores S in [0, 1], float32.
        """
        scores = proxy_scores.flatten(0, 1).T
        return (scores + EPS).log() - (1 - scores + EPS).log()

    @torch.no_grad()
    def set_statistics(
        self,
        mean: Float[Tensor, " proxy"],
        std: Float[Tensor, " proxy"],
        mean_logit: Float[Tensor, " target"],
    ) -> None:
        """Set the normalisation of the input, and start each target head at its mean logit.

        Args:
            mean: of the features, for each proxy head, over all training tokens.
            std: standard deviation of the same features.
            mean_logit: of the true scores, for each target head, over all training tokens.
        """
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("std").copy_(std.clamp_min(1e-3))
        self.bias.copy_(mean_logit)

    def forward(
        self, proxy_scores: Float[Tensor, "proxy_layer proxy_head token"]
    ) -> Float[Tensor, "layer kv_head token"]:
        """Predict logits of the target's scores; the predicted scores are Ŷ = σ(logits).

        Args:
            proxy_scores: the proxy's KVzip scores in [0, 1], float32.

        Returns:
            Logits before the quantile calibration.
        """
        config = self.config
        x = (self.logit_features(proxy_scores) - self.get_buffer("mean")) / self.get_buffer("std")
        logits = self.channels(x) + self.bias
        return logits.T.reshape(config.layers, config.heads, -1)

    @torch.no_grad()
    def score(
        self, proxy_scores: Float[Tensor, "proxy_layer proxy_head token"], block: int = 1024
    ) -> Float[Tensor, "layer kv_head token"]:
        """Score a whole context, in blocks of tokens.

        Ranking by logits is ranking by Ŷ = σ(logits), without the ties of a saturated sigmoid.
        Each block is computed with a halo as wide as the receptive field: blocks join exactly (to
        the rounding of a matrix product), and memory is bounded.

        Args:
            proxy_scores: the proxy's KVzip scores in [0, 1].
            block: tokens that are scored at a time.

        Returns:
            Calibrated logits, float32 and finite, on the mapper's device.

        Raises:
            ValueError: for scores that are not finite or do not have the proxy's shape.
        """
        shape = (self.config.proxy_layers, self.config.proxy_heads)
        if tuple(proxy_scores.shape[:2]) != shape:
            raise ValueError(f"proxy scores of {tuple(proxy_scores.shape)}, expected {shape} heads")
        if not proxy_scores.isfinite().all():
            raise ValueError("proxy scores are not finite")
        n = proxy_scores.shape[-1]
        out = torch.empty(self.config.layers, self.config.heads, n, device=self.bias.device)
        for start in range(0, n, block):
            check()
            stop, left = min(start + block, n), max(start - self.halo, 0)
            window = proxy_scores[..., left : stop + self.halo].to(out.device, torch.float32)
            logits = self(window)[..., start - left : stop - left]
            out[..., start:stop] = self.calibration(logits.flatten(0, 1)).view_as(logits)
        return out


class LinearMapper(Mapper):
    """Control: a per-token linear map from all proxy heads' features to all target heads."""

    def __init__(self, config: MapperConfig) -> None:
        """Start with zeros: the first logits are the mean logits of each head."""
        super().__init__(config)
        self.map = nn.Linear(config.proxy_channels, config.target_channels, bias=False)
        nn.init.zeros_(self.map.weight)

    def channels(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token target"]:
        """Multiply with one matrix (see `Mapper.channels`)."""
        return self.map(x)


class HybridAxialMapper(Mapper):
    """Convolution along tokens, context encoder along tokens, cross-attention over proxy heads.

    The paper (arXiv 2605.16360) names the three stages and leaves their widths open; the widths
    here are this project's. Three ablations: without `conv` the first stage sees one token at a
    time; without `time` there is no context encoder; without `head` each target head mixes the
    proxy's heads with fixed learned weights, the same for every token.
    """

    def __init__(self, config: MapperConfig) -> None:
        """Initialise the stages from torch's global generator."""
        super().__init__(config)
        self.conv = ConvStage(config)
        self.time = TimeStage(config) if config.time else None
        self.head = HeadStage(config)

    @property
    def halo(self) -> int:
        """Number of tokens on either side that the two stages along tokens see."""
        return self.conv.reach + (self.time.reach if self.time else 0)

    def channels(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token target"]:
        """Apply the three stages (see `Mapper.channels`)."""
        features = self.conv(x)
        context = self.time(features) if self.time else None
        return self.head(features, context)


def build_mapper(config: MapperConfig) -> Mapper:
    """Make an untrained mapper of the configured variant, from torch's global generator."""
    return LinearMapper(config) if config.variant == "linear" else HybridAxialMapper(config)


def save_mapper(folder: Path, mapper: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write a mapper and its card.

    Args:
        folder: where to write.
        mapper: the mapper, or another module with a `config` that is a dataclass.
        card: what it was fitted on and how (see `save_fitted`); the `config` is added as `mapper`.

    Returns:
        The card as it was written.
    """
    return save_fitted(folder, mapper.state_dict(), {**card, "mapper": asdict(mapper.config)})


def load_mapper(
    folder: Path, device: str | torch.device = "cpu", expected: Mapping[str, str] | None = None
) -> tuple[Mapper, dict[str, Any]]:
    """Read what `save_mapper` wrote.

    Args:
        folder: of the mapper.
        device: where to put it.
        expected: card entries that must agree (see `load_fitted`).

    Returns:
        The mapper, in evaluation mode, and its card.

    Raises:
        ConfigError: for the mapper of another pair, another method's folder, or a damaged one.
    """
    weights, card = load_fitted(folder, expected)
    try:
        mapper = build_mapper(MapperConfig(**card["mapper"]))
    except (KeyError, RuntimeError, TypeError) as error:
        raise ConfigError(f"{folder}: not a mapper; give that of a fitted `proxykv`") from error
    fill(mapper, weights, folder)
    return mapper.to(device).eval(), card
