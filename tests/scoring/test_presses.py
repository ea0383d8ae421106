"""Presses of kvpress as methods: what they say is theirs, and nothing of them stays behind."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from method_fixture import fill, needs_kvpress
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from baselines.kvpress import KVPress
from baselines.snapkv import PRESETS, window_scores
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.selection import select

pytestmark = needs_kvpress
SMALL: dict[str, Any] = {"name": "SnapKVPress", "window_size": 8, "kernel_size": 5}


@pytest.fixture
def bare(target: Model, prefilled: Prefill) -> Prefill:
    """The context without a prefix, as kvpress knows contexts."""
    return prefill(target, prefilled.context, 0)


def test_scores_are_the_presss_own(method_context: MethodContext, bare: Prefill) -> None:
    theirs = KVPress(method_context, **SMALL).score(bare)
    settings: dict[str, Any] = {**PRESETS["kvpress"], "window": 8}
    ours = window_scores(bare.model.net, bare.input_ids, 0, **settings)
    torch.testing.assert_close(theirs[..., :-8], ours[..., :-8])


@pytest.mark.parametrize("retention", [0.125, 0.25, 0.75])  # whole numbers of tokens
def test_kept_sets_are_the_presss_own(
    method_context: MethodContext, bare: Prefill, retention: float
) -> None:
    """Two ways to the same set: what is left of the press's cache, and a choice by its scores."""
    inner: dict[str, Any] = {"name": "KeyDiffPress"}
    norm: dict[str, Any] = {"name": "KnormPress"}
    for press in (norm, inner, SMALL):
        scorer = KVPress(method_context, **press)
        left, chosen = scorer.keep(bare, retention), select(scorer.score(bare), retention, "head")
        assert torch.equal(left, chosen)
    # AdaKV shares a layer's budget among its heads; what it drops is masked, not removed.
    adakv = KVPress(method_context, name="AdaKVPress", press=inner, alpha_safeguard=0.0)
    chosen = select(KVPress(method_context, **inner).score(bare), retention, "layer")
    assert torch.equal(adakv.keep(bare, retention), chosen)


def test_the_prefix_is_not_counted_whether_or_not_a_press_keeps_it(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    budget = int(0.3 * prefilled.shape[2])
    sinks = KVPress(method_context, name="StreamingLLMPress", n_sink=prefilled.prefix_len)
    latest = KVPress(method_context, name="StreamingLLMPress", n_sink=0)
    for scorer in (sinks, latest):
        for head in scorer.keep(prefilled, 0.3).flatten(0, 1):
            assert head.nonzero().flatten().tolist() == list(range(len(head) - budget, len(head)))


def test_nothing_of_a_press_stays_on_the_model(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    net = prefilled.model.net

    def state() -> Any:
        modules = list(net.named_modules())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for _, m in modules]
        names = [(name, sorted(vars(module))) for name, module in modules]
        return names, hooks, net.config._attn_implementation, dict(ALL_ATTENTION_FUNCTIONS)

    before = state()
    # Imported again, as in a process that has never seen it.
    for name in [m for m in sys.modules if m.split(".")[0] == "kvpress"]:
        del sys.modules[name]
    adakv = KVPress(method_context, name="AdaKVPress", press=SMALL)
    adakv.keep(prefilled, 0.3)
    KVPress(method_context, name="ExpectedAttentionPress").score(prefilled)
    with pytest.raises(ConfigError):
        KVPress(method_context, name="StreamingLLMPress").score(prefilled)
    assert state() == before
    again = prefill(prefilled.model, prefilled.input_ids, prefilled.prefix_len)
    for one, other in zip(again.cache.layers, prefilled.cache.layers, strict=True):
        assert torch.equal(one.keys, other.keys)


@pytest.mark.parametrize(
    ("press", "message"),
    [
        ({"name": "AdaKVPress", "press": SMALL}, "it chooses by itself; set `scope: custom`"),
        ({"name": "StreamingLLMPress"}, "its scores depend on the retention"),
        ({"name": "CompactorPress"}, "its scores depend on the retention"),
    ],
)
def test_presses_without_plain_scores_have_a_scope_of_their_own(
    press: dict[str, Any], message: str, method_context: MethodContext, prefilled: Prefill
) -> None:
    with pytest.raises(ConfigError, match=message):
        KVPress(method_context, **press).score(prefilled)
    assert 0.2 < KVPress(method_context, **press).keep(prefilled, 0.3).float().mean() < 0.31


@pytest.mark.parametrize(
    ("press", "message"),
    [
        ({"name": "KeyRerotationPress", "press": SMALL}, "it alters the pairs that it keeps"),
        ({"name": "MergingPress", "press": SMALL}, "it alters the pairs that it keeps"),
        ({"name": "DMSPress", "press": SMALL}, "it cannot be asked for a retention"),
        ({"name": "PrefillDecodingPress"}, "it keeps everything at retention 0.3"),
        ({"name": "KVPressTextGenerationPipeline"}, "kvpress has no press"),
        ({"name": "AdaKVPress", "press": {"name": "Snap"}}, "kvpress has no press 'Snap'"),
        ({"name": "AdaKVPress", "press": SMALL, "alpha_safeguard": 2}, "should be in"),
    ],
)
def test_presses_that_cannot_be_compared_are_refused(
    press: dict[str, Any], message: str, method_context: MethodContext, prefilled: Prefill
) -> None:
    with pytest.raises(ConfigError, match=message):
        KVPress(method_context, **press).keep(prefilled, 0.3)


def test_the_prefill_is_not_charged_to_the_press(
    method_context: MethodContext, target: Model, contexts: list[str]
) -> None:
    prefilled = replace(fill(target, contexts[6]), seconds=1e9)  # slower than any press
    scorer = KVPress(method_context, name="KnormPress")
    _, seconds = method_context.ledger.timed(prefilled, lambda: scorer.score(prefilled))
    assert seconds < 0.05
