"""What single methods promise beyond the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from method_fixture import PAIR, PREFIX, fill
from safetensors.torch import save_file

from baselines import kvzip_iam
from baselines.kvzip import KVzip
from baselines.snapkv import PRESETS, window_scores
from baselines.streaming import Streaming
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.config.settings.signals import Signal
from proxykv.mapper.fitted import load_fitted
from proxykv.model.model import Model, context_ids
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Ids, ProxySignal, Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext, build
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.selection import select


@pytest.mark.parametrize("ratio", [0.05, 0.13, 0.5])
@pytest.mark.parametrize("crossed", ["cross_kvzip_budget", "cross_prior_budget"])
def test_crossed_allocations_keep_the_counts_of_one_and_the_tokens_of_the_other(
    crossed: str, ratio: float, scores: Mapping[str, Scores]
) -> None:
    params = catalog.variants()[crossed]["params"]
    keep = select(scores[crossed], ratio, "global")
    counts = select(scores[params["allocation"]], ratio, "global").sum(dim=-1)
    assert torch.equal(keep.sum(dim=-1), counts)
    ranking = scores[params["ranking"]]
    lowest = torch.where(keep, ranking, torch.inf).amin(dim=-1)
    best_left = torch.where(keep, -torch.inf, ranking).amax(dim=-1)
    assert (lowest >= best_left).all()


def test_the_shuffled_control_sees_another_context(
    method_context: MethodContext, target: Model, contexts: list[str], scores: Mapping[str, Scores]
) -> None:
    assert not torch.equal(scores["proxykv_shuffled"], scores["proxykv"])
    shuffled = build(method_context.methods["proxykv_shuffled"], method_context)
    with pytest.raises(ValueError, match="needs a second context"):
        shuffled.score(fill(target, contexts[6]))
    # Given the context itself it would be proxykv.
    itself = shuffled.score(fill(target, contexts[6], contexts[6]))
    assert torch.equal(itself, scores["proxykv"])


class Elsewhere:
    """A proxy on another device than the target; its scores are given."""

    def __init__(self, scores: ProxySignal) -> None:
        self.given = scores

    def scores(self, prefill: Prefill, ids: Ids, signal: Signal | None = None) -> ProxySignal:
        return self.given


@pytest.mark.parametrize("method", ["proxykv", "kvzip_iam", "proxy_tokens"])
def test_what_a_proxy_scores_is_returned_where_the_target_is(
    method: str, method_context: MethodContext, prefilled: Prefill
) -> None:
    given = method_context.proxy.scores(prefilled, prefilled.input_ids)
    apart = replace(method_context, proxy=Elsewhere(given))
    on_target = replace(prefilled, input_ids=prefilled.input_ids.to("meta"))
    found = build(method_context.methods[method], apart).score(on_target)
    assert given.device.type == "cpu"
    assert found.device.type == "meta"
    assert found.shape == prefilled.shape


def test_streaming_keeps_sinks_then_the_most_recent(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    n = prefilled.shape[2]
    result = Streaming(method_context, sinks=4).score(prefilled)
    for count, expected in {
        2: [0, 1],
        4: [0, 1, 2, 3],
        9: [0, 1, 2, 3, *range(n - 5, n)],
        n: [*range(n)],
    }.items():
        for head in select(result, (count + 0.5) / n if count < n else 1, "head").flatten(0, 1):
            assert head.nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_snapkv_ranks_its_window_first_and_the_most_recent_highest(
    preset: str, prefilled: Prefill, target: Model
) -> None:
    settings = PRESETS[preset]
    result = window_scores(target.net, prefilled.input_ids, PREFIX, **settings)
    window = result[..., -settings["window"] :]
    assert (window.diff(dim=-1) > 0).all()
    assert (window[..., 0] > result[..., : -settings["window"]].amax(dim=-1)).all()


def test_kvzip_scores_are_replay_attention(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    result = KVzip(method_context, chunk=40).score(prefilled)
    assert result.min() >= 0
    assert result.max() <= 1
    with pytest.raises(ValueError, match="chunks cover"):
        score_replays(prefilled, replays(prefilled.model, prefilled.context)[:0])


def test_replays_follow_the_reference(target: Model) -> None:
    """Request, the previous chunk's last eight ids, a line break, the chunk."""
    context = torch.arange(10, 110)
    pairs = replays(target, context, chunk=40)
    assert torch.equal(torch.cat([chunk for chunk, _ in pairs]), context)
    line_break = list(target.encode("\n"))
    first = [*target.encode("\n\nRepeat the previous context exactly."), *line_break]
    assert pairs[0][1].tolist() == [*first, *range(10, 50)]
    words = "\n\nRepeat the part of the previous context exactly, starting with "
    assert pairs[2][1].tolist() == [
        *target.encode(words), *range(82, 90), *line_break, *range(90, 110)
    ]  # fmt: skip


def test_random_is_seeded_by_run_and_context(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    method = method_context.methods["random"]
    one, other = (
        build(method, replace(method_context, seed=seed)).score(prefilled) for seed in (0, 1)
    )
    assert not torch.equal(one, other)
    assert torch.equal(one, build(method, method_context).score(prefilled))


def test_iam_finds_each_heads_counterpart_and_its_mean_and_spread(
    method_context: MethodContext,
    target: Model,
    contexts: list[str],
    prefilled: Prefill,
    tmp_path: Path,
) -> None:
    """Target scores made of single proxy heads are found again, exactly when rescaled."""
    heads = torch.tensor([[0, 2], [1, 1], [3, 0]])
    slope = torch.linspace(0.1, 0.6, 6).view(3, 2)
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, text in zip(files, contexts, strict=False):
        proxy = method_context.proxy.scores(prefilled, context_ids(target, text))
        planted = slope[..., None] * proxy.flatten(0, 1)[heads]
        save_file({"proxy": proxy.contiguous(), "target": planted}, path)
    kvzip_iam.fit(files, tmp_path / "fitted", {}, PAIR)
    fitted, card = load_fitted(tmp_path / "fitted", PAIR)
    assert torch.equal(fitted["heads"], heads)
    assert card["mean_cosine"] == pytest.approx(1, abs=1e-5)
    result = method_context.proxy.scores(prefilled, prefilled.input_ids).flatten(0, 1)[heads]
    raw = kvzip_iam.KVzipIAM(method_context, tmp_path / "fitted").score(prefilled)
    assert torch.equal(raw, result)
    rescaled = kvzip_iam.KVzipIAM(method_context, tmp_path / "fitted", rescaled=True).score(
        prefilled
    )
    torch.testing.assert_close(rescaled, slope[..., None] * result, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key", PAIR)
@pytest.mark.parametrize("method_id", ["prior", "kvzip_iam", "proxykv"])
def test_what_was_fitted_for_another_pair_is_refused(
    method_id: str, key: str, method_context: MethodContext, run: Run
) -> None:
    other = replace(method_context, pair={**PAIR, key: "of another model"})
    with pytest.raises(ConfigError, match=f"fitted for {key} .* fit it for this pair"):
        build(run.methods[method_id], other)
