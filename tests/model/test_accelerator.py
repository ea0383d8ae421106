"""An accelerator gives what the CPU gives: kept sets, answers. Skipped where there is none."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from method_fixture import METHODS, PREFIX, RETENTION, fill
from random_models import random_ids

from proxykv.config.run import Run
from proxykv.config.settings.signals import Signal
from proxykv.kernels.choice import VARIABLE
from proxykv.mapper.hybrid import build_mapper
from proxykv.mapper.stages import MapperConfig
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import TokenizedQuestion, answer, answer_from
from proxykv.model.devices import device_of, side_stream
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep
from proxykv.scoring.contract import MethodContext, build, kept_by, scores_of
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy, ProxyMap, prefill_and_score
from proxykv.scoring.selection import select

pytestmark = pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="this machine has no accelerator"
)


def there(model: Model) -> Model:
    net = deepcopy(model.net).to(device_of("auto"))  # type: ignore[arg-type]
    return replace(model, net=net)


@pytest.fixture(scope="module")
def away(target: Model) -> Model:
    return there(target)


@pytest.fixture(scope="module")
def away_context(method_context: MethodContext, proxy: Model) -> MethodContext:
    moved = there(proxy)
    ledger = Ledger()
    return replace(method_context, proxy=Proxy(lambda: moved, ledger), ledger=ledger)


def kept(method: str, method_context: MethodContext, run: Run, prefilled: Prefill) -> Keep:
    settings = run.methods[method]
    scorer = build(settings, method_context)
    if settings.scope == "custom":
        return kept_by(scorer, prefilled, RETENTION)
    scores = scores_of(scorer, prefilled)
    return select(scores, RETENTION, "global" if settings.scope == "none" else settings.scope)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_what_they_keep_on_the_cpu(
    method: str,
    target: Model,
    away: Model,
    method_context: MethodContext,
    away_context: MethodContext,
    run: Run,
    contexts: list[str],
) -> None:
    ours = kept(method, method_context, run, fill(target, contexts[6], contexts[7]))
    theirs = kept(method, away_context, run, fill(away, contexts[6], contexts[7]))
    assert theirs.device.type == away.device.type
    agreed = (ours & theirs.cpu()).sum() / ours.sum()
    assert agreed > 0.98


def test_long_contexts_are_scored_alike_in_half_precision(
    target: Model, away: Model, contexts: list[str]
) -> None:
    """Several chunks: attention over everything is another kernel on every device."""
    kept = []
    for model in (target, away):
        half = replace(model, net=deepcopy(model.net).to(torch.bfloat16))  # type: ignore[arg-type]
        prefilled = fill(half, contexts[6])
        scores = score_replays(prefilled, replays(half, prefilled.context, chunk=40))
        kept.append(select(scores, 0.3, "global").cpu())
    assert (kept[0] & kept[1]).sum() / kept[0].sum() > 0.9


def test_answers_are_those_of_the_cpu(target: Model, away: Model, contexts: list[str]) -> None:
    asks = [TokenizedQuestion((7, 9, 11), (5, 6), 12), TokenizedQuestion((8, 3), (9,), 7)]
    given = []
    for model in (target, away):
        prefilled = fill(model, contexts[6])
        noise = torch.rand(prefilled.shape, generator=torch.Generator().manual_seed(0))
        keeps = [select(noise.to(model.device), rho, "global") for rho in (0.2, 0.5)]
        given.append(answer(prefilled, keeps, asks, batch_rows=4))
    for ours, theirs in zip(*given, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.ids == other.ids
            assert one.kl == pytest.approx(other.kl, abs=1e-4)
            assert one.nll == pytest.approx(other.nll, abs=1e-4)


@torch.inference_mode()
def test_a_pruned_cache_gives_the_logits_of_the_cpu(
    target: Model, away: Model, contexts: list[str]
) -> None:
    logits = []
    for model in (target, away):
        prefilled = fill(model, contexts[6])
        noise = torch.rand(prefilled.shape, generator=torch.Generator().manual_seed(0))
        keep = select(noise.to(model.device), 0.3, "global")
        cache = PrunedCache(prefilled.cache, PREFIX, keep)
        ids = torch.tensor([[7, 9, 11]], device=model.device)
        where = torch.arange(3, device=model.device)[None] + len(prefilled.input_ids)
        logits.append(model.logits(model.hidden(ids, where, cache)).cpu())
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
def test_a_captured_step_decodes_as_operations_do(
    target: Model, away: Model, contexts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, on two contexts that share a graph, with kernels and without."""
    half = replace(away, net=deepcopy(target.net).to(away.device, torch.bfloat16))  # type: ignore[arg-type]
    asks = [TokenizedQuestion((7, 9, 11), (5, 6), 40), TokenizedQuestion((8, 3), (9,), 17)]
    nll: dict[str, list[float]] = {}
    for kernels in ("", "reference"):
        monkeypatch.setenv(VARIABLE, kernels)
        nll[kernels] = []
        for text in contexts[6:8]:
            prefilled = fill(half, text)
            noise = torch.rand(prefilled.shape, generator=torch.Generator().manual_seed(0))
            keep = select(noise.to(half.device), 0.3, "global")
            sweep = answer(prefilled, [keep], asks)
            nll[kernels] += [one.nll or 0.0 for answers in sweep for one in answers]
            again = answer(prefilled, [keep], asks)
            assert [[one.ids for one in a] for a in sweep] == [
                [one.ids for one in a] for a in again
            ]
            cache = PrunedCache(prefilled.cache, PREFIX, keep)
            start = len(prefilled.input_ids)
            first, second = (answer_from(half, cache, start, asks[0].prompt, 40) for _ in range(2))
            assert first == second
    assert nll[""] == pytest.approx(nll["reference"], rel=0.05)


def test_parallel_work_has_ended_when_it_fails(away: Model) -> None:
    stream = None
    with pytest.raises(ValueError, match="a side failed"), side_stream(away.device):
        stream = torch.accelerator.current_stream(away.device)
        torch.randn(4096, 4096, device=away.device).matrix_power(8)
        raise ValueError("a side failed")
    assert stream is not None and stream.query()


def test_schedules_give_the_same_bits(away: Model, proxy: Model) -> None:
    moved = there(proxy)
    mapper = build_mapper(MapperConfig(2, 2, 3, 2)).eval().to(away.device)
    ids = random_ids(PREFIX + 400, seed=3).to(away.device)
    maps = {"proxykv": ProxyMap(Signal(), mapper.score)}
    one, other = (
        prefill_and_score(away, moved, ids, PREFIX, maps, schedule)
        for schedule in ("sequential", "parallel")
    )
    assert torch.equal(one.signals[Signal()], other.signals[Signal()])
    assert torch.equal(one.mapped["proxykv"], other.mapped["proxykv"])
    for ours, theirs in zip(one.prefill.cache.layers, other.prefill.cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
