"""A figure that draws other numbers than the tables and the rows give is found, point by point."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAssignmentType=false
# pyright: reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rows_fixture import make_rows, write_run

from proxykv.cli import main
from proxykv.config.cards import MethodCards
from proxykv.report import plots
from proxykv.report.plots._points import points
from proxykv.report.tabulate import write_tables
from proxykv.runs.audit import Audit
from proxykv.runs.audit.means import Group, groups
from proxykv.runs.audit.page import check_figures
from proxykv.runs.audit.page.figures import FRONT, KEYS
from proxykv.runtime.parquet import read_parquet, write_csv

FIGURES = ("accuracy_per_task", "accuracy_retention", "kl_retention", "pareto", "quality_cost")
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of two families; one method keeps what it chooses, a task has a single context."""
    draw = np.random.default_rng(5)
    methods = ("kvzip", "proxykv", "snapkv", "random", "prior")
    rows = make_rows(families=("tiny", "qwen-3"), contexts=4, tasks=("single", "vt"),
                     methods=methods, retentions=(0.05, 0.3, 0.5))  # fmt: skip
    rows["score"] = draw.integers(0, 5, len(rows)) / 4
    rows["kv_bytes"] = (rows.retention * 2**20).round().astype(int)
    rows["operations"] = draw.integers(10**9, 10**10, len(rows)).astype(float)
    rows["kl"] = (rows.kl.abs() + 0.1).where(rows.method != "snapkv")
    rows.loc[rows.method == "random", "scope"] = "custom"
    rows.loc[rows.method == "random", "achieved_retention"] += 0.02
    rows.loc[rows.family == "qwen-3", "target"] = "Qwen/Qwen3-32B@123"  # for the paper's marks
    alone = (rows.family == "qwen-3") & (rows.task == "vt") & (rows.context_id != "vt-001")
    run = tmp_path_factory.mktemp("figures") / "demo"
    files = write_run(run, rows[~alone])
    write_tables(files, MethodCards.read(run), run / "tables")
    for name in FIGURES:
        figure = plots.draw(name, rows[~alone], MethodCards.read(run), run)
        assert figure is not None
        write_csv(run / "figures" / f"{name}.csv", points(figure))
        (run / "figures" / f"{name}.svg").touch()
    return run


@pytest.fixture(scope="module")
def cells(made: Path) -> list[Group]:
    table = pd.concat(map(read_parquet, sorted((made / "rows").glob("*/*/*.parquet"))))
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return groups(rows, "kvzip")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "demo"))


def audited(run: Path, cells: list[Group]) -> Audit:
    found = Audit()
    check_figures(cells, MethodCards.read(run), run, found)
    return found


def spoil(run: Path, cells: list[Group], name: str, change: Change) -> list[str]:
    path = run / "figures" / f"{name}.csv"
    drawn = pd.read_csv(path, keep_default_na=False, dtype=str)
    change(drawn).to_csv(path, index=False)
    return audited(run, cells).findings


def test_untouched_figures_agree(run: Path, cells: list[Group]) -> None:
    found = audited(run, cells)
    drawn = [len(pd.read_csv(run / "figures" / f"{name}.csv")) for name in FIGURES]
    assert found.findings == [] and found.cells > 2 * sum(drawn) > 800


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("column", ["x", "y"])
def test_each_part_of_a_figure_is_compared(
    run: Path, cells: list[Group], name: str, column: str
) -> None:
    named = []

    def change(drawn: pd.DataFrame) -> pd.DataFrame:
        stated = drawn.series.str.endswith("stated in the paper")
        shown = drawn[(drawn[column] != "") & ~stated & (drawn.series != FRONT)]
        for at in shown.groupby(["panel", "part"]).sample(1, random_state=0).index:
            drawn.loc[at, column] = f"{float(drawn.loc[at, column]) * 1.001 + 0.001:.6g}"
            named.append(" ".join(drawn.loc[at, list(KEYS)]) + f", {column}: ")
        return drawn

    findings = spoil(run, cells, name, change)
    assert len(findings) == len(named) >= 4
    for where in named:
        assert any(where in line for line in findings), (where, findings)


@pytest.mark.parametrize("name", FIGURES)
def test_a_point_too_many_or_too_few_another_method_s_or_another_panel_s_is_named(
    run: Path, cells: list[Group], name: str
) -> None:
    changes: list[Change] = [
        lambda drawn: drawn.drop(drawn.index[drawn.series == "proxykv"][0]),
        lambda drawn: pd.concat([drawn, drawn[drawn.series == "proxykv"].head(1)]),
        lambda drawn: drawn.assign(title=drawn.title[::-1].to_numpy()),
        lambda drawn: drawn.assign(series=drawn.series.replace("kvzip", "streaming")),
    ]
    path = run / "figures" / f"{name}.csv"
    whole = path.read_bytes()
    for change in changes:
        assert spoil(run, cells, name, change)
        path.write_bytes(whole)


def test_a_front_with_a_beaten_point_or_without_one_of_its_points_is_named(
    run: Path, cells: list[Group]
) -> None:
    def front(drawn: pd.DataFrame) -> pd.DataFrame:
        return drawn[(drawn.series == "Pareto front") & (drawn.panel == "1")]

    missing = spoil(run, cells, "pareto", lambda drawn: drawn.drop(front(drawn).index[0]))
    assert "is missing" in "".join(missing)

    def beaten(drawn: pd.DataFrame) -> pd.DataFrame:
        marks = drawn[(drawn.panel == "1") & (drawn.part == "marks")]
        worst = marks.loc[marks.y.astype(float).idxmin()]
        return pd.concat([drawn, worst.to_frame().T.assign(series="Pareto front", part="line")])

    assert "is not on the front" in "".join(spoil(run, cells, "pareto", beaten))


def test_numbers_that_are_missing_and_figures_that_are_not_compared_are_named(
    run: Path, cells: list[Group]
) -> None:
    folder = run / "figures"
    (folder / "latency.svg").touch()
    assert audited(run, cells).skipped == ["figures/latency.csv"]
    (folder / "pareto.csv").unlink()
    assert audited(run, cells).findings == [f"{folder / 'pareto.csv'}: missing; run `proxykv plot`"]


@pytest.mark.usefixtures("finished_here")
def test_a_wrong_point_makes_the_audit_fail(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures here are another run's."""
    shutil.copytree(run / "figures", "results/demo/figures", dirs_exist_ok=True)
    with pytest.raises(SystemExit) as left:
        main(["audit", "results/demo"])
    assert left.value.code == 1
    assert "figures/pareto.csv" in "".join(capsys.readouterr())
