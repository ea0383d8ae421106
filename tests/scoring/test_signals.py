"""Signals that cost less than KVzip's replay, against the plain way to compute them."""

from __future__ import annotations

import pytest
import torch
from random_models import random_ids, random_net
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks import tiny_language
from proxykv.config.settings.signals import Signal, stored_signals
from proxykv.model.caches.context import ATTENTION
from proxykv.model.model import Model
from proxykv.model.prefill import prefill
from proxykv.scoring.kvzip import replay_of, replays, score_replays
from proxykv.scoring.signals import proxy_signals
from proxykv.scoring.timeline import Timeline

PREFIX = 3
VOCABULARY = 512


def model(architecture: str = "llama", *, plain: bool = False, layers: int = 3) -> Model:
    """A random model; `plain` runs transformers' own attention and can return its weights."""
    net = random_net(
        architecture,
        "eager" if plain else ATTENTION,
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_language.make_tokenizer())
    return Model(net, tokenizer, prefix=(5,) * PREFIX, suffix=(), digest="")


def signal_of(reader: Model, ids: torch.Tensor, signal: Signal) -> torch.Tensor:
    return proxy_signals(reader, reader, ids, PREFIX, [signal])[signal]


def masked_replay(plain: Model, ids: torch.Tensor, chunk: slice, replay: torch.Tensor):
    """Scores of a local replay: one forward over everything, under a mask made by hand."""
    n, total = len(ids), len(ids) + len(replay)
    allowed = torch.ones(total, total, dtype=torch.bool).tril()
    allowed[n:, PREFIX:n] = False
    allowed[n:, chunk] = True
    mask = torch.zeros(total, total).masked_fill(~allowed, torch.finfo(torch.float32).min)
    all_ids = torch.cat([ids, replay])[None]
    out = plain.net(all_ids, attention_mask=mask[None, None], output_attentions=True)
    weights = torch.cat(out.attentions)[:, :, n:, chunk]
    return weights.amax(dim=2).unflatten(1, (2, -1)).amax(dim=2)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("chunk", [7, 20, 50])
def test_a_local_replay_attends_to_prefix_chunk_and_itself(architecture: str, chunk: int) -> None:
    ours, plain = model(architecture), model(architecture, plain=True)
    ids = random_ids(PREFIX + 50, seed=1)
    prefilled = prefill(ours, ids, PREFIX)
    pairs = replays(ours, prefilled.context, chunk)
    expected, start = [], PREFIX
    for tokens, replay in pairs:
        expected.append(masked_replay(plain, ids, slice(start, start + len(tokens)), replay))
        start += len(tokens)
    scores = score_replays(prefilled, pairs, local=True)
    torch.testing.assert_close(scores, torch.cat(expected, dim=-1), atol=1e-5, rtol=1e-4)


def test_a_local_replay_differs_from_kvzip_only_where_there_are_several_chunks() -> None:
    reader, ids = model(), random_ids(PREFIX + 60, seed=2)
    prefilled = prefill(reader, ids, PREFIX)
    for chunk, same in ((60, True), (20, False)):
        pairs = replays(reader, prefilled.context, chunk)
        complete, local = (score_replays(prefilled, pairs, local=flag) for flag in (False, True))
        assert torch.allclose(complete, local, atol=1e-6) == same


def test_windows_are_contexts_of_their_own() -> None:
    reader, ids = model(), random_ids(PREFIX + 50, seed=3)
    found = signal_of(reader, ids, Signal("windowed", chunk=20))
    expected = [
        signal_of(reader, torch.cat([ids[:PREFIX], window]), Signal())
        for window in ids[PREFIX:].tensor_split(3)  # 50 tokens in windows of at most 20
    ]
    assert torch.equal(found, torch.cat(expected, dim=-1))


def test_one_window_is_kvzip() -> None:
    reader, ids = model(), random_ids(PREFIX + 50, seed=3)
    assert torch.equal(
        signal_of(reader, ids, Signal("windowed", chunk=50)), signal_of(reader, ids, Signal())
    )


def test_a_window_sees_the_tokens_before_it_and_nothing_else() -> None:
    reader, ids = model(), random_ids(PREFIX + 40, seed=4)
    signal = Signal("windowed", chunk=20, overlap=6)
    last = signal_of(reader, ids, signal)[..., 20:]
    for changed, same in ((PREFIX + 13, True), (PREFIX + 14, False)):  # 6 tokens before the window
        other = ids.clone()
        other[changed] = (other[changed] + 1) % VOCABULARY
        assert torch.equal(signal_of(reader, other, signal)[..., 20:], last) == same
    text = torch.cat([ids[:PREFIX], ids[PREFIX + 14 :]])
    prefilled = prefill(reader, text, PREFIX)
    pairs = [
        replay_of(reader, text[PREFIX : PREFIX + 6], text[:0]),
        replay_of(reader, text[PREFIX + 6 :], text[PREFIX : PREFIX + 6]),
    ]
    assert torch.equal(score_replays(prefilled, pairs)[..., 6:], last)


@pytest.mark.parametrize("kind", ["kvzip", "local", "windowed", "prefill"])
def test_the_first_layers_score_as_they_do_in_the_whole_proxy(kind: str) -> None:
    reader, ids = model(layers=4), random_ids(PREFIX + 50, seed=5)
    complete = signal_of(reader, ids, Signal(kind, chunk=20))  # type: ignore[arg-type]
    half = signal_of(reader, ids, Signal(kind, chunk=20, layers=0.5))  # type: ignore[arg-type]
    assert torch.equal(half, complete[:2])
    assert reader.net.config.num_hidden_layers == 4
    assert signal_of(reader, ids, Signal()).shape[0] == 4


def test_signals_share_the_prefill_that_they_read() -> None:
    reader, ids = model(layers=4), random_ids(PREFIX + 50, seed=6)
    timeline = Timeline()
    signals = [
        *(Signal(), Signal("local", chunk=20), Signal("prefill"), Signal("windowed", chunk=20)),
        Signal("kvzip", layers=0.5),
    ]
    proxy_signals(reader, reader, ids, PREFIX, signals, timeline)
    phases = [span.phase for span in timeline.spans]
    assert phases.count("proxy_prefill") == 2  # of all layers, and of half of them
    assert phases.count("proxy_scoring") == len(signals)
    windowed = timeline.span("proxy_scoring", "windowed_chunk20").seconds
    assert timeline.proxy_seconds(Signal("windowed", chunk=20)) == windowed
    read = timeline.span("proxy_prefill", "layers1").seconds
    scored = timeline.span("proxy_scoring", "prefill").seconds
    assert timeline.proxy_seconds(Signal("prefill")) == read + scored


def test_signals_have_different_names() -> None:
    signals = [
        *(Signal(), Signal("local"), Signal("windowed"), Signal("prefill")),
        *(Signal(chunk=128), Signal("windowed", overlap=16), Signal(layers=0.5)),
        *(Signal("windowed", 128, 16), Signal("windowed", 128, 16, 0.5)),
    ]
    assert len({signal.name for signal in signals}) == len(signals)


def test_a_run_stores_the_signals_of_its_fitted_methods_besides_kvzip() -> None:
    fitted = [{}, {"signal": "local", "signal_chunk": 128}, {"shuffled": True}]
    assert stored_signals(fitted, {"steps": 9}) == (Signal("local", 128),)
    by_training = stored_signals(fitted, {"signal": "windowed"})
    assert by_training == (Signal("local", 128), Signal("windowed"))
