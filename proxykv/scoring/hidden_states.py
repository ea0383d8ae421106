"""Score from the target's hidden states while it prefills: what enters each attention layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from proxykv.model.devices import clock
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import Scorer
from proxykv.scoring.ledger import Ledger

ScoreLayer = Callable[[int, Float[Tensor, "token width"]], Float[Tensor, "head token"]]


@runtime_checkable
class HiddenStateScorer(Scorer, Protocol):
    """A scorer that reads the target's hidden states during the prefill, without another pass.

    Attributes:
        key: the key of its scores in the ledger.
    """

    key: Hashable

    def score_layer(
        self, layer: int, inputs: Float[Tensor, "token width"]
    ) -> Float[Tensor, "head token"]:
        """Score with what enters an attention layer.

        Args:
            layer: index of the layer.
            inputs: hidden states of prefix + context.

        Returns:
            Scores of as many heads as these inputs decide on, possibly none. Over all layers, in
            order, the rows must be the scores of every layer's KV heads.
        """
        ...


class LayerScores:
    """Scores that hidden-state scorers gave during one prefill, and the seconds that each took."""

    def __init__(self, model: Model, scorers: Mapping[Hashable, ScoreLayer]) -> None:
        self.model, self.scorers = model, scorers
        self.parts: dict[Hashable, list[Tensor]] = {key: [] for key in scorers}
        self.seconds = dict.fromkeys(scorers, 0.0)

    def take(self, layer: int, inputs: Float[Tensor, "token width"]) -> None:
        """Let every scorer score a layer's inputs.

        Args:
            layer: index of the layer.
            inputs: hidden states of prefix + context.
        """
        for key, score_layer in self.scorers.items():
            start = clock(inputs.device)
            self.parts[key].append(score_layer(layer, inputs))
            self.seconds[key] += clock(inputs.device) - start

    def scores(self, key: Hashable, prefilled: Prefill) -> Scores:
        """Return a scorer's scores of the context.

        Args:
            key: the scorer's key.
            prefilled: the prefill during which it scored.

        Returns:
            Scores [layer, kv_head, token], float32.
        """
        device = self.model.device
        rows = torch.cat([part.to(device) for part in self.parts[key]])[:, prefilled.prefix_len :]
        return rows.unflatten(0, prefilled.shape[:2]).float()

    def settle(self, prefilled: Prefill, ledger: Ledger) -> Prefill:
        """Store the scores in the ledger. Their seconds are charged to the scorers, not to the
        prefill.

        Args:
            prefilled: the prefill during which they scored.
            ledger: receives the scores.

        Returns:
            The prefill without the scorers' seconds.
        """
        seconds = prefilled.seconds - sum(self.seconds.values())
        alone = replace(prefilled, seconds=seconds)
        for key, spent in self.seconds.items():
            ledger.put(alone, key, self.scores(key, alone), spent)
        return alone


@contextmanager
def scoring_layers(model: Model, scorers: Mapping[Hashable, ScoreLayer]) -> Iterator[LayerScores]:
    """Let scorers read the one prefill that runs inside the block.

    Args:
        model: the target.
        scorers: functions that score a layer, by the keys of their scores.

    Yields:
        The scores; complete when the prefill is done.
    """
    layers = LayerScores(model, scorers)
    with observed(model, layers.take) if scorers else nullcontext():
        yield layers


def scores_of_another_prefill(prefilled: Prefill, score_layer: ScoreLayer) -> Scores:
    """Prefill a context once more for a scorer that did not read its first prefill.

    Args:
        prefilled: the first prefill.
        score_layer: scores the inputs of a layer.

    Returns:
        Scores [layer, kv_head, token], float32.
    """
    with scoring_layers(prefilled.model, {None: score_layer}) as layers:
        prefill(prefilled.model, prefilled.input_ids, prefilled.prefix_len)
    return layers.scores(None, prefilled)


@contextmanager
def observed(
    model: Model, note: Callable[[int, Float[Tensor, "token width"]], None]
) -> Iterator[None]:
    """Observe the inputs of every attention layer of a one-row forward.

    Args:
        model: the model whose forward runs inside the block.
        note: called with a layer's index and its inputs.
    """

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
