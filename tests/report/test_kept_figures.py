"""Figures of where the kept pairs lie, against the records that they are drawn from."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rows_fixture import cards_of, make_rows, write_run

from proxykv.report import plots
from proxykv.runtime.journal import Journal

METHODS = ("kvzip", "proxykv", "random")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows(methods=METHODS, retentions=(0.05, 0.1, 0.3), tasks=("vt",), contexts=2)


def record(method: str, context: int, **other: Any) -> dict[str, Any]:
    """Of two layers with three heads; the oracle keeps nothing of layer 1."""
    level = (METHODS.index(method) + 1) / 10 + context / 100
    return {
        "context_id": f"vt-{context:03d}",
        "method": method,
        "method_digest": f"{method}-digest",
        "retention": 0.1,
        "heads": [[level, 0.0, 1.0], [level, level, level]],
        "positions": [level] * 19 + [1.0],
        "overlap": [level, None],
    } | other


@pytest.fixture(scope="module")
def run_dir(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("results") / "demo"
    write_run(run, rows)
    journal = Journal(run / "predictions" / "tiny" / "tiny" / "vt.kept.jsonl")
    journal.append(record(method, context) for method in METHODS for context in range(2))
    # Not of this figure: another retention, and a method whose parameters have changed since.
    journal.append([record("random", 0, retention=0.3, heads=[[9.0] * 3] * 2)])
    journal.append([record("random", 0, method_digest="old", heads=[[9.0] * 3] * 2)])
    journal.append([record("random", 0)])  # once more, as a merged run may hold it
    return run


def drawn(name: str, rows: pd.DataFrame, run_dir: Path) -> Figure:
    figure = plots.draw(name, rows, cards_of(rows), run_dir)
    assert figure is not None
    return figure


def test_heat_maps_show_the_mean_share_of_each_head(rows: pd.DataFrame, run_dir: Path):
    axes = drawn("kept_heads", rows, run_dir).axes
    shown = {a.get_title("left"): np.asarray(a.images[0].get_array()) for a in axes if a.images}
    for method, label in zip(METHODS, ("KVzip", "ProxyKV", "Random"), strict=True):
        level = (METHODS.index(method) + 1) / 10 + 0.005
        expected = [[level, 0.0, 1.0], [level, level, level]]
        assert shown.pop(f"{label}\ntiny, ρ 0.1") == pytest.approx(np.array(expected))
    assert not shown


def test_overlap_has_a_line_per_method_but_the_oracle(rows: pd.DataFrame, run_dir: Path):
    (axis,) = [a for a in drawn("kept_overlap", rows, run_dir).axes if a.images]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["ProxyKV", "Random"]
    shares = np.ma.filled(np.ma.asarray(axis.images[0].get_array()), np.nan)
    assert shares[:, 0] == pytest.approx([0.205, 0.305])
    assert np.isnan(shares[:, 1]).all()


def test_curves_along_the_context(rows: pd.DataFrame, run_dir: Path):
    (axis,) = drawn("kept_positions", rows, run_dir).axes
    curves = {str(line.get_gid()): line for line in axis.lines}
    assert set(curves) == {f"method-{method}" for method in METHODS}
    assert list(curves["method-random"].get_xdata())[:2] == [0.025, 0.075]
    assert list(curves["method-random"].get_ydata()) == pytest.approx([0.305] * 19 + [1.0])


def test_needles_are_placed_by_length_and_depth(tmp_path: Path):
    made = make_rows(methods=METHODS, retentions=(0.1, 0.3), tasks=("single", "vt"), contexts=4)
    made["context_tokens"] = np.where(made.context_id.str.endswith("3"), 300, 256)
    made["score"] = np.where(made.question == 0, made.retention, 0.0)
    folder = tmp_path / "predictions" / "tiny" / "tiny"
    for task, last in (("single", 0.99), ("vt", None)):  # a chain is no needle
        Journal(folder / f"{task}.contexts.jsonl").append(
            {"context_id": f"{task}-{i:03d}", "depths": [[0.0, 0.41, 1.0, 0.5][i], last]}
            for i in range(4)
        )
    axes = {a.get_title("left"): a for a in drawn("needle_depth", made, tmp_path).axes if a.images}
    assert set(axes) == {
        "Full cache\ntiny, ρ 1",
        *(f"{label}\ntiny, ρ 0.1" for label in ("KVzip", "ProxyKV")),
    }
    for title, axis in axes.items():
        rho = float(title.rpartition(" ")[2])
        shares = np.ma.filled(np.ma.asarray(axis.images[0].get_array(), dtype=float), np.nan)
        empty = np.nan
        # Four needles of 256 tokens in the last part: one at 1.0, and three at 0.99 that score 0.
        expected = [[rho, empty, rho, empty, rho / 4], [empty, empty, rho, empty, 0.0]]
        np.testing.assert_allclose(shares, expected)
        assert [label.get_text() for label in axis.get_yticklabels()] == ["256", "512"]


@pytest.mark.parametrize("name", ["kept_heads", "kept_overlap", "kept_positions", "needle_depth"])
def test_a_run_that_recorded_nothing_has_no_such_figure(
    rows: pd.DataFrame, tmp_path: Path, name: str
):
    assert plots.draw(name, rows, cards_of(rows), tmp_path) is None
