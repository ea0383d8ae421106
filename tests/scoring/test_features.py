"""The proxy's features, against attention computed the plain way."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from random_models import random_ids, random_net
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks import tiny_language
from proxykv.config.settings.signals import Kind, Signal
from proxykv.model.caches.context import ATTENTION
from proxykv.model.model import Model
from proxykv.model.prefill import OBSERVED, prefill
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.signals import prefill_signal, proxy_signals

PREFIX = 3


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tokens", [20, OBSERVED + 40])
def test_prefill_features_are_the_last_tokens_attention(architecture: str, tokens: int) -> None:
    ids = random_ids(PREFIX + tokens, seed=1)
    bare = Model(
        random_net(architecture, ATTENTION), tokenizer=None, prefix=(), suffix=(), digest=""
    )
    scores = prefill_signal(bare, prefill(bare, ids, PREFIX), Signal("prefill"))
    plain = random_net(architecture, "eager")(ids[None], output_attentions=True).attentions
    weights = torch.cat(plain)[:, :, -OBSERVED:, PREFIX:]  # [layer, q_head, query, token]
    expected = weights.amax(dim=2).unflatten(1, (2, -1)).amax(dim=2)
    assert torch.allclose(scores, expected, atol=1e-5)


def test_features_are_scores_of_the_proxys_own_pairs() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_language.make_tokenizer())
    nets = [random_net("llama", ATTENTION, vocab_size=512, num_hidden_layers=n) for n in (3, 2)]
    target, proxy = (Model(net, tokenizer, prefix=(5,), suffix=(), digest="") for net in nets)
    ids = random_ids(31, seed=2)
    signals = [Signal(kind, chunk=12) for kind in get_args(Kind)]
    found = proxy_signals(target, proxy, ids, 1, signals)
    assert set(found) == set(signals)
    for scores in found.values():
        assert scores.shape == (2, 2, 30)
        assert scores.min() >= 0 and scores.max() <= 1


class Late(Model):
    """A model that sees every token 1000 positions later."""

    def hidden(self, input_ids: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
        return super().hidden(input_ids, position_ids + 1000, cache)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_scores_do_not_depend_on_where_a_context_lies(architecture: str) -> None:
    """Which is why training does not vary positions."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_language.make_tokenizer())
    net = random_net(architecture, ATTENTION, vocab_size=len(tokenizer))
    early, late = (
        score_replays(prefilled, replays(prefilled.model, prefilled.context))
        for kind in (Model, Late)
        for prefilled in [prefill(kind(net, tokenizer, (5,), (), ""), random_ids(60, seed=1), 1)]
    )
    torch.testing.assert_close(early, late, atol=1e-4, rtol=1e-3)
