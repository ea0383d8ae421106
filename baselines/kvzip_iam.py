"""KVzip+IAM: every target head takes the scores of one proxy head (after arXiv 2507.11953).

The alignment is rigid: each (layer, head) of the target is assigned the (layer, head) of the proxy
whose scores have the highest cosine with its own over all tokens of the training contexts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxykv.config.settings.signals import Signal
from proxykv.mapper.fitted import load_fitted, save_fitted
from proxykv.mapper.stored_scores import Predictor, load_scores
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import ProxySignal, Scores
from proxykv.scoring.contract import MethodContext

TINY = 1e-6
"""Norms and spreads below it are a silent head's."""

VARIANTS = {
    "kvzip_iam": {"scope": "global", "fitted_id": "kvzip_iam"},
    "kvzip_iam_rescaled": {
        "scope": "global",
        "fitted_id": "kvzip_iam",
        "params": {"rescaled": True},
    },
    # Rescaling keeps the order inside a head: with equal budgets per head there is one variant.
    "kvzip_iam_head": {"scope": "head", "fitted_id": "kvzip_iam"},
}
CARDS = {
    "kvzip_iam": {
        "label": "KVzip+IAM",
        "role": "baseline",
        "about": "each target head takes the most similar proxy head's scores (arXiv 2507.11953)",
        "color": "#332288",
        "marker": "8",
        "cost": ["proxy"],
    },
    "kvzip_iam_rescaled": {
        "label": "KVzip+IAM, rescaled",
        "role": "baseline",
        "about": "KVzip+IAM with the target head's usual mean and spread",
        "color": "#6A51A3",
        "marker": (3, 0, 45),
        "cost": ["proxy"],
    },
    "kvzip_iam_head": {
        "label": "KVzip+IAM, per head",
        "role": "baseline",
        "about": "KVzip+IAM's scores under the same budget for every head",
        "color": "#AA99DD",
        "marker": (3, 0, 135),
        "cost": ["proxy"],
    },
}


class KVzipIAM:
    """The proxy's KVzip scores, each head's handed to the target heads that are aligned to it."""

    def __init__(self, context: MethodContext, fitted: Path, rescaled: bool = False) -> None:
        """`rescaled`: give each head the mean and the spread that its scores had when fitted."""
        self.fitted, card = load_fitted(fitted, context.pair)
        self.proxy, self.ledger, self.rescaled = context.proxy, context.ledger, rescaled
        self.key = ("kvzip_iam", card["weights_sha256"], rescaled)
        self.signal, self.during_prefill = Signal(), True

    def score(self, prefill: Prefill) -> Scores:
        """The aligned scores, where the target is."""
        return self.ledger.once(prefill, self.key, lambda: self._score(prefill))

    def map(self, proxy_scores: ProxySignal) -> Scores:
        """`S_proxy[map(l, h)]`; rescaled, a line of it per head."""
        return _aligned(self.fitted, proxy_scores, self.rescaled)

    def _score(self, prefill: Prefill) -> Scores:
        signal = self.proxy.scores(prefill, prefill.input_ids, self.signal)
        return self.map(signal).to(prefill.input_ids.device)


def fit(
    files: Sequence[Path], out: Path, params: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Align heads by cosine over all tokens of the training contexts together.

    Args:
        files: stored scores of the training contexts.
        out: the fitted folder.
        params: not used: `rescaled` matters only when scoring.
        identity: entries of the card that name the pair and the corpus.
    """
    dots = proxy_sum = proxy_square = target_sum = target_square = torch.zeros(())
    tokens, shape = 0, torch.Size()
    for path in files:
        proxy, target = load_scores(path)
        shape = target.shape[:2]
        p, t = proxy.flatten(0, 1).double(), target.flatten(0, 1).double()
        dots = dots + t @ p.T
        proxy_sum, proxy_square = proxy_sum + p.sum(1), proxy_square + p.square().sum(1)
        target_sum, target_square = target_sum + t.sum(1), target_square + t.square().sum(1)
        tokens += target.shape[-1]
    # A target head's own norm scales its whole row: it does not change which proxy head is best.
    cosine, best = (dots / proxy_square.sqrt().clamp_min(TINY)).max(dim=1)
    cosine = cosine / target_square.sqrt().clamp_min(TINY)
    proxy_mean, proxy_spread = _moments(proxy_sum[best], proxy_square[best], tokens)
    target_mean, target_spread = _moments(target_sum, target_square, tokens)
    slope = target_spread / proxy_spread.clamp_min(TINY)
    save_fitted(
        out,
        {
            "heads": best.view(shape),
            "slope": slope.float().view(shape),
            "offset": (target_mean - slope * proxy_mean).float().view(shape),
        },
        {
            **identity,
            "contexts": len(files),
            "tokens": tokens,
            "mean_cosine": cosine.mean().item(),
        },
    )


def predictor(folder: Path, params: Mapping[str, Any]) -> Predictor:
    """The aligned scores of a stored context.

    Args:
        folder: the fitted folder.
        params: the method's parameters.

    Returns:
        A function from a file of stored scores to predicted and true scores [layer, kv_head,
        token].
    """
    fitted = load_fitted(folder)[0]

    def predict(path: Path) -> tuple[Scores, Scores]:
        proxy, target = load_scores(path)
        return _aligned(fitted, proxy, params.get("rescaled", False)), target

    return predict


def _aligned(fitted: Mapping[str, Tensor], proxy_scores: ProxySignal, rescaled: bool) -> Scores:
    proxy = proxy_scores.flatten(0, 1).float()
    heads, slope, offset = (fitted[n].to(proxy.device) for n in ("heads", "slope", "offset"))
    scores = proxy[heads]
    return slope[..., None] * scores + offset[..., None] if rescaled else scores


def _moments(total: Tensor, square: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from sums and sums of squares."""
    mean = total / tokens
    return mean, (square / tokens - mean.square()).clamp_min(0).sqrt()


METHOD = KVzipIAM
