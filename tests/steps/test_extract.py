"""Extraction of training scores: in shards, once, and only what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from proxykv.benchmarks.examples import read_jsonl
from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import context_name
from proxykv.mapper.stored_scores import load_scores, signal_file
from proxykv.model.loading import load
from proxykv.model.model import context_ids
from proxykv.model.prefill import prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.signals import proxy_signals
from proxykv.steps.extract import extract, extract_inputs, extract_signal, stored
from proxykv.steps.prepare import prepare

CONTEXTS = 5
DATASET = {"benchmark": "tiny", "tasks": ["single"], "contexts": CONTEXTS, "lengths": [80]}
STORING = (extract, extract_inputs, extract_signal)


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
    run = make_run()
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


def test_too_little_memory_loses_no_stored_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the context and what to lower; a rerun computes what is missing."""
    run, read = make_run(), []

    def tight(*arguments: Any) -> Any:
        read.append(arguments)
        if len(read) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return prefill(*arguments)

    monkeypatch.setattr("proxykv.steps.extract.prefill", tight)
    with pytest.raises(ConfigError, match=r"context .*: out of memory: lower `max_context`"):
        extract(run, "tiny", 0)
    extract(run, "tiny", 0)
    assert len(read) == CONTEXTS + 1 and len(score_files()) == CONTEXTS


def test_a_signal_is_stored_once_in_files_of_its_own() -> None:
    windowed = {"signal": "windowed", "signal_chunk": 30}
    entry = {"id": "by_windows", "base": "proxykv", "params": windowed}
    run = make_run(methods=["full", "prior", entry], score_shards=2)
    files, _ = stored([extract(run, "tiny", shard) for shard in (0, 1)])
    before = score_files()
    (signal,) = run.stored_signals
    lists = [extract_signal(run, "tiny", signal, shard) for shard in (0, 1)]
    assert lists == paths.signal_lists(run, "tiny", signal)
    of_signal = {signal_file(file, signal.name) for file in files}
    assert score_files().keys() - before.keys() == of_signal
    assert score_files().items() >= before.items()  # other methods are fitted on the same files
    listed = [name for path in lists for name in json.loads(path.read_text("utf-8"))["files"]]
    assert sorted(listed) == sorted(path.name for path in of_signal)
    models = {role: load(run, "tiny", role) for role in ("target", "proxy")}
    (data,) = run.datasets("tiny", "train")
    for example in read_jsonl(data.path):
        (path,) = (file for file in files if file.stem == context_name(example))
        ids = context_ids(models["target"], example.context)
        prefix_len = len(models["target"].prefix)
        both = models["target"], models["proxy"]
        expected = proxy_signals(*both, ids, prefix_len, [signal])[signal]
        assert torch.equal(load_scores(path, signal.name)[0], expected)
    written = score_files()
    for shard in (0, 1):
        extract_signal(run, "tiny", signal, shard)
    assert score_files() == written


def test_a_killed_job_goes_on_and_the_methods_are_fitted_on_complete_lists_only() -> None:
    by_prefill = {"id": "by_prefill", "base": "proxykv", "params": {"signal": "prefill"}}
    run = make_run(methods=["full", "proxykv", by_prefill])
    (signal,) = run.stored_signals
    extract(run, "tiny", 0)
    extract_signal(run, "tiny", signal, 0)
    complete = score_files()
    removed = sorted(path for path in complete if ".prefill." in path.name)[3:]
    for path in removed:
        path.unlink()
    extract_signal(run, "tiny", signal, 0)
    changed = {path for path, made in score_files().items() if complete[path] != made}
    assert changed <= set(removed) and score_files().keys() == complete.keys()
    lists = [*paths.score_lists(run, "tiny"), *paths.signal_lists(run, "tiny", signal)]
    assert paths.fitting_lists(run, "tiny", "by_prefill") == lists
    assert paths.fitting_lists(run, "tiny", "proxykv") == paths.score_lists(run, "tiny")


def two_targets(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """A run of two families whose targets have other weights, and the same proxy."""
    tiny = catalog.families()["tiny"]
    shutil.copytree(tiny["target"]["path"], "second")
    weights = load_file("second/model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, "second/model.safetensors")
    second = {**tiny, "family": "second", "target": {**tiny["target"], "path": "second"}, **changes}
    monkeypatch.setattr(catalog, "families", lambda: {"tiny": tiny, "second": second})
    by_prefill = {"id": "by_prefill", "base": "proxykv", "params": {"signal": "prefill"}}
    run = make_run(families=["tiny", "second"], methods=["full", by_prefill])
    for data in run.datasets("second", "train"):
        prepare(run, data)
    return run


def both_stored(run: Run, family: str) -> list[Path]:
    """The family's files: of scores, then of the other signal."""
    (signal,) = run.stored_signals
    files, _ = stored([extract(run, family, 0)])
    extract_signal(run, family, signal, 0)
    return [*files, *(signal_file(file, signal.name) for file in files)]


def test_a_proxy_scores_once_for_all_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    run = two_targets(monkeypatch)
    first = both_stored(run, "tiny")
    for file in first:  # marked: only who reads these has them
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file({**tensors, "proxy": torch.full_like(tensors["proxy"], 0.25)}, file, metadata)
    second = both_stored(run, "second")
    assert [file.name for file in second] == [file.name for file in first]
    for of_first, of_second in zip(map(load_file, first), map(load_file, second), strict=True):
        assert (of_second["proxy"] == 0.25).all()
        if "target" in of_first:
            assert not torch.allclose(of_first["target"], of_second["target"])


def test_another_proxy_scores_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = catalog.families()["tiny"]
    slower = {**tiny["proxy"], "dtype": "bfloat16"}
    run = two_targets(monkeypatch, proxy=slower)
    first, second = (both_stored(run, family) for family in ("tiny", "second"))
    for pair in zip(map(load_file, first), map(load_file, second), strict=True):
        assert not torch.equal(*(tensors["proxy"] for tensors in pair))


@pytest.mark.parametrize("step", STORING, ids=lambda step: step.__name__)
def test_what_other_code_has_stored_is_computed_again(
    step: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    by_prefill = {"id": "by_prefill", "base": "proxykv", "params": {"signal": "prefill"}}
    run = make_run(methods=["full", by_prefill])
    step(run, "tiny", *run.stored_signals * (step is extract_signal), 0)
    before = score_files()
    caplog.set_level("INFO")
    monkeypatch.setattr("proxykv.steps.extract.code_digest", lambda *entries: "edited")
    step(run, "tiny", *run.stored_signals * (step is extract_signal), 0)
    after = score_files()
    assert all(after[path] != made for path, made in before.items()) and len(after) == CONTEXTS
    logged = [message for message in caplog.messages if "computed again" in message]
    assert logged == [f"{CONTEXTS} stored contexts are of other weights or code: computed again"]


def test_scores_of_different_weights_do_not_mix() -> None:
    run = make_run(score_shards=2)
    lists = [extract(run, "tiny", shard) for shard in (0, 1)]
    text = lists[1].read_text("utf-8")
    digest = load(run, "tiny", "target").digest
    assert digest in text
    lists[1].write_text(text.replace(digest, "other"), "utf-8")
    with pytest.raises(ConfigError, match="of different weights or code"):
        stored(lists)
