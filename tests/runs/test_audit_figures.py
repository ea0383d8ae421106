"""A figure that draws other numbers than the tables and the rows give is found, point by point."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAssignmentType=false
# pyright: reportCallIssue=false, reportReturnType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measurements_fixture import make_measurements, write_measurements
from rows_fixture import make_rows, write_run

from proxykv.cli import main
from proxykv.config.cards import MethodCards
from proxykv.report import plots
from proxykv.report.ablations import ablations
from proxykv.report.plots._points import points
from proxykv.report.tabulate import write_tables
from proxykv.runs.audit import Audit
from proxykv.runs.audit.efficiency import measurements
from proxykv.runs.audit.means import Group, groups
from proxykv.runs.audit.page import check_figures
from proxykv.runs.audit.page.figures import FRONT, KEYS
from proxykv.runtime.parquet import read_parquet, write_csv

FIGURES = ("accuracy_per_task", "accuracy_retention", "kl_retention", "pareto", "quality_cost")
MEASURED = ("latency", "latency_real", "memory_timeline", "pareto_total", "time_shares")
FITTED = ("ablation", "transfer")
VARIANTS = {"seed1": {"seed": 1}, "mse": {"weights": {"mse": 20}}, "linear": {"mapper": {}}}
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
    files = write_run(run, rows[~alone], mapper=False)
    write_tables(files, MethodCards.read(run), run / "tables")
    families = make_measurements("tiny", devices=1), make_measurements("qwen-3")
    write_measurements(run, slow_at_the_end(pd.concat(families, ignore_index=True)))
    varied = variants(rows[rows.family == "tiny"], run)
    write_fidelity(run / "tables" / "fidelity.csv")
    for name in (*FIGURES, *MEASURED, *FITTED):
        shown = varied if name == "ablation" else rows[~alone]
        figure = plots.draw(name, shown, MethodCards.read(run), run)
        assert figure is not None
        write_csv(run / "figures" / f"{name}.csv", points(figure))
        (run / "figures" / f"{name}.svg").touch()
    return run


def slow_at_the_end(measured: pd.DataFrame) -> pd.DataFrame:
    """The last repeat takes far longer, so that a mean is no median."""
    last = measured.repeat == measured.repeat.max()
    times = ["cache_seconds", "request_seconds"]
    measured.loc[last, times] = measured.loc[last, times] * 3
    for spans in measured.spans[last]:
        spans[-1]["end"] += 1.0
    return measured


def variants(rows: pd.DataFrame, run: Path) -> pd.DataFrame:
    """Rows of variants of the mapper, which the run's config names; their table is written."""
    path, draw = run / "config.json", np.random.default_rng(6)
    config = json.loads(path.read_text("utf-8"))
    listed = [{"id": name, "base": "proxykv", "params": p} for name, p in VARIANTS.items()]
    path.write_text(json.dumps({**config, "methods": [*config["methods"], *listed]}), "utf-8")
    of_subject = rows[rows.method == "proxykv"]
    every = [
        of_subject.assign(method=name, score=draw.integers(0, 5, len(of_subject)) / 4)
        for name in ("proxykv", *VARIANTS)
    ]
    varied = pd.concat([rows[rows.method == "full"], *every])
    table = ablations(varied, MethodCards.read(run), run)
    assert {"loss", "mapper"} <= set(table.group) and table.seed_spread.notna().any()
    write_csv(run / "tables" / "ablations.csv", table)
    return varied


def write_fidelity(path: Path) -> None:
    """Two mappers on two parts of the corpus, one of which has contexts of one length only."""
    lines = [
        ("tiny", "proxykv", fitted, "all", part, length, metric, rho, value / 16)
        for value, (fitted, (part, length), (metric, rho)) in enumerate(
            product(
                ("all", "code"),
                (("code", "all"), ("code", "128"), ("prose", "all"), ("prose", "128"),
                 ("prose", "256"), ("code", "256"), ("chat", "all"), ("chat", "128")),
                (("head_overlap", 0.1), ("head_overlap", 0.3), ("rank", "")),
            )
        )
    ]  # fmt: skip
    named = ["family", "method", "fitted_on", "fitted_lengths", "part", "length", "metric"]
    write_csv(path, pd.DataFrame(lines, columns=[*named, "retention", "mean"]))


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
    requests = measurements(json.loads((run / "config.json").read_text("utf-8")), run, Audit())
    check_figures(cells, requests, MethodCards.read(run), run, found)
    return found


def spoil(run: Path, cells: list[Group], name: str, change: Change) -> list[str]:
    path = run / "figures" / f"{name}.csv"
    drawn = pd.read_csv(path, keep_default_na=False, dtype=str)
    change(drawn).to_csv(path, index=False)
    return audited(run, cells).findings


def test_untouched_figures_agree(run: Path, cells: list[Group]) -> None:
    found = audited(run, cells)
    drawn = [len(pd.read_csv(path)) for path in (run / "figures").glob("*.csv")]
    assert len(drawn) == len([*FIGURES, *MEASURED, *FITTED]) and found.skipped == []
    assert found.findings == [] and found.cells > 2 * sum(drawn) > 1200


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


@pytest.mark.parametrize("name", [*MEASURED, *FITTED])
def test_a_wrong_point_of_each_panel_and_part_is_named(
    run: Path, cells: list[Group], name: str
) -> None:
    path = run / "figures" / f"{name}.csv"
    whole = pd.read_csv(path, keep_default_na=False, dtype=str)
    compared = whole[whole.series != FRONT]
    for column in ("x", "y", "value"):
        known = compared[compared[column] != ""]
        drawn, named = whole.copy(), []
        for at in known.groupby(["panel", "part"]).sample(1, random_state=0).index:
            drawn.loc[at, column] = f"{float(drawn.loc[at, column]) * 1.001 + 0.001:.6g}"
            named.append(" ".join(filter(None, drawn.loc[at, list(KEYS)])) + f", {column}: ")
        findings = spoil(run, cells, name, lambda _, drawn=drawn: drawn)
        assert len(findings) == len(named)
        assert all(any(where in line for line in findings) for where in named)
    for changed in (whole.drop(0), pd.concat([whole, whole[:1]]), whole.assign(title="another")):
        assert spoil(run, cells, name, lambda _, changed=changed: changed)


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


@pytest.mark.parametrize("name", ["pareto", "pareto_total"])
def test_a_front_with_a_beaten_point_or_without_one_of_its_points_is_named(
    run: Path, cells: list[Group], name: str
) -> None:
    def front(drawn: pd.DataFrame) -> pd.DataFrame:
        return drawn[(drawn.series == "Pareto front") & (drawn.panel == "1")]

    missing = spoil(run, cells, name, lambda drawn: drawn.drop(front(drawn).index[0]))
    assert "is missing" in "".join(missing)

    def beaten(drawn: pd.DataFrame) -> pd.DataFrame:
        marks = drawn[(drawn.panel == "1") & (drawn.part == "marks")]
        worst = marks.loc[marks.y.astype(float).idxmin()]
        return pd.concat([drawn, worst.to_frame().T.assign(series="Pareto front", part="line")])

    assert "is not on the front" in "".join(spoil(run, cells, name, beaten))


def test_numbers_that_are_missing_and_figures_that_are_not_compared_are_named(
    run: Path, cells: list[Group]
) -> None:
    folder = run / "figures"
    (folder / "training.svg").touch()
    assert audited(run, cells).skipped == ["figures/training.csv"]
    (run / "tables" / "fidelity.csv").unlink()
    (line,) = audited(run, cells).findings
    assert "transfer.csv: cannot be compared without" in line
    (folder / "transfer.svg").unlink()
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
