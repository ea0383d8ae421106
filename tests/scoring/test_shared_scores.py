"""What methods of a run need alike is computed once; methods that differ share no scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_fixture import PAIR

from proxykv.config.run import Run
from proxykv.mapper.fitted import load_fitted, save_fitted
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext, build, scores_of

CHUNK = {"chunk": 20}


@pytest.mark.parametrize(
    ("method_id", "one", "other"),
    [
        ("kvzip", CHUNK, {"chunk": 30}),
        ("kvzip", CHUNK, {**CHUNK, "first": "code"}),
        ("kvzip", CHUNK, {**CHUNK, "following": "code"}),
        ("kvzip", CHUNK, {**CHUNK, "plus": True}),
        ("kvzip", CHUNK, {**CHUNK, "local": True}),
        ("snapkv", {}, {"preset": "kvpress"}),
        ("proxy_tokens", {}, {"pool": "max"}),
        ("proxy_tokens", {}, {"signal": "prefill"}),
        ("kvzip_iam", {}, {"rescaled": True}),
        ("proxykv", {}, {"shuffled": True}),
    ],
    ids=str,
)
def test_methods_that_differ_in_a_setting_differ_in_their_scores(
    method_id: str,
    one: dict[str, Any],
    other: dict[str, Any],
    run: Run,
    method_context: MethodContext,
    prefilled: Prefill,
) -> None:
    def scores(params: dict[str, Any]) -> Scores:
        method = replace(run.methods[method_id], params=params)
        return scores_of(build(method, method_context), prefilled)

    first = scores(one)
    assert not torch.equal(scores(other), first)
    assert torch.equal(scores(one), first)


@pytest.mark.parametrize("method_id", ["proxykv", "surrogate", "kvzip_iam"])
def test_methods_that_were_fitted_apart_differ_in_their_scores(
    method_id: str, run: Run, method_context: MethodContext, prefilled: Prefill, tmp_path: Path
) -> None:
    tensors, card = load_fitted(method_context.fitted[method_id], PAIR)
    reversed_heads = {name: tensor.flip(0) for name, tensor in tensors.items()}
    save_fitted(tmp_path, reversed_heads, card)
    refitted = replace(method_context, fitted={method_id: tmp_path})
    method = run.methods[method_id]
    first, second = (
        scores_of(build(method, context), prefilled) for context in (method_context, refitted)
    )
    assert not torch.equal(second, first)
