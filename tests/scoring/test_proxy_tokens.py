"""A small model without a mapper: the same tokens in every head of the target."""

from __future__ import annotations

import pytest
import torch

from baselines.proxy_tokens import ProxyTokens
from proxykv.config.settings.signals import Signal
from proxykv.model.prefill import Prefill
from proxykv.scoring.contract import MethodContext, scores_of
from proxykv.scoring.selection import select

POOLS = {"mean": torch.mean, "max": torch.amax}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ["kvzip", "prefill", "windowed"])
def test_a_token_scores_the_pool_of_the_proxys_heads(
    method_context: MethodContext, prefilled: Prefill, pool: str, kind: str
) -> None:
    signal = Signal(kind, chunk=40)  # type: ignore[arg-type]
    scorer = ProxyTokens(method_context, pool, kind, signal_chunk=40)  # type: ignore[arg-type]
    scores = scores_of(scorer, prefilled)
    proxied = method_context.proxy.scores(prefilled, prefilled.input_ids, signal)
    expected = POOLS[pool](proxied, dim=(0, 1))
    torch.testing.assert_close(scores, expected.expand(prefilled.shape))
    assert torch.equal(scorer.map(proxied).expand(prefilled.shape), scores)


def test_every_head_keeps_the_same_tokens(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    keep = select(scores_of(ProxyTokens(method_context), prefilled), 0.2, "head")
    assert (keep == keep[0, 0]).all()
    assert keep[0, 0].sum() == int(0.2 * prefilled.shape[2])
