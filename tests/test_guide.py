"""The guide's method works as it stands there, from the config to the rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from checkout import forget_files

from proxykv.config import catalog
from proxykv.config.check import config_problems
from proxykv.config.run import Run
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade
from proxykv.steps.prepare import prepare

ROOT = catalog.ROOT
GUIDE = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, flags=re.DOTALL)
DATASET = {"benchmark": "tiny", "tasks": ["single"], "contexts": 2, "lengths": [64]}
CONFIG: dict[str, Any] = {
    "run": "guide",
    "families": ["tiny"],
    "retentions": [0.3, 1.0],
    "benchmarks": [DATASET],
}


@pytest.fixture
def checkout(linked_checkout: Path) -> Path:
    """A checkout with the guide's method in its folder."""
    (linked_checkout / "baselines" / "knorm.py").write_text(BLOCKS[0][1], "utf-8")
    forget_files()
    return linked_checkout


def test_the_example_is_short() -> None:
    code = [line for line in BLOCKS[0][1].splitlines() if line]
    assert BLOCKS[0][0] == "python"
    assert len(code) <= 20


def test_the_example_runs(checkout: Path) -> None:
    methods = yaml.safe_load(BLOCKS[1][1])["methods"]
    run = Run({**CONFIG, "methods": methods})
    (job,) = run.jobs()
    prepare(run, job.dataset)
    generate(run, job)
    rows = pd.read_parquet(grade(job))
    assert set(rows.groupby(["method", "scope"]).groups) == {
        *(("full", "none"), ("knorm", "head"), ("knorm_global", "global"), ("knorm_square", "head"))
    }
    pruned = rows[rows.method != "full"]
    assert (pruned.achieved_retention.sub(0.3).abs() < 1 / 64).all()
    # A power keeps the order inside a head, and so the answers.
    answers = {method: list(part.prediction) for method, part in rows.groupby("method")}
    assert answers["knorm_square"] == answers["knorm"]


def test_all_configs_of_the_guide_are_right(checkout: Path) -> None:
    (checkout / "my_package").mkdir()
    (checkout / "my_package" / "scorers.py").write_text(
        "class Mine:\n    def __init__(self, context, window: int): ...\n", "utf-8"
    )
    listed = [yaml.safe_load(text)["methods"] for kind, text in BLOCKS if kind == "yaml"]
    assert len(listed) == 3
    for methods in listed:
        config = {**CONFIG, "methods": ["full", *(m for m in methods if m != "full")]}
        assert config_problems(config) == []
