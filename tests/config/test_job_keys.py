"""A job is planned again after a change of any setting that its results depend on, and no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxykv.config import catalog, job_keys, paths
from proxykv.config.efficiency import measuring_jobs
from proxykv.config.run import Run

DATASET = {"benchmark": "tiny", "contexts": 8, "lengths": [96, 64], "seed": 0}
SCAN = {"name": "latency", "methods": ["full", "kvzip"], "lengths": [64], "retentions": [0.1]}
CORPUS = [{**DATASET, "tasks": ["single"]}]
CONFIG: dict[str, Any] = {
    "run": "keys",
    "families": ["tiny"],
    "retentions": [0.5, 1.0],
    "methods": ["full", "snapkv", "kvzip", "proxykv"],
    "benchmarks": [{**DATASET, "tasks": ["single"]}],
    "corpus": CORPUS,
    "training": {"steps": 60, "val_contexts": 2},
    "efficiency": [SCAN],
}
"""With its data pinned, so that another seed of the run changes no context."""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models that a test may edit."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(catalog.ROOT / "models", tmp_path / "models")


def keys(**changes: Any) -> Mapping[str, str]:
    """Keys of the jobs, by what they do."""
    run = Run({**CONFIG, **changes})
    (scan,) = measuring_jobs(run)
    return {
        "answer": job_keys.answering(run, "tiny"),
        "screen": job_keys.screening(run, "tiny"),
        "fit": job_keys.fitting(run, "tiny", "proxykv"),
        "measure": job_keys.measuring(run, scan),
    }


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {job for job in before if before[job] != after[job]}


def proxykv(**settings: Any) -> list[Any]:
    return ["full", "snapkv", "kvzip", {"id": "proxykv", "base": "proxykv", **settings}]


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({}, set()),
        ({"score_shards": 2}, set()),
        ({"seed": 1}, {"answer", "fit", "measure"}),
        ({"protocol": "query_aware"}, {"answer"}),
        ({"schedule": "parallel"}, {"answer"}),
        ({"retentions": [0.3, 0.5, 1.0]}, {"answer"}),
        ({"limit": 1}, {"answer"}),
        ({"methods": [*CONFIG["methods"], "random"]}, {"answer"}),
        ({"methods": proxykv(params={"mapper": {"width": 16}})}, {"answer", "fit"}),
        ({"methods": proxykv(corpus=["single"])}, {"fit"}),
        ({"methods": proxykv(lengths=[64])}, {"fit"}),
        ({"corpus": [{**CORPUS[0], "held_out": 2}]}, {"screen", "fit"}),
        ({"corpus": [{**CORPUS[0], "part": "other"}]}, {"fit"}),
        ({"decontamination": {"ngram": 5, "limit": 0.5}}, {"screen"}),
        ({"training": {"steps": 61, "val_contexts": 2}}, {"fit", "measure"}),
        ({"efficiency": [{**SCAN, "lengths": [32]}]}, {"measure"}),
        ({"efficiency": [{**SCAN, "methods": ["full", "snapkv"]}]}, {"measure"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else " ".join(sorted(value)),
)
def test_settings(changes: dict[str, Any], jobs: set[str]) -> None:
    assert changed(keys(), keys(**changes)) == jobs


@pytest.mark.parametrize(
    ("file", "entries", "scored", "jobs"),
    [
        ("target/config.json", {"rope_theta": 5e5}, True, {"answer", "measure"}),
        ("proxy/config.json", {"rope_theta": 5e5}, True, {"answer", "measure"}),
        ("target/generation_config.json", {"eos_token_id": [1, 2]}, False, {"answer"}),
        ("proxy/generation_config.json", {"eos_token_id": [1, 2]}, False, set()),
    ],
)
def test_models(
    models: Path, file: str, entries: dict[str, Any], scored: bool, jobs: set[str]
) -> None:
    """Scores depend on a pair, too: another pair's are kept in another folder."""
    before, scores = keys(), paths.score_lists(Run(CONFIG), "tiny")
    path = models / "tiny" / file
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")
    assert changed(before, keys()) == jobs
    assert (paths.score_lists(Run(CONFIG), "tiny") != scores) == scored


def test_random_weights_depend_on_the_familys_own_shapes(models: Path) -> None:
    random = {"efficiency": [{**SCAN, "weights": "random"}]}
    before = keys(**random)
    (models / "tiny" / "target" / "config.json").write_text("{}", "utf-8")
    assert keys(**random)["measure"] == before["measure"]


def test_scores_of_another_corpus_have_another_list() -> None:
    longer = [{**CORPUS[0], "contexts": 9}]
    (one,), (other,) = (
        paths.score_lists(Run({**CONFIG, "corpus": corpus}), "tiny") for corpus in (CORPUS, longer)
    )
    assert one.name != other.name
    assert one.parent == other.parent
