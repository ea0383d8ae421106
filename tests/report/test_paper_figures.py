"""Every figure of the paper has a target and a file, and a run makes the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from measurements_fixture import make_measurements, write_measurements
from rows_fixture import cards_of, make_rows, write_run

from proxykv.config import catalog
from proxykv.report import plots
from proxykv.report.plots._curves import positions
from proxykv.report.plots._paper import NAME

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


def test_scores_that_the_paper_states_are_hollow_marks(tmp_path: Path) -> None:
    methods, tasks = ("kvzip", "proxykv", "snapkv"), ("passage_retrieval_en", "other")
    rows = make_rows(families=("llama-3",), methods=methods, tasks=tasks, contexts=3)
    paper = rows.assign(benchmark="longbench", target="meta-llama/Llama-3.1-8B-Instruct@0123")
    marks = {
        (title, line.get_gid(), *map(tuple, np.asarray(line.get_xydata()).tolist()))
        for title, line in hollow(plots.draw("accuracy_per_task", paper, cards_of(rows), tmp_path))
    }
    at = positions(rows.retention.unique())[0.3]
    assert marks == {
        ("passage_retrieval_en", "method-proxykv", (at, 0.995)),
        ("passage_retrieval_en", "method-snapkv", (at, 0.795)),
    }
    other = plots.draw("accuracy_per_task", rows, cards_of(rows), tmp_path)
    assert hollow(other) == [] and NAME not in names(other)


def hollow(figure: Figure | None) -> list[tuple[str, Line2D]]:
    assert figure
    lines = [(axis.get_title(loc="left"), line) for axis in figure.axes for line in axis.lines]
    return [(title, line) for title, line in lines if line.get_markerfacecolor() == "none"]


def names(figure: Figure | None) -> list[str]:
    assert figure
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
