"""Decoding: the same memory at every step, rows that end at different times, and kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from cpu_graph import play
from random_models import random_ids, random_net
from torch import Tensor

from proxykv.kernels.choice import VARIABLE
from proxykv.kernels.layout import Entries
from proxykv.kernels.ragged_attention import ragged_attention
from proxykv.model import greedy
from proxykv.model.caches.context import ATTENTION
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.caches.sweep import SweepCache
from proxykv.model.decode import TokenizedQuestion, answer, answer_from
from proxykv.model.greedy import WORTH, Captured, Steps, decode, graph_of, step
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Keep
from proxykv.scoring.selection import select

PREFIX, CONTEXT = 2, 40


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(random_net("llama", ATTENTION), tokenizer=None, prefix=(), suffix=(), digest="")


@pytest.fixture(scope="module")
def small() -> Model:
    """For the interpreter, which is slow."""
    net = random_net("llama", ATTENTION, num_hidden_layers=2)
    return Model(net, tokenizer=None, prefix=(), suffix=(), digest="")


@pytest.fixture(scope="module")
def single() -> Model:
    """One layer, for many interpreted steps."""
    net = random_net("llama", ATTENTION, num_hidden_layers=1)
    return Model(net, tokenizer=None, prefix=(), suffix=(), digest="")


def prefilled(model: Model, seed: int, tokens: int = CONTEXT) -> Prefill:
    return prefill(model, random_ids(PREFIX + tokens, seed=seed), PREFIX)


def keeps(context: Prefill) -> list[Keep]:
    """One leaves a head nothing."""
    scores = torch.rand(context.shape, generator=torch.Generator().manual_seed(3))
    few = select(scores, 0.2, "global")
    few[0, 1] = False
    return [few, select(scores, 0.6, "global")]


def question(prompt: int, limit: int, seed: int, *stop: int) -> TokenizedQuestion:
    ids = tuple(random_ids(prompt + 2, seed=seed).tolist())
    return TokenizedQuestion(ids[:prompt], ids[prompt:], limit, frozenset(stop))


def caches(context: Prefill) -> Iterator[tuple[SlottedCache, int]]:
    """Both caches, each with the number of its rows."""
    yield PrunedCache(context.cache, PREFIX, keeps(context)[0]), 1
    yield SweepCache(context.cache, PREFIX, keeps(context), [0, 1]), 2


def ready(model: Model, context: Prefill, cache: SlottedCache, rows: int, room: int = 20) -> Steps:
    """Read a question of three tokens; return the first step's input."""
    cache.reset()
    cache.reserve(room)
    ids = random_ids(3 * rows, seed=9).view(rows, 3)
    first = len(context.input_ids)
    hidden = model.hidden(ids, torch.arange(first, first + 3).expand(rows, 3), cache)
    tokens = model.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True)
    positions = torch.full((rows, 1), first + 3)
    return Steps(tokens, positions, tokens.new_zeros(rows, 8), tokens.new_zeros(1))


@torch.inference_mode()
def test_a_step_finds_everything_where_the_last_one_did(model: Model) -> None:
    context = prefilled(model, seed=1)
    for cache, rows in caches(context):
        steps, (since,) = ready(model, context, cache, rows), cache.parts
        slots = [t for i in range(len(cache.layers)) for t in since.slots(i) if t is not None]
        memory = [*slots, since.index, *steps]
        before = [(t.data_ptr(), t.shape, t.stride()) for t in memory]
        for taken in range(4, 10):
            step(model, cache, steps)
            assert since.used == since.index.item() == taken
            after = [t for i in range(len(cache.layers)) for t in since.slots(i) if t is not None]
            found = [*after, since.index, *steps]
            assert [(t.data_ptr(), t.shape, t.stride()) for t in found] == before
        assert steps.at.item() == 6
        assert (steps.positions == len(context.input_ids) + 9).all()


def test_rows_may_end_at_different_times(model: Model) -> None:
    """By limits of 1 to 20 tokens and by stop tokens: each row is what it is alone."""
    context = prefilled(model, seed=1)
    free = answer(context, keeps(context), [question(5, 20, 7)], 8)[0]
    asks = [
        question(5, 1, 7),
        question(5, 20, 7, free[0].ids[6], free[1].ids[11]),
        question(2, 9, 8),
        question(7, 20, 9),
    ]
    in_one_batch = answer(context, keeps(context), asks, 64)
    assert len({len(one.ids) for answers in in_one_batch for one in answers}) > 4
    for ask, answers in zip(asks, in_one_batch, strict=True):
        for keep, one in zip(keeps(context), answers[1:], strict=True):
            ((_, alone),) = answer(context, [keep], [ask], 1)
            assert alone.ids == one.ids
            assert alone.nll == pytest.approx(one.nll, abs=1e-5)
            if not ask.stop:
                cache = PrunedCache(context.cache, PREFIX, keep)
                start = len(context.input_ids)
                limit = ask.max_new_tokens
                assert answer_from(model, cache, start, ask.prompt, limit) == list(one.ids)
                assert answer_from(model, cache, start, ask.prompt, 0) == []


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "triton")


@pytest.mark.usefixtures("triton")
def test_kernels_answer_as_the_reference_does(
    small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, asks = prefilled(small, seed=1), [question(2, 2, 7), question(1, 1, 8)]
    keep = keeps(context)[0]
    ours = answer(context, [keep], asks, 64)
    cache = PrunedCache(context.cache, PREFIX, keep)
    pruned = answer_from(small, cache, len(context.input_ids), asks[0].prompt, 2)
    assert pruned == list(ours[0][1].ids)
    monkeypatch.setenv(VARIABLE, "reference")
    for one, other in zip(ours, answer(context, [keep], asks, 64), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.ids == b.ids
            assert a.nll == pytest.approx(b.nll, abs=1e-5)
            assert a.kl == pytest.approx(b.kl, abs=1e-5)


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize(("longest", "kernels"), [(1 << 24, "reference"), (1 << 23, "triton")])
def test_heads_that_no_kernel_can_address_take_the_reference(longest: int, kernels: str) -> None:
    """All layers of a cache take the same, so that a step is captured or not."""
    entries = []
    for counts in ([1, longest], [3, 2]):
        keys = torch.empty(sum(counts), 128, device="meta")
        entries.append(Entries(keys, keys, counts))
    (since,) = SlottedCache(entries, longest, ragged_attention).parts
    assert since.kernels.kernels == kernels
    if kernels == "reference":
        assert [since.place(layer).table for layer in range(2)] == [None, None]


@pytest.mark.usefixtures("triton")
@torch.inference_mode()
def test_a_captured_step_decodes_what_operations_do(
    monkeypatch: pytest.MonkeyPatch, single: Model
) -> None:
    """Nothing in it asks the host; its graph serves both contexts, token after token."""
    contexts = [prefilled(single, seed=1), prefilled(single, seed=2, tokens=57)]
    play(monkeypatch)
    for (one, rows), (other, _) in zip(*map(caches, contexts), strict=True):
        starts: list[Steps] = []
        expected: list[Tensor] = []
        monkeypatch.setenv(VARIABLE, "reference")
        for context, cache in zip(contexts, (one, other), strict=True):
            steps = ready(single, context, cache, rows)
            for _ in range(2):
                step(single, cache, steps)
            expected.append(steps.written)
            starts.append(ready(single, context, cache, rows))
        monkeypatch.setenv(VARIABLE, "triton")
        graph = Captured(single, one, starts[0], None)
        for cache, steps, written in [
            (other, starts[1], expected[1]),
            (one, starts[0], expected[0]),
        ]:
            (since,) = cache.parts
            assert since.used == since.index.item() == 3
            graph.run(cache, steps, 1)
            graph.run(cache, steps, 1)
            assert since.used == since.index.item() == 5
            assert torch.equal(steps.written, written)


@pytest.mark.usefixtures("triton")
@torch.inference_mode()
def test_after_a_replay_that_failed_steps_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It breaks off in the middle of a token; the answer loses none and repeats none."""
    net = random_net("llama", ATTENTION, num_hidden_layers=1)
    model = Model(net, tokenizer=None, prefix=(), suffix=(), digest="")
    context = prefilled(model, seed=1)
    cache, rows = next(caches(context))
    monkeypatch.setenv(VARIABLE, "reference")
    monkeypatch.setattr(greedy, "BURSTS", {"cpu": 3})

    def written() -> list[list[int]]:
        steps = ready(model, context, cache, rows)
        first, positions = steps.tokens[:, 0], steps.positions[:, 0]
        return decode(model, cache, first, positions, [6] * rows, [frozenset()] * rows)

    expected = written()
    play(monkeypatch)
    monkeypatch.setenv(VARIABLE, "triton")
    (since,) = cache.parts

    def broken(model: Model, cache: SlottedCache, steps: Steps, most: int) -> Captured | None:
        def capture(pool: Any) -> Captured:
            made = Captured(model, cache, steps, pool)
            monkeypatch.setattr(made.graph, "replay", fails_in(made.graph, 5))
            return made

        return graph_of(model.net, since.shape, WORTH, capture)

    monkeypatch.setattr(greedy, "captured", broken)
    assert written() == expected
    assert caplog.messages == ["decoding runs without a CUDA graph: a replay failed: no luck"]
    assert since.used == since.index.item() == 3 + 5
    assert broken(model, cache, ready(model, context, cache, rows), WORTH) is None


def fails_in(graph: Any, number: int) -> Callable[[], None]:
    """The graph's `replay`, which breaks off in the middle of one of its calls."""
    calls: list[int] = []

    def replay() -> None:
        calls.append(len(calls))
        failing = len(calls) == number
        for each in graph.work[: len(graph.work) // 2 if failing else None]:
            each()
        if failing:
            raise RuntimeError("no luck\ndetails")

    return replay


class Curious(Model):
    """The host reads a number in every step."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits."""
        assert hidden.sum().item() < torch.inf
        return super().logits(hidden)


@pytest.mark.usefixtures("triton")
@torch.inference_mode()
def test_a_step_that_asks_the_host_runs_operation_by_operation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning; the cache is as it was, so the answer is what it would have been."""
    net = random_net("llama", ATTENTION, num_hidden_layers=1)
    curious = Curious(net, tokenizer=None, prefix=(), suffix=(), digest="")
    context = prefilled(curious, seed=1)
    play(monkeypatch)
    written = []
    for attempts in (0, 2):
        cache, rows = next(caches(context))
        monkeypatch.setenv(VARIABLE, "reference")
        steps = ready(curious, context, cache, rows)
        (since,) = cache.parts
        monkeypatch.setenv(VARIABLE, "triton")
        for _ in range(attempts):
            capture = partial(Captured, curious, cache, steps)
            assert graph_of(net, since.shape, WORTH, capture) is None
        step(curious, cache, steps)
        written.append(steps.written)
    assert torch.equal(*written)
    (warning,) = caplog.messages
    assert "runs without a CUDA graph" in warning and "not permitted" in warning


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: bool(x > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x + torch.tensor([1.0]),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(
    refused: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test's own check."""
    pytest.importorskip("triton")
    play(monkeypatch)
    x, graph = torch.ones(1), torch.cuda.CUDAGraph()
    with (
        pytest.raises(RuntimeError, match="not permitted"),
        torch.cuda.graph(graph, None, capture_error_mode="thread_local"),
    ):
        refused(x)


def test_the_host_may_read_several_tokens_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that have ended idle until then; what they write meanwhile is dropped."""
    context = prefilled(model, seed=1)
    free = answer(context, keeps(context), [question(5, 20, 7)], 8)[0]
    asks = [question(5, 1, 7), question(5, 20, 7, free[1].ids[11]), question(2, 9, 8)]
    one_by_one = answer(context, keeps(context), asks)
    monkeypatch.setattr(greedy, "BURSTS", {})
    for ours, theirs in zip(answer(context, keeps(context), asks), one_by_one, strict=True):
        assert [one.ids for one in ours] == [one.ids for one in theirs]


def test_decoding_warns_of_nothing_without_cuda(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    context = prefilled(model, seed=1)
    with caplog.at_level(logging.WARNING):
        answer(context, keeps(context), [question(4, 20, 7)], 8)
    assert not caplog.records


def test_after_a_capture_that_failed_steps_run_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = random_net("llama", ATTENTION, num_hidden_layers=1)
    tried = []

    def capture(pool: Any) -> Captured:
        tried.append(pool)
        raise RuntimeError("operation not permitted when stream is capturing\ndetails")

    with caplog.at_level(logging.WARNING):
        assert graph_of(net, ("rows", 1), WORTH - 1, capture) is None
        assert tried == []  # it would not pay
        found = [graph_of(net, shape, WORTH, capture) for shape in (("rows", 1), ("rows", 2))]
    assert found == [None, None] and tried == [None]
    why = "its capture failed: operation not permitted when stream is capturing"
    assert caplog.messages == [f"decoding runs without a CUDA graph: {why}"]


def test_a_graph_is_captured_once_for_a_shape_and_shares_memory() -> None:
    net = random_net("llama", ATTENTION, num_hidden_layers=1)
    made: list[Any] = []

    class Graph(Captured):
        """Stands in for a captured step."""

        def __init__(self, pool: Any) -> None:
            self.graph, self.number = self, len(made)
            made.append(pool)

        def pool(self) -> int:
            return self.number

    shapes = [("rows", 1), ("rows", 2), ("rows", 1)]
    graphs = [graph_of(net, shape, WORTH, Graph) for shape in shapes]
    assert graphs[0] is graphs[2] and graphs[0] is not graphs[1] and made == [None, 0]
    assert graph_of(net, ("rows", 2), 1, Graph) is graphs[1]
