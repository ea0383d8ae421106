"""Uniformly random KV pairs: the floor."""

from __future__ import annotations

import torch

from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.seeded import generator

VARIANTS = {"random": {"scope": "global"}}
CARDS = {
    "random": {
        "label": "Random",
        "role": "floor",
        "about": "pairs drawn at random",
        "color": "#8A8A8A",
        "marker": "X",
    },
}


class Random:
    """Uniform noise, drawn again for each context, the same on every run and device."""

    def __init__(self, context: MethodContext) -> None:
        """Take the run's seed."""
        self.seed = context.seed

    def score(self, prefill: Prefill) -> Scores:
        """Uniform in [0, 1)."""
        return uniform(prefill, self.seed)


def uniform(prefill: Prefill, seed: int) -> Scores:
    """Uniform noise in [0, 1) of the context's shape, from the seed and the context's ids.

    Args:
        prefill: the target's prefill.
        seed: of the run.
    """
    noise = seeded_uniform(repr((seed, prefill.context.tolist())), prefill.shape)
    return noise.to(prefill.input_ids.device)


def seeded_uniform(seed: str, shape: tuple[int, ...]) -> Scores:
    """Uniform noise in [0, 1), which a text determines.

    Args:
        seed: the text.
        shape: of the noise.
    """
    return torch.rand(shape, generator=generator(seed))


METHOD = Random
