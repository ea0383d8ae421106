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
from proxykv.mapper.fitted import load_fitted, save_fitted
from proxykv.mapper.stages import ConvStage, HeadStage, MapperConfig, TimeStage
from proxykv.model.parallel import check

# Closer to 0 a KVzip score says "never attended", closer to 1 "always": there, all is noise.
EPS = 1e-4


class Mapper(nn.Module):
    """What every mapper shares: normalised features in, per-head bias, scoring in blocks.

    A subclass defines `channels` (features to logits) and, where it looks around, `halo`.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.proxy_channels))
        self.register_buffer("std", torch.ones(config.proxy_channels))
        self.bias = nn.Parameter(torch.zeros(config.target_channels))
        self.calibration = QuantileCalibration(config.target_channels)

    @property
    def halo(self) -> int:
        """Tokens on either side that a token's logits depend on."""
        return 0

    def channels(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token target"]:
        """Logits before the per-head bias, from normalised features."""
        raise NotImplementedError

    @staticmethod
    def logit_features(
        proxy_scores: Float[Tensor, "proxy_layer proxy_head token"],
    ) -> Float[Tensor, "token proxy"]:
        """log(S + ε) - log(1 - S + ε), before normalisation.

        The first term alone cannot tell scores near 1 apart. In heads that attend to most tokens
        these are what a small budget has to choose among.
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
        """Set the input normalisation, and start every target head at its mean training logit."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("std").copy_(std.clamp_min(1e-3))
        self.bias.copy_(mean_logit)

    def forward(
        self, proxy_scores: Float[Tensor, "proxy_layer proxy_head token"]
    ) -> Float[Tensor, "layer kv_head token"]:
        """Logits of the target's scores; their estimate is Ŷ = σ(logits).

        `proxy_scores` are the proxy's KVzip scores in [0, 1], float32.
        """
        config = self.config
        x = (self.logit_features(proxy_scores) - self.get_buffer("mean")) / self.get_buffer("std")
        logits = self.channels(x) + self.bias
        return logits.T.reshape(config.layers, config.heads, -1)

    @torch.no_grad()
    def score(
        self, proxy_scores: Float[Tensor, "proxy_layer proxy_head token"], block: int = 1024
    ) -> Float[Tensor, "layer kv_head token"]:
        """Scores of the whole context: matched logits, float32 and finite, on the mapper's device.

        Ranking by logits is ranking by Ŷ = σ(logits), without the ties of a saturated sigmoid.
        Works on `block` tokens at a time plus a halo as wide as the receptive field, so the
        blocks join exactly (to the rounding of a matrix product) and memory stays bounded.
        Raises ValueError for scores of another shape than the mapper's proxy, or not finite.
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
            piece = proxy_scores[..., left : stop + self.halo].to(out.device, torch.float32)
            logits = self(piece)[..., start - left : stop - left]
            out[..., start:stop] = self.calibration(logits.flatten(0, 1)).view_as(logits)
        return out


class LinearMapper(Mapper):
    """Control: a per-token linear map from all proxy heads' features to all target heads."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        self.map = nn.Linear(config.proxy_channels, config.target_channels, bias=False)
        nn.init.zeros_(self.map.weight)

    def channels(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token target"]:
        """One matrix."""
        return self.map(x)


class HybridAxialMapper(Mapper):
    """Convolution along tokens, context encoder along tokens, cross-attention over proxy heads.

    The paper (arXiv 2605.16360) names the three stages and leaves their widths open; the ones
    here are this project's. Without `conv` the first stage sees one token at a time, without
    `time` no context is encoded, without `head` each target head mixes proxy heads with fixed
    learned weights in place of attention that depends on the token.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        self.conv = ConvStage(config)
        self.time = TimeStage(config) if config.time else None
        self.head = HeadStage(config)

    @property
    def halo(self) -> int:
        """Receptive field of both token-wise stages."""
        return self.conv.reach + (self.time.reach if self.time else 0)

    def channels(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token target"]:
        """Three stages."""
        features = self.conv(x)
        context = self.time(features) if self.time else None
        return self.head(features, context)


def build_mapper(config: MapperConfig) -> Mapper:
    """A fresh mapper of the configured variant, initialised from torch's global generator."""
    return LinearMapper(config) if config.variant == "linear" else HybridAxialMapper(config)


def save_mapper(folder: Path, mapper: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write a mapper, or a module alike, and its card with its `config`; see `save_fitted`."""
    return save_fitted(folder, mapper.state_dict(), {**card, "mapper": asdict(mapper.config)})


def load_mapper(
    folder: Path, device: str | torch.device = "cpu", expected: Mapping[str, str] | None = None
) -> tuple[Mapper, dict[str, Any]]:
    """Read what `save_mapper` wrote: the mapper in evaluation mode, and its card.

    Raises ConfigError for another pair's mapper and for a damaged folder; see `load_fitted`.
    """
    weights, card = load_fitted(folder, expected)
    mapper = build_mapper(MapperConfig(**card["mapper"]))
    mapper.load_state_dict(weights)
    return mapper.to(device).eval(), card
