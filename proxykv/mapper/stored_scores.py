"""Stored scores of the training contexts: read them, and fit a mapper's statistics to them."""

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
"""From a context's score file to the scores that a fitted method predicts, and the target's."""

LoadContext = Callable[..., tuple[Tensor, Tensor]]
"""Reads a module's input and the target's scores from a score file: `load_scores`, or a function
with the same arguments."""

CALIBRATION_TOKENS = 512
"""Most tokens of a context, evenly spaced, that the quantile calibration is learned from."""


def load_scores(
    path: Path,
    signal: str = "kvzip",
    device: str | torch.device = "cpu",
    crop: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "proxy_layer proxy_head token"], Float[Tensor, "layer kv_head token"]]:
    """Read the proxy's and the target's scores of the same tokens of a context.

    Args:
        path: the context's score file.
        signal: which of the proxy's scores to read (see `proxykv.config.settings.signals`).
        device: where to put them.
        crop: most tokens to read; of a longer context, a random window.
        generator: draws the window.

    Returns:
        The proxy's scores and the target's, float32.

    Raises:
        ConfigError: if the file holds no such scores.
    """
    of_proxy = signal_file(path, signal)
    if path.is_file() and not of_proxy.is_file():
        raise ConfigError(f"{of_proxy}: missing; the proxy's signal {signal!r} is not extracted")
    with tensor_file.opened(path) as stored, tensor_file.opened(of_proxy) as stored_signal:
        proxy, target = stored_signal.get_slice("proxy"), stored.get_slice("target")
        tokens = window(target.get_shape()[-1], crop, generator)
        parts = [scores[:, :, tokens].to(device).float() for scores in (proxy, target)]
    return parts[0], parts[1]


def signal_file(scores: Path, signal: str) -> Path:
    """File of the proxy's scores that belongs to a context's score file.

    KVzip scores are in the score file itself. Every other signal has a file next to it, so that a
    method with a new signal changes no file that other methods are fitted on.

    Args:
        scores: the context's score file.
        signal: name of the signal.
    """
    return scores if signal == "kvzip" else scores.with_suffix(f".{signal}.safetensors")


def initial_mapper(
    files: Sequence[Path], settings: Mapping[str, Any], signal: str = "kvzip"
) -> Mapper:
    """Make a mapper with the shape, the input statistics and the mean logits of stored scores.

    Args:
        files: score files of the training contexts.
        settings: those of `MapperSettings` that differ from their defaults.
        signal: which of the proxy's scores the mapper reads.

    Raises:
        ConfigError: for a file whose scores leave [0, 1] or have another shape.
    """
    mapper: Mapper | None = None
    sums: list[Tensor] = []
    tokens = 0
    for path in files:
        proxy, target = _checked_scores(path, signal)
        (proxy_layers, proxy_heads, _), (layers, heads, _) = proxy.shape, target.shape
        shape = MapperConfig(proxy_layers, proxy_heads, layers, heads, **settings)
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
    mapper.set_statistics(mean, (square - mean.square()).clamp_min(0).sqrt(), logit)
    return mapper


def _checked_scores(path: Path, signal: str) -> tuple[Tensor, Tensor]:
    proxy, target = load_scores(path, signal)
    for name, scores in (("proxy", proxy), ("target", target)):
        if not bool(((scores >= 0) & (scores <= 1)).all()):
            raise ConfigError(f"{path}: {name} scores leave [0, 1]; extract them again")
    return proxy, target


def calibrate_quantiles(
    module: Any, files: Sequence[Path], load: LoadContext, signal: str, device: torch.device
) -> None:
    """Let a module's `calibration` learn the distribution of each head's true logits.

    Args:
        module: a mapper, or a module with `score` and `calibration`, not calibrated yet.
        files: score files of the training contexts, which all count alike.
        load: reads the module's input and the target's scores from a file.
        signal: the kind of input that `load` reads.
        device: where the module is.
    """
    pairs = []
    for path in files:
        features, target = load(path, signal, device)
        logits = module.score(features)
        stride = -(-logits.shape[-1] // CALIBRATION_TOKENS)
        pairs.append([t[..., ::stride].flatten(0, 1) for t in (logits, target.logit(eps=1e-6))])
    predicted, true = (torch.cat(parts, dim=-1) for parts in zip(*pairs, strict=True))
    module.calibration.learn(predicted, true)
