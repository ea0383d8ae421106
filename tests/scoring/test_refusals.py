"""What cannot be pruned, or is not valid, is refused with one line that says why."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from random_models import random_ids, random_net
from transformers import (
    DeepseekV3Config,
    Gemma2Config,
    GPT2Config,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3NextConfig,
)

from baselines.kvpress import KVPress
from baselines.kvzip import KVzip
from baselines.snapkv import PRESETS, window_scores
from proxykv.benchmarks import tiny_language
from proxykv.model.architecture import refuse_unsupported
from proxykv.model.caches.context import ATTENTION
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.caches.sweep import SweepCache
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.prompt.vocabulary import require_shared_vocabulary
from proxykv.runtime.errors import ConfigError
from proxykv.scoring import select
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.kvzip import replay_scores

PREFIX, CONTEXT = 2, 40


def words() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tiny_language.make_tokenizer())


@pytest.fixture(scope="module")
def model() -> Model:
    net = random_net("llama", ATTENTION)
    return Model(net, words(), prefix=(), suffix=(), digest="")


@pytest.fixture(scope="module")
def prefilled(model: Model) -> Prefill:
    return prefill(model, random_ids(PREFIX + CONTEXT, seed=1), PREFIX)


WINDOWED = Qwen2Config(use_sliding_window=True, max_window_layers=2, num_hidden_layers=4)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (MistralConfig(), "sliding-window"),
        (Gemma2Config(), "sliding-window"),
        (WINDOWED, "sliding-window"),
        (Qwen3NextConfig(), "linear_attention layers keep a state"),
        (DeepseekV3Config(), "multi-latent"),
        (GPT2Config(), "its architecture is not one of llama, qwen2, qwen3"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_other_attention(config: Any, why: str) -> None:
    with pytest.raises(
        ConfigError, match=f"some/folder: a {config.model_type} model cannot be pruned: .*{why}"
    ):
        refuse_unsupported(config, "some/folder")


def test_unequal_vocabularies() -> None:
    other = words()
    other.add_tokens(["<extra>"])
    with pytest.raises(ConfigError, match=r"different vocabularies \(1 pieces, such as '<extra>'"):
        require_shared_vocabulary(words(), other)


def test_an_empty_context(model: Model) -> None:
    with pytest.raises(ValueError, match="the context is empty"):
        prefill(model, random_ids(PREFIX, seed=1), PREFIX)


@pytest.mark.usefixtures("unchecked")
def test_more_than_one_row(model: Model, prefilled: Prefill) -> None:
    with pytest.raises(ValueError, match="one context at a time: expected 1-D ids, got 2-D"):
        prefill(model, random_ids(20, seed=1).view(2, 10), 0)
    cache = PrunedCache(prefilled.cache, PREFIX, torch.ones(prefilled.shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="one row at a time, not 2"):
        model.hidden(random_ids(6, seed=1).view(2, 3), torch.arange(3).expand(2, 3), cache)


def test_kept_sets_of_another_shape(prefilled: Prefill) -> None:
    layers, heads, n = prefilled.shape
    short = torch.ones(layers, heads, n - 1, dtype=torch.bool)
    fewer = torch.ones(layers - 1, heads, n, dtype=torch.bool)
    for keep in (short, fewer):
        with pytest.raises(ValueError, match=r"the kept set has shape .* but the context has"):
            PrunedCache(prefilled.cache, PREFIX, keep)
        with pytest.raises(ValueError, match=r"the kept set has shape .* but the context has"):
            SweepCache(prefilled.cache, PREFIX, [keep], [0])


def test_replays_that_do_not_cover_the_context(model: Model) -> None:
    ids = random_ids(PREFIX + CONTEXT, seed=1)
    chunk = ids[PREFIX:]
    with pytest.raises(ValueError, match="chunks cover 39 of 40 context tokens"):
        replay_scores(model.net, ids, PREFIX, [(chunk[1:], chunk)])
    with pytest.raises(ValueError, match="a replay input is empty"):
        replay_scores(model.net, ids, PREFIX, [(chunk, chunk[:0])])


@pytest.mark.usefixtures("unchecked")
def test_chunks_of_no_token() -> None:
    with pytest.raises(ConfigError, match="chunks of at least one token, not 0"):
        KVzip(None, chunk=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix_len", [0, PREFIX])
@pytest.mark.parametrize("tokens", [1, 12, 31, 32])
def test_a_context_no_longer_than_the_window_is_ranked_by_recency(
    model: Model, prefix_len: int, tokens: int
) -> None:
    ids = random_ids(prefix_len + tokens, seed=1)
    scores = window_scores(model.net, ids, prefix_len, **PRESETS["original"])
    assert scores.shape == (len(model.net.base_model.layers), 2, tokens)  # type: ignore[arg-type]
    assert (scores.diff(dim=-1) > 0).all()
    kept = select(scores, 0.25, "head").sum(dim=-1)
    assert (kept == tokens // 4).all()


def test_another_attention_is_refused() -> None:
    net, ids = random_net("llama", "sdpa"), random_ids(PREFIX + 40, seed=1)
    chunk = ids[PREFIX:]
    with pytest.raises(ConfigError, match="load it with attn_implementation='proxykv'"):
        replay_scores(net, ids, PREFIX, [(chunk, chunk)])
    with pytest.raises(ConfigError, match="load it with attn_implementation='proxykv'"):
        window_scores(net, ids, PREFIX, **PRESETS["original"])


def test_without_kvpress_one_line_says_what_to_install(
    method_context: MethodContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    with pytest.raises(ConfigError, match="`make parity`"):
        KVPress(method_context, name="KnormPress")
