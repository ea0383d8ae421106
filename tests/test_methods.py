"""Every method of the catalogue honours the scorer contract; some honour a definition as well."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_models import random_net
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from baselines.kvzip import KVzip, replays, score_replays
from baselines.snapkv import PRESETS, window_scores
from baselines.streaming import Streaming
from proxykv import catalog
from proxykv.cache import ATTENTION
from proxykv.models import Model, context_ids
from proxykv.pipeline import Proxy, proxy_scores
from proxykv.prefill import Prefill, prefill
from proxykv.scorer import Bench, build, scores_of
from proxykv.select import budget, select
from proxykv.spec import Method, Run
from proxykv.tasks import tiny
from proxykv.tensors import Scores

PREFIX = 3
RETENTION = 0.13
METHODS = sorted(catalog.variants())
QUICK = {
    "seed": 0,
    "steps": 6,
    "warmup": 1,
    "crop": 64,
    "val_contexts": 1,
    "mapper": {"features": 8, "time_width": 16, "time_dilations": (1,), "width": 16},
}


@pytest.fixture(scope="module")
def target() -> Model:
    return model(seed=0, num_hidden_layers=3)


@pytest.fixture(scope="module")
def proxy() -> Model:
    return model(seed=1, num_hidden_layers=2, hidden_size=32, num_attention_heads=2)


def model(**settings: Any) -> Model:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.make_tokenizer())
    net = random_net("llama", ATTENTION, vocab_size=len(tokenizer), **settings)
    return Model(net, tokenizer, prefix=(5,) * PREFIX, suffix=(), digest="")


@pytest.fixture(scope="module")
def contexts() -> list[str]:
    """Six to fit on and two to score, of different lengths."""
    examples = tiny.build(
        "single",
        tokenizer=tiny.make_tokenizer(),
        contexts=8,
        lengths=(96, 80),
        seed=0,
        split="train",
    )
    return [example.context for example in examples]


@pytest.fixture(scope="module")
def run() -> Run:
    """A run of all methods there are."""
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 2, "lengths": [96]}
    return Run(
        {
            "run": "methods",
            "families": ["tiny"],
            "methods": METHODS,
            "retentions": [RETENTION, 1.0],
            "benchmarks": [dataset],
            "corpus": [dataset],
        }
    )


@pytest.fixture(scope="module")
def bench(
    target: Model,
    proxy: Model,
    contexts: list[str],
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bench:
    """What methods may use, everything fitted on stored scores of the random models."""
    folder = tmp_path_factory.mktemp("fitted")
    files = [folder / f"{i}.safetensors" for i in range(6)]
    for path, text in zip(files, contexts, strict=False):
        ids = context_ids(target, text)
        filled = prefill(target, ids, PREFIX)
        scores = {
            "target": score_replays(filled, replays(target, filled.context)),
            "proxy": proxy_scores(target, proxy, ids, PREFIX),
        }
        save_file({name: t.half().contiguous() for name, t in scores.items()}, path)
    for artefact in run.artefacts:
        module = importlib.import_module(f"baselines.{run.methods[artefact].base}")
        module.fit(files, folder / artefact, QUICK, {"family": "random"})
    return Bench(
        {a: folder / a for a in run.artefacts}, Proxy(lambda: proxy), run.methods, {}, seed=0
    )


def fill(target: Model, text: str, other: str | None = None) -> Prefill:
    donor = None if other is None else context_ids(target, other)
    return prefill(target, context_ids(target, text), PREFIX, donor)


@pytest.fixture
def filled(target: Model, contexts: list[str]) -> Prefill:
    return fill(target, contexts[6], contexts[7])


@pytest.fixture(scope="module")
def scores(bench: Bench, target: Model, contexts: list[str], run: Run) -> Mapping[str, Scores]:
    """Scores of every method on one context."""
    shared = fill(target, contexts[6], contexts[7])
    return {m.id: scores_of(build(m, bench), shared) for m in run.methods.values()}


@pytest.mark.parametrize("method_id", METHODS)
def test_contract(
    method_id: str,
    bench: Bench,
    run: Run,
    filled: Prefill,
    scores: Mapping[str, Scores],
) -> None:
    method = run.methods[method_id]
    own = build(method, bench).score(filled)
    assert tuple(own.shape) == filled.shape
    assert own.dtype == torch.float32
    assert torch.isfinite(own).all()
    # Deterministic, and the same whether or not other methods scored the context before.
    assert torch.equal(own, scores[method_id])
    if method.scope != "none":
        keep = select(own, RETENTION, method.scope)  # type: ignore[arg-type]
        layers, heads, n = filled.shape
        count, entries = {
            "global": (1, layers * heads * n),
            "layer": (layers, heads * n),
            "head": (layers * heads, n),
        }[method.scope]
        assert keep.sum() == count * budget(RETENTION, entries)


@pytest.mark.parametrize("method_id", [m for m in METHODS if m not in ("full", "streaming")])
def test_scores_depend_on_the_context(
    method_id: str, bench: Bench, target: Model, contexts: list[str], scores: Mapping[str, Scores]
) -> None:
    other = fill(target, contexts[4], contexts[7])
    assert other.shape == fill(target, contexts[6]).shape
    own = build(bench.methods[method_id], bench).score(other)
    # The control sees its donor only, which is the same one here.
    assert torch.equal(own, scores[method_id]) == (method_id == "proxykv_shuffled")


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
    bench: Bench, target: Model, contexts: list[str], scores: Mapping[str, Scores]
) -> None:
    assert not torch.equal(scores["proxykv_shuffled"], scores["proxykv"])
    shuffled = build(bench.methods["proxykv_shuffled"], bench)
    with pytest.raises(ValueError, match="needs a second context"):
        shuffled.score(fill(target, contexts[6]))
    # Given the context itself it would be proxykv; a shorter donor is repeated to fit.
    itself = shuffled.score(fill(target, contexts[6], contexts[6]))
    assert torch.equal(itself, scores["proxykv"])
    assert len(context_ids(target, contexts[7])) < len(context_ids(target, contexts[6]))


def test_streaming_keeps_sinks_then_the_most_recent(bench: Bench, filled: Prefill) -> None:
    n = filled.shape[2]
    own = Streaming(bench, sinks=4).score(filled)
    for count, expected in {
        2: [0, 1],
        4: [0, 1, 2, 3],
        9: [0, 1, 2, 3, *range(n - 5, n)],
        n: [*range(n)],
    }.items():
        for head in select(own, (count + 0.5) / n if count < n else 1, "head").flatten(0, 1):
            assert head.nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_snapkv_ranks_its_window_first_and_the_most_recent_highest(
    preset: str, filled: Prefill, target: Model
) -> None:
    settings = PRESETS[preset]
    own = window_scores(target.net, filled.input_ids, PREFIX, **settings)
    window = own[..., -settings["window"] :]
    assert (window.diff(dim=-1) > 0).all()
    assert (window[..., 0] > own[..., : -settings["window"]].amax(dim=-1)).all()


def test_snapkv_refuses_a_context_shorter_than_its_window(target: Model) -> None:
    settings = PRESETS["original"]
    ids = torch.arange(1, PREFIX + 32)
    with pytest.raises(ValueError, match="observes 32 tokens, but the context has only 31"):
        window_scores(target.net, ids, PREFIX, **settings)


def test_kvzip_scores_are_replay_attention(bench: Bench, filled: Prefill) -> None:
    own = KVzip(bench, chunk=40).score(filled)
    assert own.min() >= 0
    assert own.max() <= 1
    with pytest.raises(ValueError, match="chunks cover"):
        score_replays(filled, replays(filled.model, filled.context)[:0])


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


def test_random_is_seeded_by_run_and_context(bench: Bench, filled: Prefill) -> None:
    method = bench.methods["random"]
    one, other = (build(method, replace(bench, seed=seed)).score(filled) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, build(method, bench).score(filled))


class Broken:
    """A scorer of a user's that breaks the contract in a chosen way."""

    def __init__(self, bench: Bench, fault: str) -> None:
        self.fault = fault

    def score(self, prefill: Prefill) -> Scores:
        faulty = torch.zeros(prefill.shape)
        if self.fault == "shape":
            return faulty[:, :, 1:]
        faulty[0, 0, 0] = torch.nan if self.fault == "nan" else -torch.inf
        return faulty


@pytest.mark.parametrize(
    ("fault", "says"), [("shape", "returned shape"), ("nan", "NaN"), ("inf", "infinite")]
)
def test_a_users_own_class_is_checked(fault: str, says: str, bench: Bench, filled: Prefill) -> None:
    base = f"{__name__}:Broken"
    method = Method("mine", base, "head", {"fault": fault}, artefact=None, uses=())
    with pytest.raises(ValueError, match=says):
        scores_of(build(method, bench), filled)
