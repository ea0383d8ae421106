"""Controls and references, by numbers computed here: a wrong control makes every claim hollow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_fixture import PAIR, PREFIX, fill
from random_models import byte_tokenizer, random_ids
from safetensors.torch import load_file, save_file

from baselines import prior, surrogate
from baselines.kvzip import KVzip
from baselines.prior import Prior
from baselines.random import Random
from baselines.snapkv import PRESETS, SnapKV, window_scores
from baselines.surrogate import Surrogate
from proxykv.config import catalog
from proxykv.config.settings.signals import Signal
from proxykv.mapper.hybrid import load_mapper, save_mapper
from proxykv.mapper.layer_inputs import inputs_file, sample_inputs
from proxykv.mapper.proxykv import ProxyKV
from proxykv.model.model import Model, context_ids
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext, build
from proxykv.scoring.kvzip import replays, score_replays

AUTHORS_SNAPKV = {"window": 32, "kernel": 7, "pooling": "max", "reduce": "sum"}
KVPRESS_SNAPKV = {"window": 64, "kernel": 5, "pooling": "avg", "reduce": "mean"}
FIRST = "\n\nRepeat the previous context exactly."
NEXT = "\n\nRepeat the part of the previous context exactly, starting with "


# --- the prior ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    """Scores [head, token] of 6 heads, skewed so that means are far from medians; 257 tokens."""
    draws = np.random.default_rng(0).random((6, 257)).astype(np.float32)
    return draws ** np.arange(1, 7)[:, None]


@pytest.fixture(scope="module")
def fitted_prior(heads: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prior")
    scores = torch.tensor(heads).view(3, 2, 257)
    files = [folder / "0.safetensors", folder / "1.safetensors"]
    for path, part in zip(files, scores.split([100, 157], dim=-1), strict=True):
        tensors = {"target": part.contiguous(), "proxy": torch.zeros(1, 1, part.shape[-1])}
        save_file(tensors, path)
    prior.fit(files, folder / "fitted", {}, PAIR)
    return folder / "fitted"


def interpolated(heads: np.ndarray, noise: Scores) -> np.ndarray:
    """Each head's own sorted scores, read at uniform places between the first and the last."""
    places = noise.flatten(0, 1).numpy().astype(np.float64) * 256
    drawn = [
        np.interp(place, np.arange(257), np.sort(one))
        for place, one in zip(places, heads, strict=True)
    ]
    return np.array(drawn).reshape(noise.shape)


def test_the_prior_draws_from_each_heads_own_scores(
    heads: np.ndarray, fitted_prior: Path, method_context: MethodContext, prefilled: Prefill
) -> None:
    noise = Random(method_context).score(prefilled)
    drawn = Prior(method_context, fitted_prior).score(prefilled)
    np.testing.assert_allclose(drawn.numpy(), interpolated(heads, noise), atol=1e-5)


def test_the_priors_mean_is_the_mean_with_ties_broken(
    heads: np.ndarray, fitted_prior: Path, method_context: MethodContext, prefilled: Prefill
) -> None:
    scores = Prior(method_context, fitted_prior, draw="mean").score(prefilled)
    above = scores.flatten(0, 1).numpy() - heads.mean(axis=1)[:, None]
    assert above.min() > -1e-6 and above.max() < 1.01e-4
    assert (scores.flatten(0, 1).diff(dim=-1) != 0).all()
    # Means lie far enough apart for the noise to decide within heads only.
    assert np.diff(np.sort(heads.mean(axis=1))).min() > 1e-3


@pytest.mark.parametrize("draw", ["distribution", "mean"])
def test_the_priors_prediction_of_a_stored_context(
    draw: str, heads: np.ndarray, fitted_prior: Path, tmp_path: Path
) -> None:
    """Seeded by the file's name, blind to its scores."""
    predict = prior.predictor(fitted_prior, {"draw": draw})
    target = torch.rand(3, 2, 40)
    found = {}
    for name, scores in (("a", target), ("b", target), ("again/a", 1 - target)):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"target": scores, "proxy": torch.zeros(1, 1, 40)}, path)
        found[name], true = predict(path)
        assert torch.equal(true, scores)
    assert torch.equal(found["a"], found["again/a"])
    assert not torch.equal(found["a"], found["b"])
    seed = int.from_bytes(hashlib.sha256(b"a.safetensors").digest()[:7])
    noise = torch.rand((3, 2, 40), generator=torch.Generator().manual_seed(seed))
    if draw == "distribution":
        np.testing.assert_allclose(found["a"].numpy(), interpolated(heads, noise), atol=1e-5)
    else:
        expected = heads.mean(axis=1).reshape(3, 2, 1) + 1e-4 * noise.numpy()
        np.testing.assert_allclose(found["a"].numpy(), expected, atol=1e-6)


def test_shipped_priors_draw_as_they_are_called() -> None:
    shipped = catalog.variants()
    assert shipped["prior"]["params"] == {"draw": "distribution"}
    assert shipped["prior_mean"]["params"] == {"draw": "mean"}
    assert shipped["prior"]["fitted_id"] == shipped["prior_mean"]["fitted_id"] == "prior"


@pytest.mark.parametrize(
    ("method", "alike", "scope"),
    [
        ("kvzip_head", "kvzip", "head"),
        ("kvzip_local_head", "kvzip_local", "head"),
        ("kvzip_iam_head", "kvzip_iam", "head"),
        ("proxykv_head", "proxykv", "head"),
        ("snapkv_global", "snapkv", "global"),
    ],
)
def test_shipped_methods_that_differ_in_their_scope_differ_in_nothing_else(
    method: str, alike: str, scope: str
) -> None:
    shipped = catalog.variants()
    assert shipped[method] == {**shipped[alike], "scope": scope}
    assert shipped[alike]["scope"] != scope


# --- crossed allocations, the shuffled proxy ------------------------------------------------------


@pytest.mark.parametrize(
    ("crossed", "budgets", "tokens"),
    [
        ("cross_kvzip_budget", "kvzip", "proxykv"),
        ("cross_prior_budget", "prior", "kvzip"),
    ],
)
def test_crossed_scores_have_the_values_of_one_and_the_order_of_the_other(
    crossed: str, budgets: str, tokens: str, scores: Mapping[str, Scores]
) -> None:
    crossed_scores, values, order = (scores[m].flatten(0, 1) for m in (crossed, budgets, tokens))
    for head, value, ranked in zip(crossed_scores, values, order, strict=True):
        assert sorted(head.tolist()) == sorted(value.tolist())
        by_rank = head[ranked.argsort(descending=True, stable=True)]
        assert (by_rank.diff() <= 0).all()


def test_the_shuffled_proxy_reads_its_donor_repeated_to_the_contexts_length(
    method_context: MethodContext, target: Model, contexts: list[str]
) -> None:
    prefilled = fill(target, contexts[6], contexts[7])
    shuffled = build(method_context.methods["proxykv_shuffled"], method_context)
    donor = context_ids(target, contexts[7])
    read = method_context.proxy.scores(prefilled, donor, Signal())
    n = prefilled.shape[2]
    assert read.shape[-1] < n
    repeated = torch.cat([read, read], dim=-1)[..., :n]
    assert torch.equal(shuffled.score(prefilled), shuffled.map(repeated))  # type: ignore[attr-defined]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_mapper_reads_the_signal_that_it_was_trained_on(
    shuffled: bool, method_context: MethodContext, prefilled: Prefill, tmp_path: Path
) -> None:
    mapper, card = load_mapper(method_context.fitted["proxykv"])
    training = {**card["training"], "signal": "local", "signal_chunk": 20}
    save_mapper(tmp_path, mapper, {**card, "training": training})
    method = ProxyKV(method_context, tmp_path, shuffled)
    ids = prefilled.donor if shuffled else prefilled.input_ids
    assert ids is not None
    n = prefilled.shape[2]
    local, kvzip = (
        method_context.proxy.scores(prefilled, ids, signal)[
            ..., torch.arange(n) % (len(ids) - PREFIX)
        ]
        for signal in (Signal("local", chunk=20), Signal())
    )
    assert torch.equal(method.score(prefilled), method.map(local))
    assert not torch.equal(method.score(prefilled), method.map(kvzip))


# --- KVzip and SnapKV -----------------------------------------------------------------------------


def test_kvzip_asks_with_the_authors_words_in_chunks_of_2000(target: Model) -> None:
    """Byte by byte, so that every blank shows."""
    tokenizer = byte_tokenizer(0)
    context = torch.randint(1, 250, (4_001,), generator=torch.Generator().manual_seed(0))
    pairs = replays(replace(target, tokenizer=tokenizer), context)
    assert [len(chunk) for chunk, _ in pairs] == [2000, 2000, 1]
    assert torch.equal(torch.cat([chunk for chunk, _ in pairs]), context)
    break_ = tokenizer.encode("\n")
    first, second, third = (ids.tolist() for _, ids in pairs)
    ids = context.tolist()
    assert first == [*tokenizer.encode(FIRST), *break_, *ids[:2000]]
    assert second == [*tokenizer.encode(NEXT), *ids[1992:2000], *break_, *ids[2000:4000]]
    assert third == [*tokenizer.encode(NEXT), *ids[3992:4000], *break_, *ids[4000:]]


def test_kvzip_scores_with_these_replays(method_context: MethodContext, target: Model) -> None:
    prefilled = prefill(target, random_ids(PREFIX + 2_030, seed=5), PREFIX)
    pairs = replays(target, prefilled.context, 2000, FIRST, NEXT)
    assert len(pairs) == 2
    assert torch.equal(KVzip(method_context).score(prefilled), score_replays(prefilled, pairs))
    plus = KVzip(method_context, plus=True).score(prefilled)
    assert torch.equal(plus, score_replays(prefilled, pairs, plus=True))
    assert not torch.equal(plus, KVzip(method_context).score(prefilled))


@pytest.mark.parametrize(
    ("shipped", "options"),
    [("kvzip", {}), ("kvzip_plus", {"plus": True}), ("kvzip_local", {"local": True})],
)
def test_shipped_kvzips_are_what_they_are_called(
    shipped: str, options: dict[str, bool], method_context: MethodContext, prefilled: Prefill
) -> None:
    """In chunks of 20 tokens, for a local replay differs only where there are several."""
    params = catalog.variants()[shipped].get("params", {})
    found = KVzip(method_context, chunk=20, **params).score(prefilled)
    pairs = replays(prefilled.model, prefilled.context, 20)
    assert torch.equal(found, score_replays(prefilled, pairs, **options))
    assert torch.equal(found, score_replays(prefilled, pairs)) == (not options)


def test_snapkv_has_the_published_settings(
    method_context: MethodContext, prefilled: Prefill
) -> None:
    assert PRESETS == {"original": AUTHORS_SNAPKV, "kvpress": KVPRESS_SNAPKV}
    for scorer, settings in (
        (SnapKV(method_context), AUTHORS_SNAPKV),
        (SnapKV(method_context, "kvpress"), KVPRESS_SNAPKV),
    ):
        expected = window_scores(prefilled.model.net, prefilled.input_ids, PREFIX, **settings)
        assert torch.equal(scorer.score(prefilled), expected)


# --- the surrogate --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted_surrogate(target: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted on KVzip's own scores."""
    folder = tmp_path_factory.mktemp("surrogate")
    files = [folder / f"{i}.safetensors" for i in range(3)]
    for seed, path in enumerate(files):
        store(target, random_ids(PREFIX + 60, seed), path)
    quick = {"steps": 5, "warmup": 1, "val_contexts": 1, "eval_every": 5, "width": 8}
    surrogate.fit(files, folder / "fitted", quick, PAIR)
    return folder


def store(target: Model, ids: torch.Tensor, path: Path) -> Scores:
    prefilled = prefill(target, ids, PREFIX)
    scores = score_replays(prefilled, replays(target, prefilled.context))
    save_file({"target": scores}, path)
    save_file(sample_inputs(target, ids, PREFIX, path.name), inputs_file(path))
    return scores


def test_the_surrogate_sees_no_later_token(
    fitted_surrogate: Path, method_context: MethodContext, target: Model
) -> None:
    """KVzip's scores of the same tokens do change with what follows."""
    start = random_ids(PREFIX + 40, seed=11)
    scorer = Surrogate(method_context, fitted_surrogate / "fitted")
    predicted, computed = [], []
    for seed in (12, 13):
        prefilled = prefill(target, torch.cat([start, random_ids(30, seed)]), PREFIX)
        predicted.append(scorer.score(prefilled)[..., :40])
        computed.append(score_replays(prefilled, replays(target, prefilled.context))[..., :40])
    torch.testing.assert_close(*predicted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(*computed, atol=1e-2)


def test_the_surrogates_prediction_does_not_see_the_scores(
    fitted_surrogate: Path, tmp_path: Path, target: Model
) -> None:
    path = tmp_path / "x.safetensors"
    true = store(target, random_ids(PREFIX + 60, seed=9), path)
    predict = surrogate.predictor(fitted_surrogate / "fitted", {})
    one, shown = predict(path)
    torch.testing.assert_close(shown, true[..., load_file(inputs_file(path))["hidden_tokens"]])
    save_file({"target": 1 - true}, path)
    other, shown = predict(path)
    assert torch.equal(one, other)
    assert not torch.equal(shown, true)
