"""A method's rows are made again after a change of anything that decides their numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.steps.fit import fit
from proxykv.steps.generate import Generator

METHODS = ("full", "snapkv", "kvzip", "proxykv", "prior", "cross_prior_budget")
DATASET = {"benchmark": "tiny", "contexts": 8, "lengths": [96], "seed": 0}


def tiny(**settings: Any) -> Run:
    """A run with its data pinned, so that a change of its seed changes no question."""
    config = {
        "run": "tiny",
        "families": ["tiny"],
        "methods": list(METHODS),
        "retentions": [0.5, 1.0],
        "benchmarks": [{**DATASET, "tasks": ["single"]}],
        "corpus": [{**DATASET, "tasks": ["single", "multikey"]}],
        "training": {"steps": 60, "val_contexts": 2, "eval_every": 60},
    }
    return Run({**config, **settings})


def keys(**settings: Any) -> Mapping[str, str]:
    """Digests in the keys of rows, by method."""
    run = tiny(**settings)
    (job,) = run.jobs()
    return Generator(run, job).digests


@pytest.fixture
def before(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Keys in a copy of a checkout with models, data and fitted methods."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy, symlinks=True)
    (copy / "models").unlink()
    shutil.copytree(catalog.ROOT / "models", copy / "models")
    monkeypatch.chdir(copy)
    fit(tiny(), "tiny", "prior")
    return keys()


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {method for method in before if before[method] != after[method]}


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")


def test_without_a_change_every_key_stays(before: Mapping[str, str]) -> None:
    assert keys() == before
    assert len(set(before.values())) == len(METHODS)


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"protocol": "query_aware"}, {"schedule": "parallel"}]
)
def test_how_a_run_computes_is_in_every_key(
    before: Mapping[str, str], settings: dict[str, Any]
) -> None:
    assert changed(before, keys(**settings)) == set(METHODS)


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("target/config.json", {"rope_theta": 5e5}),
        ("target/generation_config.json", {"eos_token_id": [1, 2]}),
        ("proxy/config.json", {"rope_theta": 5e5}),
    ],
)
def test_both_models_are_in_every_key(
    before: Mapping[str, str], file: str, entries: dict[str, Any]
) -> None:
    edit(Path("models/tiny", file), **entries)
    assert changed(before, keys()) == set(METHODS)


def test_a_fit_is_in_the_keys_of_the_methods_that_read_it(before: Mapping[str, str]) -> None:
    """A crossed method reads the fits of the methods that it combines."""
    fit(tiny(corpus=[{**DATASET, "tasks": ["single", "multikey"], "held_out": 2}]), "tiny", "prior")
    assert changed(before, keys()) == {"prior", "cross_prior_budget"}


def test_parameters_are_in_the_key_of_their_method(before: Mapping[str, str]) -> None:
    """And in the key of a crossed method that combines it."""
    listed = [*METHODS[:2], {"id": "kvzip", "base": "kvzip", "params": {"chunk": 64}}, *METHODS[3:]]
    assert changed(before, keys(methods=listed)) == {"kvzip", "cross_prior_budget"}
