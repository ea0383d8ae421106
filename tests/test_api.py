"""The Python interface: a pair is loaded with its mapper, prunes, and answers."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from two_devices import FIRST, SECOND, TwoDevices

import proxykv
from proxykv.benchmarks import tiny, tiny_language
from proxykv.config import catalog
from proxykv.config.settings.signals import Signal
from proxykv.mapper.hybrid import load_mapper, save_mapper
from proxykv.model.caches.context import ContextCache
from proxykv.model.decode import TokenizedQuestion, answer
from proxykv.model.model import context_ids
from proxykv.model.prefill import prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.selection import select
from proxykv.scoring.signals import proxy_signals

TINY = catalog.ROOT / "models" / "tiny"
MAPPER = Path("results/tiny/mappers/tiny/proxykv")
RETENTION = 0.3


@pytest.fixture(scope="module")
def pair(trained: Path) -> proxykv.Pair:
    return proxykv.load_pair(TINY / "target", TINY / "proxy", trained / MAPPER, device="cpu")


@pytest.fixture(scope="module")
def text() -> str:
    (example,) = tiny.build(
        "multikey",
        tokenizer=tiny_language.make_tokenizer(),
        contexts=1,
        lengths=[96],
        seed=5,
        split="eval",
    )
    return example.context


def test_answers_are_those_of_the_harness(pair: proxykv.Pair, text: str, trained: Path) -> None:
    """Several questions, each answered as if it were the only one."""
    target = pair.target
    prefilled = prefill(target, context_ids(target, text), len(target.prefix))
    mapper, _ = load_mapper(trained / MAPPER)
    proxy = pair.engine.proxy.model
    ids = context_ids(target, text)
    signals = proxy_signals(target, proxy, ids, len(target.prefix), [Signal()])
    scores = mapper.score(signals[Signal()])
    keep = select(scores, RETENTION, "head")
    questions = [f"Question : code {key}" for key in ("Fivu", "Lado", "Fivu")]
    asks = [TokenizedQuestion(target.encode(question), (), 6) for question in questions]
    expected = [given[1] for given in answer(prefilled, [keep], asks, batch_rows=8)]

    context = pair.prune(text, RETENTION, scope="head")
    for question, one in zip(questions, expected, strict=True):
        assert context.ask(question, max_new_tokens=6) == target.decode(list(one.ids))
    assert context.ask(questions[0], max_new_tokens=1) == target.decode(list(expected[0].ids[:1]))


def test_a_target_on_two_devices_answers_as_on_one(
    pair: proxykv.Pair, text: str, trained: Path
) -> None:
    """The proxy is as large as all layers of this target, which get the other device."""
    with torch.inference_mode(), TwoDevices():
        shared = proxykv.load_pair(
            TINY / "target", TINY / "proxy", trained / MAPPER,
            device="cpu,cpu:1", proxy_device="cpu",
        )  # fmt: skip
        assert set(shared.target.layer_devices) == {SECOND}
        assert shared.target.device == shared.engine.proxy.model.device == FIRST
        ours, theirs = (one.prune(text, RETENTION) for one in (shared, pair))
        assert torch.equal(ours.keep, theirs.keep)
        question = "Question : code Fivu"
        assert ours.ask(question, max_new_tokens=6) == theirs.ask(question, max_new_tokens=6)


def test_devices_that_cannot_be_are_one_line(trained: Path) -> None:
    folders = TINY / "target", TINY / "proxy", trained / MAPPER
    mistakes: list[Any] = [
        {"device": "cpu,mps:9"},
        {"device": "cpu", "proxy_device": "cpu,mps:9"},
    ]
    for places in mistakes:
        with pytest.raises(ConfigError, match="cannot be used here") as refused:
            proxykv.load_pair(*folders, **places)
        assert len(str(refused.value).splitlines()) == 1


def test_the_mapper_reads_what_it_was_trained_on(
    pair: proxykv.Pair, text: str, trained: Path, tmp_path: Path
) -> None:
    mapper, card = load_mapper(trained / MAPPER)
    save_mapper(tmp_path, mapper, {**card, "training": {**card["training"], "signal": "prefill"}})
    other = proxykv.load_pair(TINY / "target", TINY / "proxy", tmp_path, device="cpu")
    bits = [p.prune(text, RETENTION).cache.layers for p in (pair, other)]
    assert any(a.entries.counts != b.entries.counts for a, b in zip(*bits, strict=True))


def test_what_is_pruned_is_free(
    pair: proxykv.Pair, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[weakref.ref[ContextCache]] = []
    made = ContextCache.__init__

    def remember(self: ContextCache, layers: int, observed: int) -> None:
        made(self, layers, observed)
        caches.append(weakref.ref(self))

    monkeypatch.setattr(ContextCache, "__init__", remember)
    context = pair.prune(text, RETENTION)
    gc.collect()
    assert len(caches) == 2  # the target's and the proxy's
    assert all(cache() is None for cache in caches)
    everything = pair.prune(text, 1.0)
    assert everything.retention == 1
    share = context.cache.context_bytes / everything.cache.context_bytes
    assert share == pytest.approx(RETENTION, abs=0.01)
    assert context.retention == pytest.approx(RETENTION, abs=1e-3)


def test_rivals_prune_as_they_score(trained: Path, text: str) -> None:
    rivals = ["kvzip", "snapkv_global", "streaming"]
    pair = proxykv.load_pair(
        TINY / "target", TINY / "proxy", trained / MAPPER, device="cpu", rivals=rivals
    )
    pruned = {name: pair.prune(text, RETENTION, method=name) for name in ["proxykv", *rivals]}
    work = pair.engine.read(pair.target, context_ids(pair.target, text), rivals)
    for name in rivals:
        scores, _ = work.scores(name)
        expected = select(scores[..., : pruned[name].keep.shape[-1]], RETENTION, "global")
        assert pruned[name].keep.equal(expected)
    masks = [context.keep.flatten().tolist() for context in pruned.values()]
    assert all(a != b for i, a in enumerate(masks) for b in masks[:i])


@pytest.mark.parametrize(
    ("rival", "message"),
    [
        ("nope", "'nope' is no method that prunes"),
        ("full", "'full' is no method that prunes"),
        ("surrogate", "'surrogate' needs a fitted folder"),
        ("cross_kvzip_budget", "'cross_kvzip_budget' needs a fitted folder"),
    ],
)
def test_other_rivals_are_refused(trained: Path, rival: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        proxykv.load_pair(TINY / "target", TINY / "proxy", trained / MAPPER, rivals=[rival])


@pytest.mark.parametrize("schedule", ["sequential", "parallel"])
def test_the_timeline_has_all_phases(trained: Path, text: str, schedule: Any) -> None:
    pair = proxykv.load_pair(
        TINY / "target", TINY / "proxy", trained / MAPPER, device="cpu", schedule=schedule
    )
    timeline = pair.prune(text, RETENTION).timeline
    spans = {span.phase: span for span in timeline.spans}
    ours = ["target_prefill", "select", "prune"]
    theirs = ["proxy_prefill", "proxy_scoring", "mapper", "select"]
    assert set(spans) == {*ours, *theirs}
    for side in (ours, theirs):
        ends = [moment for name in side for moment in (spans[name].start, spans[name].end)]
        assert ends == sorted(ends)
    assert json.loads(json.dumps(timeline.record()))[0]["start"] >= 0
    if schedule == "sequential":
        assert timeline.overlap() == 0


def test_bad_calls_are_explained(pair: proxykv.Pair, text: str) -> None:
    with pytest.raises(ValueError, match="the context is empty"):
        pair.prune("", RETENTION)
    with pytest.raises(ValueError, match="outside"):
        pair.prune(text, 30)
    with pytest.raises(ValueError, match="'kvzip' was not loaded with the pair, only proxykv"):
        pair.prune(text, RETENTION, method="kvzip")
    with pytest.raises(ValueError, match="the question is empty"):
        pair.prune(text, RETENTION).ask("")


def test_the_card_says_what_the_mapper_is_for(trained: Path, pair: proxykv.Pair) -> None:
    card = json.loads((trained / MAPPER / "card.json").read_text("utf-8"))
    assert card == pair.card
    assert card["family"] == "tiny"
    assert card["models"]["target"]["path"] == "models/tiny/target"
    assert {
        "target_hash",
        "proxy_hash",
        "target_config",
        "target_tokenizer",
        "proxy_config",
        "proxy_tokenizer",
        "vocab_hash",
        "corpus",
        "weights_sha256",
    } <= set(card)
    assert {"mapper", "training", "metrics", "train_contexts", "val_contexts"} <= set(card)


@pytest.fixture
def copies(trained: Path, tmp_path: Path) -> Path:
    """Target, proxy and mapper, to be tampered with."""
    for role in ("target", "proxy"):
        shutil.copytree(TINY / role, tmp_path / role)
    shutil.copytree(trained / MAPPER, tmp_path / "mapper")
    return tmp_path


def load(folder: Path) -> proxykv.Pair:
    return proxykv.load_pair(folder / "target", folder / "proxy", folder / "mapper", device="cpu")


@pytest.mark.parametrize("role", ["target", "proxy"])
def test_other_weights_are_refused(copies: Path, role: str) -> None:
    weights = load_file(copies / role / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] * 1.01
    save_file(weights, copies / role / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"fitted for {role}_hash .* this pair has"):
        load(copies)


def test_swapped_models_are_refused(copies: Path) -> None:
    with pytest.raises(ConfigError, match="fitted for target_"):
        proxykv.load_pair(copies / "proxy", copies / "target", copies / "mapper")


@pytest.mark.parametrize(
    ("roles", "message"),
    [(["proxy"], "different vocabularies"), (["target", "proxy"], "fitted for target_tokenizer")],
)
def test_another_vocabulary_is_refused(copies: Path, roles: list[str], message: str) -> None:
    for role in roles:
        file = copies / role / "tokenizer.json"
        file.write_text(file.read_text("utf-8").replace('"gold"', '"silver"'), "utf-8")
    with pytest.raises(ConfigError, match=message):
        load(copies)


@pytest.mark.parametrize(
    ("part", "message"), [("target", "no safetensors"), ("mapper", "nothing fitted")]
)
def test_a_missing_folder_is_named(copies: Path, part: str, message: str) -> None:
    shutil.rmtree(copies / part)
    with pytest.raises(ConfigError, match=f"{copies / part}: {message}"):
        load(copies)


def test_a_pair_is_called_as_kvpress_pipeline_is(pair: proxykv.Pair, text: str) -> None:
    asked, ratio = ["Question : code", "Question : color"], 1 - RETENTION
    pruned = pair.prune(text, RETENTION)
    expected = [pruned.ask(question, 6, "The") for question in asked]
    given: Any = {"compression_ratio": ratio, "max_new_tokens": 6, "answer_prefix": "The"}
    assert pair(text, questions=asked, **given) == {"answers": expected}
    assert pair(text, question=asked[0], **given) == {"answer": expected[0]}
    assert pruned.ask(asked[0], 6) != expected[0]
    for both in ({}, {"question": asked[0], "questions": asked}):
        with pytest.raises(ValueError, match="either question or questions"):
            pair(text, **given, **both)
