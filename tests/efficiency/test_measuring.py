"""What is measured of a request, which rows a scan gives, and what a killed scan goes on from."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportGeneralTypeIssues=false

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from two_devices import FIRST, SECOND, TwoDevices

from proxykv.benchmarks import tiny
from proxykv.benchmarks.examples import write_jsonl
from proxykv.config import catalog
from proxykv.config.check import schema_problems
from proxykv.config.efficiency import MeasuringJob, measuring_jobs
from proxykv.config.run import Run
from proxykv.efficiency.inputs import Inputs
from proxykv.efficiency.pair import random_pair
from proxykv.efficiency.request import RequestInputs, measured
from proxykv.model.loading import load
from proxykv.runtime.journal import Journal
from proxykv.steps.efficiency import efficiency

HUNGRY = """
import torch
from tokenizers import Tokenizer

class Hungry:
    def __init__(self, context):
        pass

    def score(self, prefill):
        if len(prefill.input_ids) > 40:
            raise torch.OutOfMemoryError("too long")
        return torch.rand(prefill.shape)
"""
REPEATS = 5
DATASET = {"benchmark": "tiny", "tasks": ["single"], "contexts": 3, "lengths": [96]}


@pytest.fixture(scope="module", autouse=True)
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with the embedded models, and a method that runs out of memory."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "models").symlink_to(catalog.ROOT / "models")
    (folder / "hungry.py").write_text(HUNGRY, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        torch.set_num_threads(1)
        yield folder
    sys.modules.pop("hungry", None)


def planned(**scan: Any) -> tuple[Run, MeasuringJob]:
    methods = ["full", "snapkv", "kvzip", "proxykv", "kvzip_iam", "hungry:Hungry"]
    config = {
        "run": "measured",
        "families": ["tiny"],
        "retentions": [0.3, 1.0],
        "methods": methods,
        "benchmarks": [DATASET],
        "corpus": [{**DATASET, "contexts": 4}],
        "training": {"val_contexts": 1},
        "efficiency": [
            {"name": "s", "weights": "random", "question_tokens": 3, "new_tokens": 3, **scan}
        ],
    }
    run = Run(config)
    (job,) = measuring_jobs(run)
    return run, job


@pytest.fixture(scope="module")
def scanned(checkout: Path) -> tuple[Run, MeasuringJob]:
    run, job = planned(
        methods=["full", "snapkv", "kvzip", "kvzip_iam", "proxykv", "hungry:Hungry"],
        schedules=["sequential", "parallel"],
        lengths=[32, 64],
        retentions=[0.25],
    )
    efficiency(run, job)
    return run, job


@pytest.fixture(scope="module")
def rows(scanned: tuple[Run, MeasuringJob]) -> pd.DataFrame:
    return pd.read_parquet(scanned[1].file)


def test_every_case_has_a_watched_request_and_its_repeats(
    scanned: tuple[Run, MeasuringJob], rows: pd.DataFrame
) -> None:
    for case in scanned[1].cases:
        of_case = rows[
            (rows.method == case.method)
            & (rows.schedule == case.schedule)
            & (rows.tokens == case.tokens)
        ]
        failed = (case.method, case.tokens) == ("hungry:Hungry", 64)
        assert list(of_case.repeat) == ([0] if failed else list(range(REPEATS + 1)))


def test_rows_follow_their_schema(scanned: tuple[Run, MeasuringJob]) -> None:
    for row in Journal(scanned[1].journal).read():
        assert schema_problems(row, "measurement", "row") == []


def test_out_of_memory_is_a_row(rows: pd.DataFrame) -> None:
    failed = rows[rows.status != "ok"]
    assert list(failed.method) == ["hungry:Hungry"] and list(failed.tokens) == [64]
    assert failed.cache_seconds.isna().all() and failed.target_peak_bytes.isna().all()


def test_phases_of_methods(rows: pd.DataFrame) -> None:
    found = {
        (row.method, row.schedule): [span["phase"] for span in row.spans]
        for row in rows[(rows.repeat == 1) & (rows.tokens == 32)].itertuples()
    }
    target = ["target_prefill", "scoring", "select", "prune"]
    proxy = ["target_prefill", "proxy_prefill", "proxy_scoring", "mapper", "select", "prune"]
    assert found["full", "sequential"] == ["target_prefill"]
    assert found["snapkv", "sequential"] == found["kvzip", "sequential"] == target
    assert found["proxykv", "sequential"] == found["kvzip_iam", "sequential"] == proxy
    assert sorted(found["proxykv", "parallel"]) == sorted(proxy)


def test_times_follow_one_another(rows: pd.DataFrame) -> None:
    ok = rows[rows.status == "ok"]
    ends = ok.spans.map(lambda spans: max(span["end"] for span in spans))
    assert (ends <= ok.cache_seconds).all()
    assert (ok.cache_seconds < ok.first_token_seconds).all()
    assert (ok.cache_seconds < ok.request_seconds).all()


def test_memory_is_sampled_in_the_first_request_only(rows: pd.DataFrame) -> None:
    ok = rows[rows.status == "ok"]
    watched = ok[ok.repeat == 0]
    assert (watched.target_peak_bytes > 0).all()
    for row in watched.itertuples():
        assert len(row.memory_seconds) == len(row.target_bytes) > 1
        assert (np.diff(row.memory_seconds) > 0).all()
    assert ok[ok.repeat > 0].memory_seconds.map(len).eq(0).all()


def test_pruned_caches_hold_their_share(rows: pd.DataFrame) -> None:
    kept = rows[(rows.tokens == 32) & (rows.status == "ok")].groupby("method").kv_bytes.first()
    assert (kept.drop("full") == kept["full"] * 0.25).all()


def test_a_killed_scan_measures_what_is_missing(
    scanned: tuple[Run, MeasuringJob], rows: pd.DataFrame
) -> None:
    run, job = scanned
    journal = Journal(job.journal)
    entries = journal.read()
    kept = [e for e in entries if not (e["method"] == "kvzip" and e["repeat"] in (2, 3))]
    journal.rewrite(kept)
    efficiency(run, job)
    again = journal.read()
    assert again[: len(kept)] == kept
    assert {(e["method"], e["repeat"]) for e in again[len(kept) :]} == {("kvzip", 2), ("kvzip", 3)}
    assert len(pd.read_parquet(job.file)) == len(rows)


def test_a_target_that_two_devices_share_is_measured_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, job = planned(methods=["full", "kvzip"], lengths=[32], retentions=[0.25])
    known = catalog.families()
    target = {**known["tiny"]["target"], "device": "cpu,cpu:1"}  # no config may name a second CPU
    shared = {**known["tiny"], "target": target}
    monkeypatch.setattr(catalog, "families", lambda: {**known, "tiny": shared})
    with TwoDevices():
        pair = random_pair(run, job, tmp_path)
        assert pair.target.devices == pair.devices == [FIRST, SECOND]
        text, donor = Inputs(job, pair.target, seed=0).contexts(32, 2)
        given = RequestInputs([text], donor, [1, 2], new_tokens=2)
        full, pruned = (measured(pair, case, given, watch=True) for case in job.cases)
    assert full["status"] == pruned["status"] == "ok"
    assert pruned["kv_bytes"] == full["kv_bytes"] * 0.25
    assert full["target_peak_bytes"] > 0
    assert full["proxy_bytes"] == []  # the proxy is on one of these devices


def test_contexts_have_exact_lengths_and_are_the_tasks_own() -> None:
    run, job = planned(
        methods=["full", "kvzip"],
        lengths=[32, 200],
        retentions=[0.25],
        weights="trained",
        inputs={"benchmark": "tiny", "tasks": ["single"]},
    )
    target = load(run, "tiny", "target")
    (dataset,) = job.datasets
    path = catalog.ROOT / "models" / "tiny" / "target" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    examples = tiny.build(
        "single", tokenizer=tokenizer, contexts=3, lengths=[96], seed=0, split="eval"
    )
    dataset.path.parent.mkdir(parents=True)
    write_jsonl(dataset.path, examples)
    texts = [list(target.context(example.context)) for example in examples]
    inputs = Inputs(job, target, seed=0)
    short, other = inputs.contexts(32, 2)
    assert [short.tolist(), other.tolist()] == [texts[0][:32], texts[1][:32]]
    (joined,) = inputs.contexts(200, 1)
    assert joined.tolist() == [i for text in (*texts, *texts) for i in text][:200]
    assert len(inputs.question(7)) == 7
