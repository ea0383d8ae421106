"""A model whose layers are on two devices computes what it computes on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from random_models import random_ids, random_net
from torch import Tensor, nn
from two_devices import FIRST, SECOND, Elsewhere, TwoDevices, devices

from baselines.snapkv import window_scores
from proxykv.config import catalog
from proxykv.model.caches.context import ATTENTION
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import TokenizedQuestion, answer, answer_from
from proxykv.model.devices import spread
from proxykv.model.loading import load_model
from proxykv.model.model import Model, bare_model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Scores
from proxykv.scoring import select
from proxykv.scoring.hidden_states import scores_of_another_prefill
from proxykv.scoring.kvzip import replay_scores, score_replays

PREFIX, CONTEXT = 3, 40
LAYERS = [FIRST, SECOND, SECOND]


@pytest.fixture(autouse=True)
def two_devices() -> Iterator[None]:
    """A second device that a CPU plays."""
    with torch.inference_mode(), TwoDevices():
        yield


def model_on(layers: list[torch.device], architecture: str = "qwen3") -> Model:
    """The same weights wherever the layers are."""
    net = random_net(architecture, ATTENTION, seed=1)
    spread(net, FIRST, layers)
    return bare_model(net)


def context(model: Model) -> Prefill:
    return prefill(model, random_ids(PREFIX + CONTEXT, seed=2), PREFIX)


def replays(ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Two chunks, each repeated after two other tokens."""
    request = random_ids(2, seed=3)
    return [(chunk, torch.cat([request, chunk])) for chunk in ids[PREFIX:].split(CONTEXT // 2)]


def logits(model: Model) -> Tensor:
    read = context(model)
    hidden = model.hidden(
        read.input_ids[None], torch.arange(len(read.input_ids))[None], PrunedCache(
            read.cache, PREFIX, torch.ones(read.shape, dtype=torch.bool)
        ),
    )  # fmt: skip
    return model.logits(hidden)


def kvzip(model: Model) -> Scores:
    ids = random_ids(PREFIX + CONTEXT, seed=2)
    return replay_scores(model.net, ids, PREFIX, replays(ids))


def kvzip_plus(model: Model) -> Scores:
    read = context(model)
    return score_replays(read, replays(read.input_ids), plus=True, local=True)


def snapkv(model: Model) -> Scores:
    ids = random_ids(PREFIX + CONTEXT, seed=2)
    settings: Any = {"window": 8, "kernel": 3, "pooling": "avg", "reduce": "mean"}
    return window_scores(model.net, ids, PREFIX, **settings)


def hidden_states(model: Model) -> Scores:
    """What enters each layer, as a method of hidden states reads it."""
    return scores_of_another_prefill(context(model), lambda _, inputs: inputs[:, :2].T)


@pytest.mark.parametrize("compute", [logits, kvzip, kvzip_plus, snapkv, hidden_states])
def test_layers_on_two_devices_compute_the_same(compute: Callable[[Model], Tensor]) -> None:
    one, two = compute(model_on([FIRST] * 3)), compute(model_on(LAYERS))
    assert two.device == FIRST
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_sweeps_and_pruned_caches_answer_the_same(architecture: str) -> None:
    """Rows of different lengths, of which some end early, and a question from a pruned cache."""

    def answers(model: Model) -> list[Any]:
        read = context(model)
        scores = replay_scores(model.net, read.input_ids, PREFIX, replays(read.input_ids))
        keeps = [select(scores, retention, "global") for retention in (0.1, 0.5)]
        asked = [
            TokenizedQuestion((5, 6), (7, 8, 9), 12),
            TokenizedQuestion((5, 6, 7, 8), (), 3),
        ]
        swept = [a for row in answer(read, keeps, asked) for a in row]
        cache = PrunedCache(read.cache, PREFIX, keeps[0])
        alone = [answer_from(model, cache, len(read.input_ids), (5, 6), 12) for _ in range(2)]
        return [*((a.ids, a.nll, a.kl) for a in swept), *alone]

    assert answers(model_on(LAYERS, architecture)) == answers(model_on([FIRST] * 3, architecture))


def test_what_enters_a_layer_is_on_its_device() -> None:
    model = model_on(LAYERS)
    layers: Any = model.net.base_model.layers
    seen = []

    def entering(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        own = {parameter.device for parameter in layer.parameters()}
        tensors = args, {k: v for k, v in kwargs.items() if k != "past_key_values"}
        seen.append(devices(tensors) | own)

    for layer in layers:
        layer.register_forward_pre_hook(entering, with_kwargs=True)
    read = context(model)
    assert seen == [{device} for device in LAYERS]
    assert [layer.keys.device for layer in read.cache.layers] == model.layer_devices == LAYERS
    assert model.device == read.input_ids.device == FIRST
    pruned = PrunedCache(read.cache, PREFIX, torch.ones(read.shape, dtype=torch.bool))
    assert [part.device for part in pruned.parts] == [FIRST, SECOND]
    assert [len(part.entries) for part in pruned.parts] == [1, 2]


def test_a_layer_without_its_seam_is_refused() -> None:
    """The test's own check: tensors of two devices do not meet unseen."""
    net = random_net("llama", ATTENTION, seed=1)
    layers: Any = net.base_model.layers
    layers[1].to(SECOND)
    assert isinstance(next(layers[1].parameters()), Elsewhere)
    with pytest.raises(RuntimeError, match="meets tensors of 2 devices"):
        context(bare_model(net))


def test_a_loaded_model_is_where_its_plan_says() -> None:
    folder = catalog.ROOT / "models" / "tiny" / "target"
    plan = ["cpu", "cpu", "cpu:1", "cpu:1"]
    one, two = load_model(folder), load_model(folder, layers=plan)
    assert [str(device) for device in two.layer_devices] == plan
    ids = random_ids(PREFIX + CONTEXT, seed=2)
    keys, others = (prefill(m, ids, PREFIX).cache.layers[-1].keys for m in (one, two))
    torch.testing.assert_close(keys, others.to(FIRST), rtol=0, atol=0)


def test_a_plan_of_other_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        model_on([FIRST, SECOND])
