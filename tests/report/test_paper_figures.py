"""Every figure of the paper has a target and a file, and a run makes the file."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from measurements_fixture import make_measurements, write_measurements
from rows_fixture import make_rows, write_run

from proxykv.config import catalog
from proxykv.report import plots

LINE = re.compile(r"^\| (\d+)(?:–(\d+))? \|[^|]*\| `([^`]+)` \| `(\w+)` \| `(\w+)`", re.MULTILINE)
VARIANTS = {"ablation"}
"""Figures of a config with variants of the mapper; `test_ablations` draws them."""


def figures() -> dict[int, tuple[str, str, str]]:
    """Number of a figure to its config, target and file."""
    page = (catalog.ROOT / "docs" / "reference" / "figures.md").read_text("utf-8")
    return {
        number: (config, target, file)
        for first, last, config, target, file in LINE.findall(page)
        for number in range(int(first), int(last or first) + 1)
    }


def test_every_figure_with_results_is_listed() -> None:
    assert list(figures()) == list(range(3, 25))
    for config, target, file in figures().values():
        assert (catalog.ROOT / config).is_file()
        assert target == "all"
        assert file in plots.names()


def test_a_run_makes_every_file(tmp_path: Path) -> None:
    run, families = tmp_path / "results" / "demo", ("llama-3", "qwen-2.5", "qwen-3")
    rows = make_rows(families=families, methods=("kvzip", "proxykv", "snapkv"), contexts=3)
    paths = write_run(run, rows)
    scans = [make_measurements(family, devices=1) for family in families]
    write_measurements(run, pd.concat(scans))
    wanted = {file for _, _, file in figures().values()} - VARIANTS
    written = plots.draw_figures(paths, run, run / "figures", only=sorted(wanted))
    assert {path.stem for path in written} == wanted
