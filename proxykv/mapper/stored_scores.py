"""Stored scores of the training contexts: read them, and start a mapper from their statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.mapper import tensor_file
from proxykv.mapper.hybrid import Mapper, build_mapper
from proxykv.mapper.stages import MapperConfig
from proxykv.model.tensors import Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.seeded import window

Predictor = Callable[[Path], tuple[Scores, Scores]]
"""From a stored context to the scores that a fitted method gives its tokens, and the target's."""

Load = Callable[..., tuple[Tensor, Tensor]]
"""What a module sees of a file and the target's scores: `load_scores`, or alike."""

SAMPLE = 512
"""Tokens of a context, evenly spaced, that tell how scores are distributed."""


def load_scores(
    path: Path,
    signal: str = "kvzip",
    device: str | torch.device = "cpu",
    crop: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "proxy_layer proxy_head token"], Float[Tensor, "layer kv_head token"]]:
    """Proxy and target scores of one context, float32; a random window if longer than `crop`.

    `signal` says which of the proxy's scores. Raises ConfigError if the file has no such ones.
    """
    with tensor_file.opened(path) as stored:
        name = tensor_name(signal)
        if name not in stored.keys():  # noqa: SIM118  (not a mapping)
            raise ConfigError(f"{path}: holds no {signal!r} signal of the proxy")
        proxy, target = stored.get_slice(name), stored.get_slice("target")
        part = window(target.get_shape()[-1], crop, generator)
        pieces = [piece[:, :, part].to(device).float() for piece in (proxy, target)]
    return pieces[0], pieces[1]


def tensor_name(signal: str) -> str:
    """Name under which a score file holds the proxy's features; KVzip scores are plain `proxy`."""
    return "proxy" if signal == "kvzip" else f"proxy_{signal}"


def calibrated_mapper(
    files: Sequence[Path], overrides: Mapping[str, Any], signal: str = "kvzip"
) -> Mapper:
    """A fresh mapper with the shape, input normalisation and mean logits of the training scores.

    Raises ConfigError for a file whose scores are not in [0, 1] or have another shape.
    """
    mapper: Mapper | None = None
    sums: list[Tensor] = []
    tokens = 0
    for path in files:
        proxy, target = load_scores(path, signal)
        for name, scores in (("proxy", proxy), ("target", target)):
            if not bool(((scores >= 0) & (scores <= 1)).all()):
                raise ConfigError(f"{path}: {name} scores leave [0, 1]; extract them again")
        (proxy_layers, proxy_heads, _), (layers, heads, _) = proxy.shape, target.shape
        shape = MapperConfig(proxy_layers, proxy_heads, layers, heads, **overrides)
        if mapper is None:
            mapper = build_mapper(shape)
            channels = (shape.proxy_channels, shape.proxy_channels, shape.target_channels)
            sums = [torch.zeros(c, dtype=torch.float64) for c in channels]
        if shape != mapper.config:
            raise ConfigError(f"{path}: scores of another pair's shape; extract them again")
        x = mapper.logit_features(proxy).double()
        logit = target.flatten(0, 1).double().logit(eps=1e-3)
        for total, part in zip(sums, (x.sum(0), x.square().sum(0), logit.sum(1)), strict=True):
            total += part
        tokens += len(x)
    assert mapper is not None, "split_contexts leaves at least one training context"
    mean, square, logit = (total / tokens for total in sums)
    mapper.calibrate(mean, (square - mean.square()).clamp_min(0).sqrt(), logit)
    return mapper


def match_distributions(
    module: Any, files: Sequence[Path], load: Load, signal: str, device: torch.device
) -> None:
    """Let each head's scores be distributed over the contexts of `files` as its true ones are."""
    pairs = []
    for path in files:
        seen, target = load(path, signal, device)
        logits = module.score(seen)
        every = -(-logits.shape[-1] // SAMPLE)
        pairs.append([t[..., ::every].flatten(0, 1) for t in (logits, target.logit(eps=1e-6))])
    module.calibration.learn(*(torch.cat(parts, dim=-1) for parts in zip(*pairs, strict=True)))
