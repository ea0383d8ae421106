"""ProxyKV: a small model of the family scores the large one's cache (arXiv 2605.16360)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.config.settings.signals import Signal
from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.hybrid import load_mapper
from proxykv.mapper.stored_scores import Predictor, load_scores
from proxykv.mapper.training.train import train_mapper
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import ProxySignal, Scores
from proxykv.scoring.contract import MethodContext

VARIANTS = {
    "proxykv": {"scope": "global", "fitted_id": "proxykv"},
    "proxykv_head": {"scope": "head", "fitted_id": "proxykv"},
    "proxykv_shuffled": {
        "scope": "global",
        "fitted_id": "proxykv",
        "params": {"shuffled": True},
        "donor": True,
    },
}
CARDS = {
    "proxykv": {
        "label": "ProxyKV",
        "role": "subject",
        "about": "the proxy's KVzip scores, mapped to the target's heads (arXiv 2605.16360)",
        "color": "#D55E00",
        "marker": "D",
        "cost": ["proxy", "mapper", "training"],
    },
    "proxykv_head": {
        "label": "ProxyKV, per head",
        "role": "baseline",
        "about": "ProxyKV's scores under the same budget for every head",
        "color": "#F4A582",
        "marker": "<",
        "cost": ["proxy", "mapper", "training"],
    },
    "proxykv_shuffled": {
        "label": "Shuffled proxy (control)",
        "role": "control",
        "about": "the mapper fed the proxy's scores of another context",
        "shows": "what the proxy knows of this context does not show in accuracy there",
        "color": "#7B4B2A",
        "marker": "p",
        "cost": ["proxy", "mapper", "training"],
    },
}


class ProxyKV:
    """Maps the proxy's KVzip scores to the target's layers and heads."""

    def __init__(
        self, context: MethodContext, fitted: Path, shuffled: bool = False, **fitting: Any
    ) -> None:
        """Load the mapper.

        Args:
            context: models and settings of the run.
            fitted: folder of a trained mapper.
            shuffled: a control: the mapper gets the proxy's scores of another context.
            fitting: settings of the training, which the mapper's card holds (see `fit`).

        Raises:
            ConfigError: if the mapper was trained for another pair.
        """
        self.proxy, self.ledger, self.shuffled = context.proxy, context.ledger, shuffled
        self.mapper, card = load_mapper(fitted, expected=context.pair)
        self.key = ("proxykv", card["weights_sha256"], shuffled)
        self.signal = Signal.of(card["training"])
        self.during_prefill = not shuffled

    def score(self, prefill: Prefill) -> Scores:
        """Predict the target's KVzip scores of a prefilled context, as calibrated logits."""
        return self.ledger.once(prefill, self.key, lambda: self._score(prefill))

    def map(self, proxy_scores: ProxySignal) -> Scores:
        """Map the proxy's scores to calibrated logits, on the device of the proxy's scores."""
        return self.mapper.to(proxy_scores.device).score(proxy_scores)

    def _score(self, prefill: Prefill) -> Scores:
        if not self.shuffled:
            proxy_scores = self.proxy.scores(prefill, prefill.input_ids, self.signal)
        else:
            if prefill.donor is None:
                raise ValueError("proxykv_shuffled needs a second context in its task")
            others = self.proxy.scores(prefill, prefill.donor, self.signal)
            proxy_scores = _wrapped(others, prefill.shape[2])
        return self.map(proxy_scores).to(prefill.input_ids.device)


def fit(
    files: Sequence[Path], out: Path, params: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Train a mapper on stored scores.

    Args:
        files: score files of the training contexts.
        out: folder to write to.
        params: settings of the training (`TrainingSettings`); `shuffled` is ignored.
        identity: entries of the card (see `train_mapper`).
    """
    training = {name: value for name, value in params.items() if name != "shuffled"}
    train_mapper(files, out, TrainingSettings(**training), identity)


def predictor(folder: Path, params: Mapping[str, Any]) -> Predictor:
    """Load a trained mapper and return a function that predicts the scores of a stored context.

    Args:
        folder: of the mapper.
        params: settings of the method; none matters here.
    """
    mapper, card = load_mapper(folder)

    def predict(path: Path) -> tuple[Scores, Scores]:
        proxy_scores, target = load_scores(path, Signal.of(card["training"]).name)
        return mapper.score(proxy_scores), target

    return predict


def _wrapped(signal: Float[Tensor, "layer kv_head token"], n: int) -> Tensor:
    """Cut or repeat along tokens to a length of n."""
    index = torch.arange(n, device=signal.device) % signal.shape[-1]
    return signal[..., index]


METHOD = ProxyKV
