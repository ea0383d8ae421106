"""A wrong number in the tables of time and memory is found and named."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_run import tabulate
from measurements_fixture import make_measurements, write_measurements

from proxykv.config.run import Run
from proxykv.runs.audit import Audit, audit
from proxykv.runs.audit.efficiency import KEYS

RUN = Path("results/demo")
TABLES = ("efficiency", "speedups")
NAMES = {"efficiency": ["status"], "speedups": ["reference_hardware"]}


@pytest.fixture(autouse=True)
def measured(finished_here: Path) -> None:
    """Measurements on one GPU and on two, whose times vary; at some lengths memory runs out."""
    draw = np.random.default_rng(5)
    rows = make_measurements()
    varied = draw.uniform(1, 1.2, len(rows))
    rows = rows.assign(cache_seconds=rows.cache_seconds * varied, decode_seconds=varied / 9)
    write_tables(rows)


def write_tables(rows: pd.DataFrame) -> None:
    write_measurements(RUN, rows)
    tabulate(Run.read(RUN / "config.json", made=True))


def path_of(table: str) -> Path:
    return RUN / "tables" / f"{table}.csv"


def audited() -> Audit:
    return audit(RUN)


def findings_about(table: str) -> list[str]:
    return [line for line in audited().findings if line.startswith(f"{path_of(table)}")]


def test_untouched_tables_agree_and_are_audited() -> None:
    found = audited()
    assert [line for line in found.findings if "/tables/" in line] == []
    assert not {f"{name}.csv" for name in TABLES} & {*found.skipped}
    assert all(len(pd.read_csv(path_of(name))) > 6 for name in TABLES)


def test_a_target_that_several_devices_share_is_audited() -> None:
    rows = make_measurements()
    write_tables(rows.assign(device="cuda: H100 x 2", devices=3))
    assert [line for line in audited().findings if "/tables/" in line] == []
    found = set(pd.read_csv(path_of("efficiency")).hardware)
    assert found == {"2 × H100", "3 × H100"}


def test_measurements_that_changed_after_the_tables_are_named() -> None:
    (path,) = (RUN / "efficiency").rglob("*.parquet")
    line = f"{path}: changed after the tables were made; run `proxykv tabulate`"
    assert line not in audited().findings
    measured = pd.read_parquet(path)
    measured.assign(device="cpu: another").to_parquet(path, index=False)
    assert line in audited().findings
    tabulate(Run.read(RUN / "config.json", made=True))
    assert line not in audited().findings
    path.write_bytes(path.read_bytes()[:-9])
    assert any(found.startswith(f"{path}: damaged (") for found in audited().findings)
    path.unlink()
    assert line in audited().findings


@pytest.mark.parametrize("table", TABLES)
def test_a_wrong_cell_of_each_column_is_named(table: str) -> None:
    lines = pd.read_csv(path_of(table), dtype=str)
    columns = [column for column in lines if column not in KEYS[table]]
    at = {column: lines.index[lines[column].notna()][-1] for column in columns}
    for column in columns:
        value = lines.loc[at[column], column]
        factor = 0.8 if column.endswith("_low") else 1.25
        wrong = "other" if column in NAMES[table] else str(factor * float(value))
        lines.loc[at[column], column] = wrong
    lines.to_csv(path_of(table), index=False)
    found = findings_about(table)
    for column in columns:
        assert any(f", {column}: published " in line for line in found), (column, found)


@pytest.mark.parametrize("table", TABLES)
def test_a_line_too_many_or_too_few_and_a_lost_table_are_named(table: str) -> None:
    lines = pd.read_csv(path_of(table), dtype=str)
    lines.assign(method=lines.method.where(lines.index > 0, "other")).to_csv(
        path_of(table), index=False
    )
    changed, missing, unknown = findings_about(table)
    assert changed.endswith("changed after the tables were made; run `proxykv tabulate`")
    assert missing.endswith("this line is missing")
    assert unknown.endswith("the rows do not give this line")
    path_of(table).unlink()
    assert findings_about(table) == [f"{path_of(table)}: missing; run `proxykv tabulate`"]


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu: Xeon", "proxy_device": "cpu: Xeon", "threads": 2},
        {"proxy_device": "cuda: A100"},
        {"devices": 1},
        {"cache_seconds": 1.0},
        {"batch": 4},
    ],
    ids=["cpu", "two kinds", "one device", "equal", "batch"],
)
def test_tables_of_other_measurements_agree(change: dict[str, object]) -> None:
    write_tables(make_measurements().assign(**change))
    assert [line for name in TABLES for line in findings_about(name)] == []


def test_tables_of_few_requests_agree() -> None:
    """A case with one timed request has no interval, and without the oracle there is no ratio."""
    rows = make_measurements()
    write_tables(rows[(rows.repeat < 2) & (rows.method != "kvzip")])
    assert [line for name in TABLES for line in findings_about(name)] == []
