"""Control without a proxy: what is known of each head before the context is seen.

Every (layer, head) of the target draws the scores of its tokens from the distribution of its scores
on the training contexts. Tokens are chosen blindly, so only the split of the budget among heads can
explain what this method reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.random import seeded_uniform, uniform
from proxykv.mapper.fitted import load_fitted, save_fitted
from proxykv.mapper.stored_scores import Predictor, load_scores
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext

Draw = Literal["distribution", "mean"]
LEVELS = 257
"""Quantiles stored per head."""

VARIANTS = {
    "prior": {"scope": "global", "fitted_id": "prior", "params": {"draw": "distribution"}},
    "prior_mean": {"scope": "global", "fitted_id": "prior", "params": {"draw": "mean"}},
}
CARDS = {
    "prior": {
        "label": "Head prior (control)",
        "role": "control",
        "about": "the static head prior (each head's usual scores, no proxy)",
        "shows": "accuracy there does not prove token choice, only a good split among heads",
        "color": "#E6A700",
        "marker": "s",
    },
    "prior_mean": {
        "label": "Head mean (control)",
        "role": "control",
        "about": "each head's mean score (no proxy)",
        "shows": "accuracy there does not prove token choice, only a good split among heads",
        "color": "#B2A000",
        "marker": ">",
    },
}


class Prior:
    """Draws each head's scores from its calibration scores, seeded by the context."""

    def __init__(self, context: MethodContext, fitted: Path, draw: Draw = "distribution") -> None:
        """`draw`: `distribution` samples the head's own; `mean` is its mean and a little noise."""
        self.quantiles = load_fitted(fitted, context.pair)[0]["quantiles"]
        self.draw: Draw = draw
        self.seed = context.seed

    def score(self, prefill: Prefill) -> Scores:
        """Scores in [0, 1]."""
        return _drawn(self.quantiles, uniform(prefill, self.seed), self.draw)


def fit(files: Sequence[Path], out: Path, params: Mapping[str, Any], identity: Mapping) -> None:
    """Store each head's quantiles over the tokens of the training contexts.

    Args:
        files: stored scores of the training contexts.
        out: the fitted folder.
        params: not used.
        identity: entries of the card that name the pair and the corpus.
    """
    levels = torch.linspace(0, 1, LEVELS)
    pooled = torch.cat([load_scores(path)[1] for path in files], dim=-1)
    # A head at a time: torch.quantile refuses more than 16M elements.
    quantiles = torch.stack([torch.stack([h.quantile(levels) for h in layer]) for layer in pooled])
    card = {**identity, "contexts": len(files), "tokens": pooled.shape[-1]}
    save_fitted(out, {"quantiles": quantiles}, card)


def predictor(folder: Path, params: Mapping[str, Any]) -> Predictor:
    """A draw for a stored context, seeded by its name.

    Args:
        folder: the fitted folder.
        params: the method's parameters.

    Returns:
        A function from a file of stored scores to drawn and true scores [layer, kv_head, token].
    """
    quantiles = load_fitted(folder)[0]["quantiles"]

    def predict(path: Path) -> tuple[Scores, Scores]:
        target = load_scores(path)[1]
        noise = seeded_uniform(path.name, tuple(target.shape))
        return _drawn(quantiles, noise, params["draw"]), target

    return predict


def _drawn(quantiles: Tensor, noise: Scores, draw: Draw) -> Scores:
    quantiles = quantiles.to(noise.device)
    if draw == "mean":
        # The noise only breaks ties within a head: means of heads rarely lie so close.
        return quantiles.mean(dim=-1)[..., None] + 1e-4 * noise
    place = noise * (LEVELS - 1)
    low = place.floor().long()
    below, above = quantiles.gather(-1, low), quantiles.gather(-1, low + 1)
    return torch.lerp(below, above, place - low)


METHOD = Prior
