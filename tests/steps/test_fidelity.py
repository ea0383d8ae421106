"""Fidelity of scores on contexts that are scored and not answered."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.mapper.fidelity import rank_correlation
from proxykv.model.tensors import Scores
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import read_parquet
from proxykv.steps.fidelity.scores import fidelity, fidelity_file
from proxykv.steps.prepare import prepare

CONFIG: dict[str, Any] = {
    "run": "r",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": [
        *("full", "random", "kvzip", "kvzip_head", "kvzip_local", "proxy_tokens"),
        {"id": "local_32", "base": "kvzip_local", "params": {"chunk": 32}},
        {"id": "local_32_head", "base": "local_32", "scope": "head"},
    ],
    "benchmarks": [
        {"benchmark": "tiny", "tasks": ["single", "vt"], "contexts": 3, "lengths": [64, 96]}
    ],
}
COMPARED = ["random", "kvzip_local", "proxy_tokens", "local_32"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    monkeypatch.chdir(tmp_path)
    made = Run(CONFIG)
    for dataset in made.datasets("tiny", "eval"):
        prepare(made, dataset)
    return made


def test_scores_are_compared_and_nothing_is_answered(run: Run) -> None:
    stored = str(run.write())
    table = run.dir / "tables" / "score_fidelity.csv"
    for done, job in enumerate(run.jobs()):
        assert main(["score-fidelity", "--config", stored]) == (0 if done else 2)
        assert main(["fidelity", "tiny", "tiny", job.task, "--config", stored]) == 0
    assert set(pd.read_csv(table).task) == {"all", "single"}  # of the job that was done
    assert main(["score-fidelity", "--config", stored]) == 0
    assert not (run.dir / "predictions").exists()

    table = pd.read_csv(table, dtype={"task": str})
    assert list(table.method.unique()) == COMPARED
    assert set(table.metric) == {
        *("mass", "global_overlap", "allocation", "head_overlap"),
        *("rank_correlation", "seconds"),
    }
    counts = table[table.metric == "seconds"].groupby(["task", "length"]).n_contexts.unique()
    assert counts.to_dict() == {
        ("all", 64): [4], ("all", 96): [2], ("single", 64): [2], ("single", 96): [1],
        ("vt", 64): [2], ("vt", 96): [1],
    }  # fmt: skip
    means = table[(table.task == "all") & (table.retention == 0.1)]
    of = means[(means.metric == "global_overlap") & (means.length == 64)].set_index("method")
    # A context of one chunk: the local replay is the whole one.
    assert of["mean"]["kvzip_local"] == 1
    assert of["mean"]["random"] < of["mean"]["local_32"] < 1
    assert ((of.ci_low <= of["mean"]) & (of["mean"] <= of.ci_high)).all()


def test_what_is_scored_is_not_scored_again(run: Run) -> None:
    job = run.jobs()[0]
    fidelity(run, job)
    journal = Journal(fidelity_file(job).with_suffix(".journal.jsonl"))
    before, first = journal.read(), read_parquet(fidelity_file(job))
    fidelity(run, job)
    assert journal.read() == before
    pd.testing.assert_frame_equal(read_parquet(fidelity_file(job)), first)
    fidelity(Run(CONFIG | {"methods": [*CONFIG["methods"], "streaming"]}), job)
    after = journal.read()
    assert after[: len(before)] == before
    assert [record["method"] for record in after[len(before) :]] == ["streaming"] * 3


def test_a_killed_job_goes_on_after_the_last_method(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run.jobs()[0]
    fidelity(run, job)
    whole = read_parquet(fidelity_file(job))
    shutil.rmtree(fidelity_file(job).parent)
    calls = iter([False, False, True])  # killed while the third method is compared

    def killed(*scores: Scores) -> float:
        if next(calls):
            raise KeyboardInterrupt
        return rank_correlation(*scores)

    journal = Journal(fidelity_file(job).with_suffix(".journal.jsonl"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("proxykv.steps.fidelity.scores.rank_correlation", killed)
        fidelity(run, job)
    before = journal.read()
    # The methods that need no proxy come first.
    assert [record["method"] for record in before] == ["random", "kvzip_local"]
    (known,) = fidelity_file(job).with_suffix("").glob("*.safetensors")
    made = known.stat().st_mtime_ns

    fidelity(run, job)
    after = journal.read()
    assert after[:2] == before and len(after) == 3 * len(COMPARED)
    assert known.stat().st_mtime_ns == made  # the oracle's scores are not computed again
    same = ["context_id", "method", "metric", "retention", "value"]
    resumed = read_parquet(fidelity_file(job))
    pd.testing.assert_frame_equal(*(t[t.metric != "seconds"][same] for t in (resumed, whole)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["full", "random"]}, "config.methods: no oracle to compare scores with"),
        ({"protocol": "query_aware"}, "config.protocol: scores are compared without a question"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    changes: dict[str, Any], message: str, run: Run
) -> None:
    with pytest.raises(ConfigError, match=message):
        fidelity(Run(CONFIG | changes), run.jobs()[0])
