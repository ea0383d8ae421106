"""Both schedules give the same scores; in parallel, sides overlap, and fail together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from random_models import random_ids, random_net
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks import tiny, tiny_language
from proxykv.benchmarks.examples import write_jsonl
from proxykv.config.run import Run
from proxykv.config.settings.signals import Signal
from proxykv.mapper.hybrid import build_mapper
from proxykv.mapper.stages import MapperConfig
from proxykv.model.caches.context import ATTENTION
from proxykv.model.model import Model
from proxykv.model.parallel import Cancelled, SideError, check, run_in_parallel
from proxykv.model.prefill import prefill
from proxykv.model.tensors import ProxySignal, Scores
from proxykv.runtime.journal import Journal
from proxykv.scoring.proxy import ProxyMap, Request, prefill_and_score
from proxykv.scoring.selection import select
from proxykv.scoring.signals import proxy_signals
from proxykv.scoring.timeline import Span, Timeline
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade

PREFIX = 3
SIDES = [["target_prefill"], ["proxy_prefill", "proxy_scoring", "mapper"]]


class Pair:
    """Random models with a random mapper between them."""

    def __init__(self) -> None:
        self.target = model(seed=0, num_hidden_layers=3)
        self.proxy = model(seed=1, num_hidden_layers=2, hidden_size=32, num_attention_heads=2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.mapper = build_mapper(MapperConfig(2, 2, 3, 2)).eval()
        self.ids = random_ids(PREFIX + 120, seed=3)

    def run(self, schedule: Any, mapper: Callable[[ProxySignal], Scores] | None = None) -> Request:
        maps = {"proxykv": ProxyMap(Signal(), mapper or self.mapper.score)}
        return prefill_and_score(self.target, self.proxy, self.ids, PREFIX, maps, schedule)


def model(**settings: Any) -> Model:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_language.make_tokenizer())
    net = random_net("llama", ATTENTION, vocab_size=len(tokenizer), **settings)
    return Model(net, tokenizer, prefix=(5,) * PREFIX, suffix=(), digest="")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


@contextmanager
def before_layer(of: Model, layer: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something whenever a forward reaches a layer."""
    hook = of.net.base_model.layers[layer].register_forward_pre_hook(lambda *_: act())  # type: ignore[union-attr]
    try:
        yield
    finally:
        hook.remove()


def test_schedules_give_the_same_bits(pair: Pair) -> None:
    one, other = pair.run("sequential"), pair.run("parallel")
    assert torch.equal(one.signals[Signal()], other.signals[Signal()])
    assert torch.equal(one.mapped["proxykv"], other.mapped["proxykv"])
    for ours, theirs in zip(one.prefill.cache.layers, other.prefill.cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_other_thread_counts_keep_the_same_sets(pair: Pair) -> None:
    one = pair.run("sequential").mapped["proxykv"]
    torch.set_num_threads(2)
    try:
        other = pair.run("parallel").mapped["proxykv"]
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    for retention in (0.1, 0.3):
        assert torch.equal(select(one, retention, "global"), select(other, retention, "global"))


BITS = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from random_models import random_ids
from test_pipeline import PREFIX, Signal, model, proxy_signals
wide = model(hidden_size=1024, intermediate_size=1536, num_attention_heads=16)
scores = proxy_signals(wide, wide, random_ids(PREFIX + 300, seed=3), PREFIX, [Signal()])[Signal()]
print(hashlib.sha256(scores.numpy().tobytes()).hexdigest())
"""


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch without MKL")
def test_a_setting_of_mkl_gives_the_same_bits_at_any_thread_count() -> None:
    """A model as wide as this one rounds otherwise without it."""
    env = {**os.environ, "MKL_CBWR": "AUTO,STRICT", "PYTHONPATH": os.pathsep.join(sys.path)}
    ask = [sys.executable, "-c", BITS]
    processes = [subprocess.Popen([*ask, n], env=env, stdout=subprocess.PIPE) for n in ("1", "2")]
    one, two = (process.communicate()[0] for process in processes)
    assert len(one.strip()) == 64 and one == two


def test_the_proxys_side_uses_as_many_threads_as_the_targets() -> None:
    torch.set_num_threads(2)
    try:
        # A thread that another library limits must not decide for the next one.
        limited = threading.Thread(target=torch.set_num_threads, args=[1])
        limited.start()
        limited.join()
        assert run_in_parallel(torch.get_num_threads, torch.get_num_threads) == (2, 2)
    finally:
        torch.set_num_threads(1)


def test_sides_overlap_in_parallel_only(pair: Pair) -> None:
    # Both models are in their first forward at once, or the barrier breaks.
    barrier = threading.Barrier(2, timeout=60)
    met: list[bool] = []

    def meet() -> None:
        if len(met) < 2:
            met.append(True)
            barrier.wait()

    with before_layer(pair.target, 1, meet), before_layer(pair.proxy, 1, meet):
        timeline = pair.run("parallel").timeline
    spans = {span.phase: span for span in timeline.spans}
    assert spans["proxy_prefill"].start < spans["target_prefill"].end
    assert spans["target_prefill"].start < spans["proxy_prefill"].end
    assert timeline.overlap() > 0

    after = pair.run("sequential").timeline
    assert [span["phase"] for span in after.record()] == [name for side in SIDES for name in side]
    assert after.overlap() == 0


def test_a_method_is_charged_what_the_target_waits_for_it() -> None:
    timeline = Timeline()
    timeline.spans = [
        Span("target_prefill", 0, 10),
        Span("proxy_prefill", 0, 4, "layers1"),
        Span("proxy_scoring", 4, 9, "kvzip"),
        Span("mapper", 9, 12, "slow"),
        Span("mapper", 12, 12.5, "quick"),
    ]
    assert timeline.wait("slow", Signal()) == 2
    assert timeline.wait("quick", Signal()) == 0  # alone, it would have been ready at 9.5
    assert timeline.overlap() == 10


def fail() -> None:
    raise ValueError("broken weights")


def forever(work: Callable[[], Any]) -> Any:
    while True:
        work()


def test_a_failing_proxy_stops_the_target_between_layers(pair: Pair) -> None:
    with pytest.raises(SideError, match="the proxy failed: ValueError: broken weights") as caught:
        run_in_parallel(lambda: forever(lambda: prefill(pair.target, pair.ids, PREFIX)), fail)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_failing_target_stops_the_proxys_prefill_and_scoring(pair: Pair) -> None:
    def score() -> None:
        proxy_signals(pair.target, pair.proxy, pair.ids, PREFIX, [Signal()])

    with pytest.raises(SideError, match="the target failed: ValueError: broken weights"):
        run_in_parallel(fail, lambda: forever(score))


def test_a_failing_target_stops_the_mapper_between_blocks(pair: Pair) -> None:
    scores = proxy_signals(pair.target, pair.proxy, pair.ids, PREFIX, [Signal()])[Signal()]
    mapping = threading.Event()

    def target() -> None:
        mapping.wait(60)
        fail()

    def work() -> None:
        mapping.set()
        forever(lambda: pair.mapper.score(scores, block=50))

    with pytest.raises(SideError, match="the target failed"):
        run_in_parallel(target, work)


@pytest.mark.parametrize(("culprit", "layer"), [("target", 2), ("proxy", 1)])
def test_a_failing_model_is_named(pair: Pair, culprit: str, layer: int) -> None:
    with (
        before_layer(getattr(pair, culprit), layer, fail),
        pytest.raises(SideError, match=f"the {culprit} failed: ValueError: broken weights"),
    ):
        pair.run("parallel")
    # Nothing is left of it.
    assert torch.equal(
        pair.run("parallel").mapped["proxykv"], pair.run("sequential").mapped["proxykv"]
    )


def test_a_failing_mapper_is_the_proxys_side(pair: Pair) -> None:
    def broken(scores: ProxySignal) -> Scores:
        raise MemoryError("no room")

    with pytest.raises(SideError, match="the proxy failed: MemoryError: no room"):
        pair.run("parallel", broken)


def test_an_interrupt_is_passed_on_and_stops_the_proxy() -> None:
    stopped: list[bool] = []
    working = threading.Event()

    def target() -> None:
        working.wait(60)
        raise KeyboardInterrupt

    def proxy() -> None:
        working.set()
        try:
            forever(check)
        except Cancelled:
            stopped.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        run_in_parallel(target, proxy)
    assert stopped
    check()  # this thread's later work is not cancelled


def rows(root: Path, name: str, **settings: Any) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Rows of a run of the tiny family, and its timelines."""
    (run_dir := root / "results" / name).mkdir(parents=True, exist_ok=True)
    if not (run_dir / "mappers").exists():
        (run_dir / "mappers").symlink_to(root / "results" / "tiny" / "mappers")
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 3, "lengths": [96]}
    run = Run(
        {
            "run": name,
            "families": ["tiny"],
            "retentions": [0.3, 1.0],
            "methods": ["full", "kvzip", "proxykv", "proxykv_head", "proxykv_shuffled"],
            "benchmarks": [dataset],
            "corpus": [dataset],
            "training": {"val_contexts": 1},
            **settings,
        }
    )
    (job,) = run.jobs()
    examples = tiny.build(
        "single",
        tokenizer=tiny_language.make_tokenizer(),
        contexts=3,
        lengths=[96],
        seed=9,
        split="eval",
    )
    write_jsonl(job.dataset.path, examples)
    generate(run, job)
    lines = job.timelines.read_text("utf-8").split("\n")
    return pd.read_parquet(grade(job)), [json.loads(line) for line in lines if line]


@pytest.mark.parametrize("protocol", ["query_agnostic", "query_aware"])
def test_a_run_in_parallel_differs_in_its_timings_alone(
    protocol: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    one, _ = rows(trained, f"one-{protocol}", protocol=protocol)
    other, timelines = rows(trained, f"two-{protocol}", protocol=protocol, schedule="parallel")
    assert set(one.schedule) == {"sequential"}
    assert set(other.schedule) == {"parallel"}
    # Timings of one schedule never replace those of the other.
    assert not set(one.method_digest) & set(other.method_digest)
    for column in ("method", "retention", "prediction", "nll", "kl", "achieved_retention"):
        assert one[column].tolist() == other[column].tolist()
    passes = 1 if protocol == "query_agnostic" else len(one.question.unique())
    assert len(timelines) == 3 * passes
    # What the four methods keep at 0.3 is recorded, and the oracle agrees with itself.
    kept = Journal(
        trained / f"results/one-{protocol}/predictions/tiny/tiny/single.kept.jsonl"
    ).read()
    assert len(kept) == 3 * passes * 4 and {line["retention"] for line in kept} == {0.3}
    overlaps = [line["overlap"] for line in kept if line["method"] == "kvzip"]
    assert {share for layers in overlaps for share in layers} <= {1.0, None}
    for line in timelines:
        assert line["schedule"] == "parallel"
        assert {span["phase"] for span in line["spans"]} == {
            name for side in SIDES for name in side
        }


def test_switching_the_schedule_of_a_run_times_it_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    _, first = rows(trained, "switched")
    again, same = rows(trained, "switched")
    assert len(same) == len(first) == 3  # nothing was missing
    parallel, more = rows(trained, "switched", schedule="parallel")
    assert set(again.schedule) == {"sequential"}
    assert set(parallel.schedule) == {"parallel"}
    assert len(more) == 6
