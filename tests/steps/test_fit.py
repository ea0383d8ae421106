"""Which contexts a method is fitted on: those of its corpus that screening has not dropped."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from proxykv.benchmarks.examples import read_jsonl
from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import context_name
from proxykv.mapper.fitted import load_fitted
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import write_json
from proxykv.steps.fit import fit
from proxykv.steps.prepare import prepare

CONTEXTS = 6
PAIR = {"family": "tiny", "models": {}, "target_hash": "t", "proxy_hash": "p", "vocab_hash": "v"}
METHODS = ("prior", "kvzip_iam", "proxykv")


DATASET = {"benchmark": "tiny", "tasks": ["single"], "contexts": CONTEXTS, "lengths": [64]}


def make_run(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """A run with prepared data, made-up scores of both models, and nothing that is dropped."""
    (folder / "models").symlink_to(catalog.ROOT / "models")
    monkeypatch.chdir(folder)
    config = {
        "run": "r",
        "families": ["tiny"],
        "retentions": [0.1, 1.0],
        "methods": ["full", *METHODS],
        "benchmarks": [DATASET],
        "corpus": [DATASET],
        "training": {"steps": 2, "val_contexts": 1, "warmup": 0},
        **changes,
    }
    run = Run(config)
    for data in run.datasets("tiny", "train"):
        prepare(run, data)
    (scores,) = paths.score_lists(run, "tiny")
    draws = torch.Generator().manual_seed(0)
    for name in names(run):
        scores.parent.mkdir(parents=True, exist_ok=True)
        tensors = {role: torch.rand(2, 2, 64, generator=draws) for role in ("target", "proxy")}
        save_file(tensors, scores.with_name(f"{name}.safetensors"))
    listed = [f"{name}.safetensors" for name in names(run)]
    write_json(scores, {"files": listed, "made_by": "m", "pair": PAIR})
    write_json(paths.dropped(run, "tiny"), [])
    return run


def names(run: Run) -> list[str]:
    """Names of the contexts of the corpus, in order."""
    (data,) = run.datasets("tiny", "train")
    return [context_name(example) for example in read_jsonl(data.path)]


def make_unreadable(run: Run, contexts: Collection[str]) -> None:
    """Leave nothing to read: whatever reads such a context fails."""
    for name in contexts:
        paths.score_lists(run, "tiny")[0].with_name(f"{name}.safetensors").unlink()


@pytest.mark.parametrize("method", METHODS)
def test_dropped_contexts_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    run = make_run(tmp_path, monkeypatch)
    dropped = [names(run)[1], names(run)[4]]
    write_json(paths.dropped(run, "tiny"), dropped)
    make_unreadable(run, dropped)
    _, card = load_fitted(fit(run, "tiny", method))
    assert card["decontamination"] == {**run.config["decontamination"], "dropped": dropped}
    if method == "proxykv":
        clean = [name for name in names(run) if name not in dropped]
        assert sorted(card["train_contexts"] + card["val_contexts"]) == sorted(clean)


@pytest.mark.parametrize("method", METHODS)
def test_all_other_contexts_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    run = make_run(tmp_path, monkeypatch)
    for name in names(run):
        file = paths.score_lists(run, "tiny")[0].with_name(f"{name}.safetensors")
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(FileNotFoundError):
            fit(run, "tiny", method)
        file.write_bytes(content)


@pytest.mark.parametrize("method", METHODS)
def test_held_out_contexts_of_the_corpus_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    run = make_run(tmp_path, monkeypatch, corpus=[{**DATASET, "held_out": 2}])
    make_unreadable(run, names(run)[-2:])
    fit(run, "tiny", method)


def test_another_set_of_contexts_is_another_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, monkeypatch)
    corpora = []
    for dropped in ([], names(run)[:1], names(run)[1:2]):
        write_json(paths.dropped(run, "tiny"), dropped)
        corpora.append(load_fitted(fit(run, "tiny", "prior"))[1]["corpus"])
    assert len(set(corpora)) == 3


def test_the_settings_of_the_run_and_the_methods_own_reach_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {"id": "longer", "base": "proxykv", "params": {"steps": 3}}
    run = make_run(tmp_path, monkeypatch, methods=["full", "proxykv", longer], seed=5)
    training = {
        name: load_fitted(fit(run, "tiny", name))[1]["training"] for name in ("proxykv", "longer")
    }
    assert [training[name]["steps"] for name in ("proxykv", "longer")] == [2, 3]
    assert [training[name]["seed"] for name in ("proxykv", "longer")] == [5, 5]
    assert {training[name]["val_contexts"] for name in training} == {1}


def test_nothing_left_to_fit_on_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, monkeypatch)
    write_json(paths.dropped(run, "tiny"), names(run))
    with pytest.raises(ConfigError, match="prior: no context is left to fit on"):
        fit(run, "tiny", "prior")


def test_too_little_memory_is_one_line_that_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tight(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    run = make_run(tmp_path, monkeypatch)
    monkeypatch.setattr("baselines.prior.fit", tight)
    with pytest.raises(ConfigError, match=r"^prior: out of memory: lower `crop` or `batch`"):
        fit(run, "tiny", "prior")


def test_what_another_pair_was_fitted_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, monkeypatch)
    fit(run, "tiny", "prior").rename(tmp_path / "elsewhere")  # of the made-up pair
    ready = {"id": "ready", "base": "prior", "fitted": "elsewhere"}
    run = Run({**run.config, "methods": ["full", ready], "corpus": []})
    with pytest.raises(ConfigError, match="elsewhere: "):
        fit(run, "tiny", "ready")
    assert not paths.fitted_dir(run, "tiny", "ready").exists()


@pytest.mark.parametrize("edit", ["code", "scores", None])
def test_a_killed_fit_goes_on_only_with_the_same_code_and_scores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    edit: str | None,
) -> None:
    training = {"steps": 4, "eval_every": 2, "val_contexts": 1, "warmup": 0}
    run = make_run(tmp_path, monkeypatch, methods=["full", "proxykv"], training=training)
    out = paths.fitted_dir(run, "tiny", "proxykv")

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("proxykv.mapper.training.train.write_result", kill)
        fit(run, "tiny", "proxykv")
    assert (out / "checkpoint").exists()
    if edit == "code":
        monkeypatch.setattr("proxykv.steps.fit.fit_digest", lambda method: "edited")
    elif edit == "scores":
        (scores,) = paths.score_lists(run, "tiny")
        listed = json.loads(scores.read_text("utf-8"))
        write_json(scores, {**listed, "made_by": "edited"})
    caplog.set_level("INFO")
    fit(run, "tiny", "proxykv")
    _, card = load_fitted(out)
    logged = [message for message in caplog.messages if "training starts at step 1" in message]
    assert len(logged) == (edit is not None)
    assert ("edited" in (card["code"], *card["stored_by"])) == (edit is not None)
