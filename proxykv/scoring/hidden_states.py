"""Watch a forward of the target: what enters each attention layer, while it is there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from proxykv.model.devices import clock
from proxykv.model.loading import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import Scorer

ScoreLayer = Callable[[int, Float[Tensor, "token width"]], Float[Tensor, "head token"]]


@runtime_checkable
class HiddenStateScorer(Scorer, Protocol):
    """A scorer that can watch the target's prefill, and then needs no pass of its own.

    `key`: the scores' key in `Prefill.once`.
    """

    key: Hashable

    def score_layer(
        self, layer: int, inputs: Float[Tensor, "token width"]
    ) -> Float[Tensor, "head token"]:
        """What is known once prefix and context have come to an attention layer.

        Over all layers, in order, the rows must be the scores of every layer's KV heads.
        """
        ...


class Notes:
    """What watchers have said in one prefill, and the seconds that each took."""

    def __init__(self, model: Model, watchers: Mapping[Hashable, ScoreLayer]) -> None:
        self.model, self.watchers = model, watchers
        self.parts: dict[Hashable, list[Tensor]] = {key: [] for key in watchers}
        self.seconds = dict.fromkeys(watchers, 0.0)

    def take(self, layer: int, inputs: Float[Tensor, "token width"]) -> None:
        """Ask every watcher."""
        for key, score_layer in self.watchers.items():
            start = clock(self.model.device)
            self.parts[key].append(score_layer(layer, inputs))
            self.seconds[key] += clock(self.model.device) - start

    def scores(self, key: Hashable, filled: Prefill) -> Scores:
        """A watcher's scores of the context."""
        rows = torch.cat(self.parts[key])[:, filled.prefix_len :]
        return rows.unflatten(0, filled.shape[:2]).float()

    def give(self, filled: Prefill) -> None:
        """Let the watchers find their scores made, and charge them instead of the prefill."""
        for key, seconds in self.seconds.items():
            filled.put(key, self.scores(key, filled), seconds)
            filled.seconds -= seconds


@contextmanager
def watching(model: Model, watchers: Mapping[Hashable, ScoreLayer]) -> Iterator[Notes]:
    """Let watchers, by the keys of their scores, see the one prefill that is run meanwhile."""
    notes = Notes(model, watchers)
    with observed(model, notes.take) if watchers else nullcontext():
        yield notes


def watched(filled: Prefill, score_layer: ScoreLayer) -> Scores:
    """The scores of a watcher that was not asked when the context was prefilled: it is, again."""
    with watching(filled.model, {None: score_layer}) as notes:
        prefill(filled.model, filled.input_ids, filled.prefix_len)
    return notes.scores(None, filled)


@contextmanager
def observed(
    model: Model, note: Callable[[int, Float[Tensor, "token width"]], None]
) -> Iterator[None]:
    """Call `note(layer, inputs)` with what enters each attention layer of one row's forward."""

    def hook(module: nn.Module, _: tuple, kwargs: dict[str, Any]) -> None:
        note(module.layer_idx, kwargs["hidden_states"][0])  # type: ignore[arg-type]

    hooks = [
        layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)  # type: ignore[union-attr]
        for layer in model.net.base_model.layers  # type: ignore[union-attr]
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
