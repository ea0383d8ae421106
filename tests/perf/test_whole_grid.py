"""The script of the whole grid on a reduced one: every figure of the paper, and the mark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from perf.whole_grid import steps_of, write_grid
from proxykv.config import catalog
from proxykv.config.cards import MethodCards
from proxykv.report import plots
from proxykv.report.tables import read_rows
from proxykv.runtime.errors import ConfigError

FILE = re.compile(
    r"^\| \d+(?:–\d+)? \|[^|]*\| `config/paper.yaml` \| `\w+` \| `(\w+)`", re.MULTILINE
)


def reduced() -> dict[str, Any]:
    """The paper's config with a task of each benchmark, few methods and small scans."""
    config = yaml.safe_load((catalog.ROOT / "config" / "paper.yaml").read_text("utf-8"))
    tasks = {"longbench": "qasper", "scbench": "repoqa", "ruler": "vt"}
    methods = ["full", "snapkv", "kvzip", "kvzip_iam", "proxykv"]
    benchmarks = [{**b, "tasks": [tasks[b["benchmark"]]]} for b in config["benchmarks"]]
    scans = [
        {**scan, "lengths": scan["lengths"][:2], "retentions": [0.3], "families": ["llama-3"]}
        | ({"inputs": {**scan["inputs"], "tasks": ["qasper"]}} if "inputs" in scan else {})
        for scan in config["efficiency"]
        if scan["name"] in ("two_gpus", "one_gpu")
    ]
    return {**config, "methods": methods, "benchmarks": benchmarks, "efficiency": scans,
            "families": ["llama-3"], "retentions": [0.1, 0.3, 1.0]}  # fmt: skip


def test_a_reduced_grid_makes_every_figure_of_the_paper_with_the_mark(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    write_grid(folder, reduced(), contexts=2)
    steps_of(folder)["report"]()
    page = (folder / "report" / "index.html").read_text("utf-8")
    wanted = FILE.findall((catalog.ROOT / "docs/reference/figures.md").read_text("utf-8"))
    assert len(set(wanted)) == 8
    for name in wanted:
        assert f'id="figure-{name}"' in page
    rows = read_rows(folder.glob("rows/*/*/*.parquet"))
    figure = plots.draw("training", rows, MethodCards.read(folder), folder)
    assert figure and "SYNTHETIC" in [text.get_text() for text in figure.texts]
    assert "<title>SYNTHETIC: " in page and "<strong>SYNTHETIC.</strong>" in page


def test_made_up_rows_do_not_lie_among_results(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="outside results/"):
        write_grid(tmp_path / "results" / "paper", reduced(), contexts=2)
