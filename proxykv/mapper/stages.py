"""Shape of a mapper, and the three stages of the HybridAxialMapper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from proxykv.config.settings.training import MapperSettings


@dataclass(frozen=True)
class MapperConfig(MapperSettings):
    """A mapper's settings and the shape that the pair's models give it.

    Attributes:
        proxy_layers: layers of the proxy.
        proxy_heads: KV heads of each layer of the proxy.
        layers: layers of the target.
        heads: KV heads of each layer of the target.
    """

    proxy_layers: int
    proxy_heads: int
    layers: int
    heads: int

    @property
    def proxy_channels(self) -> int:
        """Number of the proxy's KV heads in all layers, C_p."""
        return self.proxy_layers * self.proxy_heads

    @property
    def target_channels(self) -> int:
        """Number of the target's KV heads in all layers."""
        return self.layers * self.heads


class ConvStage(nn.Module):
    """Depth-wise separable convolutions along tokens, with the same weights for all proxy heads.

    A learned embedding tells the heads apart.

    Attributes:
        reach: tokens on either side that a token's features depend on.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        f, kernel = config.conv_channels, config.kernel if config.conv else 1
        self.reach = config.conv_blocks * (kernel // 2)
        self.lift = nn.Parameter(torch.randn(f))
        self.embedding = nn.Parameter(torch.randn(config.proxy_channels, f))
        self.depthwise = nn.ModuleList(
            nn.Conv1d(f, f, kernel, padding=kernel // 2, groups=f)
            for _ in range(config.conv_blocks)
        )
        self.pointwise = nn.ModuleList(nn.Conv1d(f, f, 1) for _ in range(config.conv_blocks))

    def forward(self, x: Float[Tensor, "token proxy"]) -> Float[Tensor, "token proxy f"]:
        """Compute `f` features of every proxy head at every token from its normalised score."""
        h = x.T[:, None] * self.lift[:, None] + self.embedding[:, :, None]
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            h = h + pointwise(F.gelu(depthwise(h)))
        return h.permute(2, 0, 1)


class TimeStage(nn.Module):
    """Context encoder: dilated convolutions along tokens over the features of all proxy heads.

    Linear in the number of tokens.

    Attributes:
        reach: tokens on either side that a token's context vector depends on.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        w = config.time_width
        self.reach = sum(config.time_dilations)
        self.dropout = nn.Dropout(config.dropout)
        self.inward = nn.Linear(config.proxy_channels * config.conv_channels, w)
        self.norms = nn.ModuleList(nn.LayerNorm(w) for _ in config.time_dilations)
        self.convs = nn.ModuleList(
            nn.Conv1d(w, w, 3, padding=d, dilation=d) for d in config.time_dilations
        )
        self.mixes = nn.ModuleList(nn.Linear(w, w) for _ in config.time_dilations)
        self.outward = nn.LayerNorm(w)

    def forward(self, features: Float[Tensor, "token proxy f"]) -> Float[Tensor, "token w"]:
        """Compute a context vector of width `w` for every token."""
        h = self.inward(self.dropout(features.flatten(1)))
        for norm, conv, mix in zip(self.norms, self.convs, self.mixes, strict=True):
            h = h + mix(F.gelu(conv(norm(h).T).T))
        return self.dropout(self.outward(h))


class HeadStage(nn.Module):
    """Cross-attention: at each token, a learned query of each target head reads the proxy heads."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        f, d, targets = config.conv_channels, config.width, config.target_channels
        self.attends, self.attention_heads = config.head, config.attention_heads
        self.norm = nn.LayerNorm(f)
        self.value = nn.Linear(f, d)
        if config.head:
            self.key = nn.Linear(f, d)
            self.query = nn.Parameter(torch.randn(targets, d))
        else:
            self.mix = nn.Parameter(torch.zeros(targets, config.proxy_channels))
        self.context = nn.Linear(config.time_width, d) if config.time else None
        self.direct = nn.Linear(config.time_width, targets, bias=False) if config.time else None
        self.inner = nn.Linear(d, d)
        self.out = nn.Parameter(torch.randn(targets, d) * 0.1 * d**-0.5)

    def forward(
        self, features: Float[Tensor, "token proxy f"], context: Float[Tensor, "token w"] | None
    ) -> Float[Tensor, "token target"]:
        """Compute the logits of the target's heads, before the bias.

        Args:
            features: of the first stage.
            context: of the second stage; None without one.
        """
        features = self.norm(features)
        value = self.value(features)
        z = self._attend(features, value) if self.attends else self.mix.softmax(1) @ value
        if context is None or self.context is None or self.direct is None:
            return (F.gelu(self.inner(z)) * self.out).sum(-1)
        z = F.gelu(self.inner(z) + self.context(context)[:, None])
        return (z * self.out).sum(-1) + self.direct(context)

    def _attend(
        self, features: Float[Tensor, "token proxy f"], value: Float[Tensor, "token proxy d"]
    ) -> Float[Tensor, "token target d"]:
        a = self.attention_heads
        n = len(features)
        key, value = (t.unflatten(-1, (a, -1)).transpose(1, 2) for t in (self.key(features), value))
        query = self.query.unflatten(-1, (a, -1)).transpose(0, 1).expand(n, -1, -1, -1)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
