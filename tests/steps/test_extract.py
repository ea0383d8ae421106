"""Extraction of training scores: in shards, once, and only what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import random_net
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks import tiny
from proxykv.config.run import Run
from proxykv.mapper.stored_scores import load_scores
from proxykv.model.context_cache import ATTENTION
from proxykv.model.loading import Model
from proxykv.runtime.errors import ConfigError
from proxykv.steps import extract as extraction
from proxykv.steps.prepare import prepare

CONTEXTS = 5


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Random models in place of the family's; the contexts that they score."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.make_tokenizer())

    def load(run: Run, family: str, role: str) -> Model:
        layers = {"target": 3, "proxy": 2}[role]
        net = random_net("llama", ATTENTION, vocab_size=512, num_hidden_layers=layers)
        return Model(net, tokenizer, prefix=(), suffix=(), digest=role)

    done: list[str] = []
    store = extraction._store

    def noted(target: Any, proxy: Any, example: Any, *rest: Any) -> None:
        done.append(example.id)
        store(target, proxy, example, *rest)

    monkeypatch.setattr(extraction, "load", load)
    monkeypatch.setattr(extraction, "_store", noted)
    return done


def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    if not (tmp_path / "models").exists():
        (tmp_path / "models").symlink_to(Path(__file__).parents[2] / "models")
    monkeypatch.chdir(tmp_path)
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": CONTEXTS, "lengths": [80]}
    config = {
        "run": "r",
        "families": ["tiny"],
        "retentions": [0.1, 1.0],
        "methods": ["full", "prior"],
        "benchmarks": [dataset],
        "corpus": [dataset],
        "training": {"val_contexts": 1},
        **changes,
    }
    run = Run(config)
    for data in run.datasets("tiny", "train"):
        prepare(run, data)
    return run


def test_shards_share_the_contexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    run = make_run(tmp_path, monkeypatch, score_shards=2)
    lists = [extraction.extract(run, "tiny", shard) for shard in (0, 1)]
    assert lists == run.score_lists("tiny")
    files, pair = extraction.stored(lists)
    assert len(set(files)) == len(computed) == len(set(computed)) == CONTEXTS
    assert pair["target_hash"] == "target" and pair["proxy_hash"] == "proxy"
    assert load_file(files[0])["target"].dtype == torch.float32
    for signal in ("kvzip", "prefill"):
        proxy, target = load_scores(files[0], signal)
        assert proxy.shape == (2, 2, 80) and target.shape == (3, 2, 80)


def test_what_is_there_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    run = make_run(tmp_path, monkeypatch)
    files, _ = extraction.stored([extraction.extract(run, "tiny", 0)])
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # a disk that filled up
    computed.clear()
    # A corpus with one more context, in two jobs: only what is missing or damaged is computed.
    dataset = {**run.config["corpus"][0], "contexts": CONTEXTS + 1}
    wider = make_run(tmp_path, monkeypatch, corpus=[dataset], score_shards=2)
    again, _ = extraction.stored([extraction.extract(wider, "tiny", shard) for shard in (0, 1)])
    assert set(files) < set(again)
    assert sorted(computed) == [f"tiny-single-train-0-{i:05d}" for i in (1, 2, CONTEXTS)]


def test_scores_of_different_weights_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    run = make_run(tmp_path, monkeypatch, score_shards=2)
    lists = [extraction.extract(run, "tiny", shard) for shard in (0, 1)]
    text = lists[1].read_text("utf-8")
    lists[1].write_text(text.replace('"target"', '"other"'), "utf-8")
    with pytest.raises(ConfigError, match="scores of different weights"):
        extraction.stored(lists)
