"""The test of the paper's premise on the embedded models at 8k tokens: the steps of its workflow.

The models were trained on 512 tokens: that the report answers is tested, not what it answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from proxykv.cli import main
from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.runtime.parquet import read_parquet


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((catalog.ROOT / "config" / f"{name}.yaml").read_text("utf-8"))


def test_both_presets_ask_the_same() -> None:
    same = ("methods", "retentions", "comparisons", "seed")
    small, whole = config("falsification-tiny"), config("falsification")
    assert {name: small[name] for name in same} == {name: whole[name] for name in same}
    longer = config("falsification-tiny-32k")
    (tasks,) = longer["benchmarks"]
    assert tasks["lengths"] == [32000]
    tasks["lengths"] = [8000]
    assert longer | {"run": small["run"], "families": small["families"]} == small


def test_the_premise_is_answered_at_8k_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    torch.set_num_threads(1)
    run = Run(config("falsification-tiny"))
    stored = str(run.write())
    (job,) = run.jobs()
    steps = [
        *(["prepare", str(d.path)] for s in ("train", "eval") for d in run.datasets("tiny", s)),
        ["extract", "tiny", "1"],
        ["screen", "tiny"],
        *(["fit", "tiny", method] for method in run.fitted_ids),
        *([step, "tiny", "tiny", job.name] for step in ("generate", "grade")),
        *([step] for step in ("tabulate", "report")),
    ]
    for step in steps:
        assert main([*step, "--config", stored]) == 0

    rows = read_parquet(job.file("rows"))
    assert set(rows.context_tokens) == {8000}
    assert set(zip(rows.method, rows.retention, strict=True)) == {
        (method.id, retention) for method, retention in run.grid
    }
    (answer,) = pd.read_csv(run.dir / "tables" / "premise.csv").to_dict("records")
    assert (answer["method"], answer["reference"]) == ("kvzip", "proxykv")
    assert (answer["tokens"], answer["n_contexts"]) == (8000, 2)
    page = (run.dir / "report" / "index.html").read_text("utf-8")
    assert f"The premise is {answer['outcome']}: " in page
    assert "at about 8,000 tokens" in page
    assert "Beyond the models' positions" not in page
    assert paths.row_files(run) == [job.file("rows")]
