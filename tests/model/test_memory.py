"""What pruning is for: less memory, and decoding that reads less of it."""

from __future__ import annotations

import gc
import statistics
import time
import weakref
from collections.abc import Iterable

import psutil
import pytest
import torch
from live_bytes import LiveBytes
from random_models import random_ids, random_net
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from proxykv.config.catalog import ROOT
from proxykv.kernels import masked_attention
from proxykv.model.caches.context import ATTENTION, ContextCache
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.caches.sweep import SweepCache
from proxykv.model.decode import TokenizedQuestion, answer, rows_that_fit
from proxykv.model.loading import load_model
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Keep
from proxykv.scoring.kvzip import score_replays
from proxykv.scoring.selection import select

LONG = 32_768


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load_model(ROOT / "models" / "tiny" / "target")


def random_cache(model: Model, tokens: int) -> ContextCache:
    """A context's cache without the forward that would fill it."""
    config = model.net.config
    cache = ContextCache(config.num_hidden_layers, observed=1)
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.num_key_value_heads, tokens, config.head_dim)
    for layer in cache.layers:
        layer.store(*(torch.randn(shape, generator=generator) for _ in range(2)))
    return cache


def kept(cache: ContextCache, retention: float) -> Keep:
    """A random kept set in which heads keep different counts."""
    _, heads, tokens, _ = cache.layers[0].keys.shape
    scores = torch.rand(
        len(cache.layers), heads, tokens, generator=torch.Generator().manual_seed(1)
    )
    return select(scores + torch.linspace(0, 0.3, heads)[:, None], retention, "global")


def nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


@pytest.mark.parametrize("retention", [0.05, 0.3, 0.7, 1.0])
def test_bytes_follow_retention(tiny: Model, retention: float) -> None:
    cache = random_cache(tiny, 1000)
    full = nbytes(t for layer in cache.layers for t in (layer.keys, layer.values))
    pruned = PrunedCache(cache, 0, kept(cache, retention))
    held = nbytes(t for layer in pruned.layers for t in (layer.entries.keys, layer.entries.values))
    assert held == pruned.context_bytes  # not views of something larger
    assert held <= (retention + 0.02) * full
    assert held >= (retention - 0.02) * full


def test_nothing_of_the_full_cache_survives() -> None:
    net = random_net("llama", ATTENTION)
    model = Model(net, tokenizer=None, prefix=(), suffix=(), digest="")
    prefilled = prefill(model, random_ids(90, seed=1), 3)
    full = [weakref.ref(t) for layer in prefilled.cache.layers for t in (layer.keys, layer.values)]
    full += [
        weakref.ref(prefilled.cache),
        *(weakref.ref(layer) for layer in prefilled.cache.layers),
    ]
    pruned = PrunedCache(prefilled.cache, 3, select(torch.rand(prefilled.shape), 0.1, "global"))
    del prefilled
    gc.collect()
    assert [ref() for ref in full] == [None] * len(full)
    assert pruned.context_bytes > 0


def test_the_process_shrinks(tiny: Model) -> None:
    """By nine tenths of the cache. Tensors this large go back to the system when they are freed."""
    process = psutil.Process()
    cache = random_cache(tiny, 70_000)
    full = nbytes(t for layer in cache.layers for t in (layer.keys, layer.values))
    keep = kept(cache, 0.1)
    before = process.memory_info().rss
    pruned = PrunedCache(cache, 0, keep)
    del cache
    gc.collect()
    assert before - process.memory_info().rss > 0.8 * full
    assert pruned.context_bytes < 0.11 * full


@torch.inference_mode()
def test_decoding_a_long_context_gets_faster(tiny: Model) -> None:
    """Processor time of a token at 32k: the pruned cache reads a tenth."""
    full = random_cache(tiny, LONG)
    pruned = {rho: PrunedCache(full, 0, kept(full, rho)) for rho in (0.1, 1.0)}
    seconds: dict[float, list[float]] = {rho: [] for rho in pruned}
    for step in range(12):
        for rho, cache in pruned.items():
            where = torch.tensor([[LONG + step]])
            start = time.process_time()
            tiny.hidden(torch.tensor([[7]]), where, cache)
            seconds[rho].append(time.process_time() - start)
    assert statistics.median(seconds[0.1]) < 0.7 * statistics.median(seconds[1.0])


def scoring_peak(context: int, monkeypatch: pytest.MonkeyPatch, chunk: int = 50) -> tuple[int, int]:
    """Most bytes that scoring holds besides the prefilled context, and those of its layer."""

    # What follows allocations does not know the class of PyTorch's causal masks; this is the mask.
    def attention(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        new, total = query.shape[2], keys.shape[2]
        mask = torch.ones(new, total, dtype=torch.bool).tril_(total - new)
        return scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True
        )

    monkeypatch.setattr("proxykv.kernels.replay_scores.causal_attention", attention)
    net = random_net("llama", ATTENTION)
    model = Model(net, tokenizer=None, prefix=(), suffix=(), digest="")
    prefilled: Prefill = prefill(model, random_ids(context, seed=0), 0)
    chunks = prefilled.context.split(chunk)
    stored = [t for layer in prefilled.cache.layers for t in (layer.keys, layer.values)]
    with LiveBytes([prefilled.input_ids, *stored]) as mode:
        scores = score_replays(prefilled, [(chunk, chunk) for chunk in chunks])
    # The scores exist in parts while later chunks are scored.
    layer = sum(t.nbytes for t in stored) // len(prefilled.cache.layers)
    return mode.peak - scores.untyped_storage().nbytes(), layer


def test_scoring_holds_a_layers_cache_and_a_chunks_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    short, little = scoring_peak(150, monkeypatch)
    long, much = scoring_peak(1400, monkeypatch)
    mask = 50 * (1400 - 150)
    assert long - short <= 1.02 * (much - little + mask)


def test_scoring_holds_four_tiles_of_the_score_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile: the float32 weights of 384 queries over the chunk and its replay."""
    peak, _ = scoring_peak(1200, monkeypatch, chunk=1200)
    assert peak <= 4 * 384 * (2 * 1200) * 4


def stored(cache: ContextCache) -> list[Tensor]:
    return [t for layer in cache.layers for t in (layer.keys, layer.values)]


@pytest.mark.parametrize("rows", [32, 150])
def test_a_row_of_a_sweep_takes_a_bit_of_each_entry_and_its_own_tokens(
    tiny: Model, rows: int
) -> None:
    """Whatever the rows keep; the shared context is not copied."""
    context, room = random_cache(tiny, 1000), 20
    keeps = [kept(context, retention) for retention in (0.1, 0.3, 0.5)]
    with LiveBytes([*stored(context), *keeps]) as mode:
        cache = SweepCache(context, 0, keeps, [row % 3 for row in range(rows)])
        making = mode.peak
        cache.reserve(room)
    entries = sum(sum(each.counts) for each in cache.entries)
    bits = 4 * -(-rows // 32) * entries
    own = (
        rows
        * room
        * (1 + sum(len(each.counts) * each.keys[0].nbytes for each in cache.entries) * 2)
    )
    assert mode.held <= bits + own + 64
    # Words and their copy; the marks of one kept set, as bits, once more for each shift.
    assert making <= 2 * bits + 3 * 4 * entries


def test_a_batch_stays_within_the_memory_that_it_was_given(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, references and decoding of as many rows as fit; all but attention's own tile."""
    monkeypatch.setattr(masked_attention, "BLOCK_ELEMENTS", 1 << 16)
    prefilled = prefill(tiny, random_ids(500, seed=0), 0)
    asked = TokenizedQuestion(tuple(range(5, 45)), tuple(range(5, 21)), 8)
    free = 1 << 24
    rows = rows_that_fit(prefilled, [asked], free, len(prefilled.cache.layers))
    keep = kept(prefilled.cache, 0.3)
    with LiveBytes([keep, prefilled.input_ids, *stored(prefilled.cache), *weights(tiny)]) as mode:
        answer(prefilled, [keep] * (rows - 1), [asked], batch_rows=rows)
    assert rows > 10
    assert free / 8 < mode.peak <= free


def weights(model: Model) -> list[Tensor]:
    return list(model.net.parameters())
