"""ProxyKV: a small model of the family scores the large one's cache (arXiv 2605.16360)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.mapper.hybrid import load_mapper
from proxykv.mapper.stored_scores import Predictor, load_scores
from proxykv.mapper.training import TrainConfig, train_mapper
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Features, Scores
from proxykv.scoring.contract import Bench

VARIANTS = {
    "proxykv": {"scope": "global", "artefact": "proxykv"},
    "proxykv_head": {"scope": "head", "artefact": "proxykv"},
    "proxykv_shuffled": {
        "scope": "global",
        "artefact": "proxykv",
        "params": {"shuffled": True},
    },
}


class ProxyKV:
    """The proxy's own KVzip scores, mapped to the target's layers and heads."""

    def __init__(
        self, bench: Bench, artefact: Path, shuffled: bool = False, **fitting: Any
    ) -> None:
        """`artefact`: a trained mapper; `fitting`: what it was trained with (see `fit`).

        `shuffled` is a control: the mapper sees the proxy's scores of another context.
        """
        self.proxy, self.shuffled = bench.proxy, shuffled
        self.mapper, card = load_mapper(artefact, expected=bench.pair)
        self.key = ("proxykv", card["weights_sha256"], shuffled)
        self.features: str = card["training"]["features"]
        self.ahead = not shuffled and self.features == "kvzip"

    def score(self, prefill: Prefill) -> Scores:
        """The mapper's logits, which rank as its estimates of the target's KVzip scores do."""
        return prefill.once(self.key, lambda: self._score(prefill))

    def map(self, proxy_scores: Features) -> Scores:
        """The mapper's logits, computed where the proxy's scores are."""
        return self.mapper.to(proxy_scores.device).score(proxy_scores)

    def _score(self, prefill: Prefill) -> Scores:
        if not self.shuffled:
            seen = self.proxy.scores(prefill, prefill.input_ids, self.features)
        else:
            if prefill.donor is None:
                raise ValueError("proxykv_shuffled needs a second context in its task")
            others = self.proxy.scores(prefill, prefill.donor, self.features)
            seen = _wrapped(others, prefill.shape[2])
        return self.map(seen).to(prefill.input_ids.device)


def fit(
    files: Sequence[Path], out: Path, params: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Train a mapper on stored scores; `params`, but for `shuffled`, are fields of TrainConfig."""
    training = {name: value for name, value in params.items() if name != "shuffled"}
    train_mapper(files, out, TrainConfig(**training), identity)


def predictor(folder: Path, params: Mapping[str, Any]) -> Predictor:
    """The mapper's logits of a stored context."""
    mapper, card = load_mapper(folder)

    def predict(path: Path) -> tuple[Scores, Scores]:
        seen, target = load_scores(path, card["training"]["features"])
        return mapper.score(seen), target

    return predict


def _wrapped(features: Float[Tensor, "layer kv_head token"], n: int) -> Tensor:
    """Cut or repeat along tokens to a length of n."""
    index = torch.arange(n, device=features.device) % features.shape[-1]
    return features[..., index]


METHOD = ProxyKV
