"""What both sides of the comparison with kvpress score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from random_models import random_ids
from torch import Tensor

SNAPKV = {"window": 64, "kernel": 5}
"""kvpress' defaults."""


@dataclass(frozen=True)
class Case:
    """A context of a random model; `replays` cover it in chunks, each with its replay input."""

    architecture: str
    prefix_len: int
    ids: Tensor
    replays: list[tuple[Tensor, Tensor]]


def _case(architecture: str, prefix_len: int, context: int, chunk: int) -> Case:
    ids = random_ids(prefix_len + context, seed=context)
    chunks = ids[prefix_len:].split(chunk)
    replays = [(c, torch.cat([random_ids(6, seed=i), c])) for i, c in enumerate(chunks)]
    return Case(architecture, prefix_len, ids, replays)


CASES = {
    f"{architecture}-{prefix_len}-{context}-{chunk}": _case(
        architecture, prefix_len, context, chunk
    )
    for architecture in ("llama", "qwen2", "qwen3")
    # One chunk, several with a shorter last one, several of equal length; replays longer than the
    # tile that scores are computed in.
    for prefix_len, context, chunk in ((0, 90, 100), (1, 101, 40), (4, 120, 40), (3, 700, 600))
}
