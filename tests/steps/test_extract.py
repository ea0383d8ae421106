"""Extraction of training scores: in shards, once, and only what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from proxykv.benchmarks.examples import read_jsonl
from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import context_name
from proxykv.mapper.stored_scores import load_scores
from proxykv.model.loading import context_ids, load
from proxykv.model.prefill import prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.steps.extract import extract, stored
from proxykv.steps.prepare import prepare

CONTEXTS = 5
DATASET = {"benchmark": "tiny", "tasks": ["single"], "contexts": CONTEXTS, "lengths": [80]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(**changes: Any) -> Run:
    config = {
        "run": "r",
        "families": ["tiny"],
        "retentions": [0.1, 1.0],
        "methods": ["full", "prior"],
        "benchmarks": [DATASET],
        "corpus": [DATASET],
        "training": {"val_contexts": 1},
        **changes,
    }
    run = Run(config)
    for data in run.datasets("tiny", "train"):
        prepare(run, data)
    return run


def score_files() -> dict[Path, int]:
    """Every score file, and an id that changes when it is written again."""
    return {path: path.stat().st_ino for path in Path("cache/scores").rglob("*.safetensors")}


def test_shards_divide_the_contexts() -> None:
    run = make_run(score_shards=2)
    first = extract(run, "tiny", 0)
    of_first = score_files()
    assert len(of_first) == 3  # of five: each shard computes its own, and no other's
    second = extract(run, "tiny", 1)
    both = score_files()
    assert len(both) == CONTEXTS and both.items() >= of_first.items()
    assert [first, second] == paths.score_lists(run, "tiny")
    files, pair = stored([first, second])
    assert len(files) == CONTEXTS and set(files) == set(both)
    (data,) = run.datasets("tiny", "train")
    examples = read_jsonl(data.path)
    assert {path.stem for path in files} == {context_name(example) for example in examples}
    models = {role: load(run, "tiny", role) for role in ("target", "proxy")}
    assert {role: pair[f"{role}_hash"] for role in models} == {
        role: model.digest for role, model in models.items()
    }
    assert pair["family"] == "tiny" and pair["models"] == run.models("tiny")


def test_a_file_holds_kvzips_scores_of_both_models() -> None:
    by_prefill = {"id": "by_prefill", "base": "proxykv", "params": {"signal": "prefill"}}
    run = make_run(methods=["full", by_prefill])
    files, _ = stored([extract(run, "tiny", 0)])
    (data,) = run.datasets("tiny", "train")
    example = read_jsonl(data.path)[3]
    (path,) = (file for file in files if file.stem == context_name(example))
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
    proxy_scores, target_scores = load_scores(path)
    for role, scores in (("target", target_scores), ("proxy", proxy_scores)):
        model = load(run, "tiny", role)
        prefilled = prefill(model, context_ids(model, example.context), len(model.prefix))
        expected = score_replays(prefilled, replays(model, prefilled.context))
        assert torch.allclose(scores, expected.float(), atol=1e-5)
    assert load_scores(path, "prefill")[0].shape == proxy_scores.shape


def test_what_is_there_is_not_computed_again() -> None:
    run = make_run()
    files, _ = stored([extract(run, "tiny", 0)])
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # a disk that filled up
    before = score_files()
    # A corpus with one more context, in two jobs: only what is missing or damaged is computed.
    wider = make_run(corpus=[{**DATASET, "contexts": CONTEXTS + 1}], score_shards=2)
    again, _ = stored([extract(wider, "tiny", shard) for shard in (0, 1)])
    assert len(again) == len(set(again)) == CONTEXTS + 1 and set(files) < set(again)
    after = score_files()
    computed = {path for path in after if after[path] != before.get(path)}
    assert computed == {files[1], files[2], *(set(again) - set(files))}
    assert not any(path.stat().st_size <= 100 for path in again)


def test_another_run_adds_the_signals_that_its_methods_read() -> None:
    run = make_run()
    files, _ = stored([extract(run, "tiny", 0)])
    before = load_file(files[0])
    windowed = {"signal": "windowed", "signal_chunk": 30}
    entry = {"id": "by_windows", "base": "proxykv", "params": windowed}
    wider = make_run(methods=["full", "prior", entry])
    again, _ = stored([extract(wider, "tiny", 0)])
    assert again == files
    after = load_file(files[0])
    assert after.keys() == before.keys() | {"proxy_windowed_chunk30"}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    written = score_files()
    extract(run, "tiny", 0)
    assert score_files() == written


def test_scores_of_different_weights_do_not_mix() -> None:
    run = make_run(score_shards=2)
    lists = [extract(run, "tiny", shard) for shard in (0, 1)]
    text = lists[1].read_text("utf-8")
    digest = load(run, "tiny", "target").digest
    assert digest in text
    lists[1].write_text(text.replace(digest, "other"), "utf-8")
    with pytest.raises(ConfigError, match="scores of different weights"):
        stored(lists)
