"""A table's cell that differs from the rows is found and named, whatever the rows lack."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAssignmentType=false

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_run import edit, tabulate

from proxykv.config.run import Run
from proxykv.runs.audit import audit

RUN = Path("results/demo")
TABLES = ("leaderboard", "per_task", "summary", "quality_cost", "paired", "by_length", "premise",
          "coverage", "ablations")  # fmt: skip
NUMBERS = {
    "leaderboard": "mean ci_low ci_high n_contexts recovery recovery_low recovery_high kl kl_low "
    "kl_high",
    "per_task": "mean ci_low ci_high n_contexts recovery recovery_low recovery_high kl kl_low "
    "kl_high n_questions nll nll_low nll_high pct_of_full",
    "summary": "mean ci_low ci_high n_contexts recovery recovery_low recovery_high kl kl_low "
    "kl_high",
    "quality_cost": "seconds seconds_per_prefill operations prefills mean ci_low ci_high "
    "n_contexts recovery recovery_low recovery_high kl kl_low kl_high",
    "premise": "points ci_low ci_high mde n_contexts n_needed",
    "paired": "difference ci_low ci_high p p_holm mde n_contexts",
    "by_length": "difference ci_low ci_high p p_holm mde n_contexts",
    "coverage": "contexts expected missing questions truncated",
    "ablations": "seeds mean ci_low ci_high difference difference_low difference_high seed_spread",
}

pytestmark = pytest.mark.usefixtures("finished_here")

Lines = list[dict[str, str]]


def path_of(table: str) -> Path:
    return RUN / "tables" / f"{table}.csv"


def change(table: str, how: Callable[[Lines], Lines | None]) -> None:
    """Rewrite a table, with other bytes where `how` says so only."""
    with path_of(table).open(newline="") as file:
        lines = list(csv.DictReader(file))
    changed = how(lines) or lines
    with path_of(table).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for line in changed for k in line)))
        writer.writeheader()
        writer.writerows(changed)


def findings() -> list[str]:
    """What is wrong in the cells. That a table changed at all is a finding besides."""
    lines = audit(RUN, finished=False).findings
    return [line for line in lines if "changed after the tables were made" not in line]


def may_be_spoiled(line: dict[str, str], column: str) -> bool:
    """Whether a cell holds a number other than 0; if it is an end, of an interval with a width."""
    stem, _, end = column.rpartition("_")
    if end in ("low", "high"):
        return bool(line[column]) and line[f"{stem}_low"] != line[f"{stem}_high"]
    return line[column] not in ("", "0") or column in ("missing", "truncated")


def spoiled(value: float, column: str, line: dict[str, str]) -> float:
    """A wrong value: a thousandth off, or off by more than its error where it was drawn."""
    if column == "p":
        return value / 2 + 0.4
    if column.endswith(("_low", "_high")):
        stem = column.rpartition("_")[0]
        width = float(line[f"{stem}_high"]) - float(line[f"{stem}_low"])
        return value + (0.25 if column.endswith("_low") else -0.25) * width
    if value == int(value):
        return value + max(1, value // 1000)
    return value * 1.001


@pytest.mark.parametrize("table", TABLES)
def test_a_wrong_cell_of_each_column_is_named(table: str) -> None:
    messages: dict[str, str] = {}

    def spoil(lines: Lines) -> None:
        for column in NUMBERS[table].split():
            line = next(one for one in reversed(lines) if may_be_spoiled(one, column))
            value = spoiled(float(line[column]), column, line)
            messages[column] = f", {column}: published {value:.6g}, recomputed "
            line[column] = f"{value:.6g}"

    change(table, spoil)
    lines = findings()
    for column, start in messages.items():
        found = [line for line in lines if start in line]
        assert found and found[0].startswith(f"{path_of(table)}, "), (column, lines)
        published, recomputed = re.findall(r"(?:published|recomputed) (\S+?)(?:,|$)", found[0])
        assert math.isfinite(float(recomputed)) and recomputed != published


@pytest.mark.parametrize("text", ["", "many"])
@pytest.mark.parametrize("table", TABLES)
def test_a_cell_that_is_empty_or_no_number_is_named(table: str, text: str) -> None:
    columns = NUMBERS[table].split()

    def spoil(lines: Lines) -> None:
        for column in columns:
            # Not Holm's correction of a p that is gone, too.
            line = [one for one in lines if one[column]][-1 if column == "p_holm" else 0]
            line[column] = text

    change(table, spoil)
    lines = findings()
    for column in columns:
        start = f", {column}: published {text or 'nothing'}, recomputed "
        assert any(start in line for line in lines), (column, lines)


def test_an_interval_with_one_end_is_named() -> None:
    """Of some recoveries here it is chance whether they have an interval."""

    def spoil(lines: Lines) -> None:
        for line in lines:
            line["recovery_low"] = ""

    change("per_task", spoil)
    with path_of("per_task").open(newline="") as file:
        ends = [line["recovery_high"] for line in csv.DictReader(file)]
    lines = [line for line in findings() if line.endswith(", recovery: has one end")]
    assert len(lines) == sum(map(bool, ends)) > 9


def test_a_number_where_nothing_can_be_known_is_named() -> None:
    def spoil(lines: Lines) -> None:
        lines[0]["fixed"] = lines[0]["fixed_low"] = lines[0]["fixed_high"] = "0.5"

    change("per_task", spoil)
    assert [line.partition(", fixed")[2] for line in findings()] == [
        ": published 0.5, recomputed nan",
        "_low: published 0.5, recomputed nan",
        "_high: published 0.5, recomputed nan",
    ]


@pytest.mark.parametrize(
    ("table", "column"),
    [("ablations", "group"), ("ablations", "verdict"), ("premise", "outcome")],
)
def test_a_wrong_word_is_named(table: str, column: str) -> None:
    def spoil(lines: Lines) -> None:
        lines[-1][column] = "worse"

    change(table, spoil)
    assert [f", {column}: published worse" in line for line in findings()] == [True]


def test_verdicts_of_ablations_follow_from_intervals_and_seeds() -> None:
    def spoil(lines: Lines) -> None:
        for line in lines:
            line["verdict"] = {"none": "better", "better": "worse", "worse": "none"}[
                line["verdict"]
            ]

    change("ablations", spoil)
    with path_of("ablations").open() as file:
        lines = [line for line in findings() if ", verdict: published " in line]
        assert len(lines) == len(file.readlines()) - 1


@pytest.mark.parametrize("table", TABLES)
def test_a_line_too_many_too_few_twice_or_of_another_key_is_named(table: str) -> None:
    change(table, lambda lines: [*lines[2:], {**lines[0], "family": "other"}, lines[2]])
    lines = [line for line in findings() if str(path_of(table)) in line]
    assert any(line.endswith("this line is missing") for line in lines)
    assert any(re.search(r"csv, other .*: the rows do not give this line$", line) for line in lines)
    assert any(line.endswith("this line occurs more than once") for line in lines)


def test_a_table_that_is_missing_and_a_column_of_which_nothing_is_known_are_named() -> None:
    change("summary", lambda lines: [{**line, "luck": "7"} for line in lines])
    path_of("ablations").unlink()
    lines = findings()
    assert any(line.endswith(", luck: nothing is known about this column") for line in lines)
    assert f"{path_of('ablations')}: missing; run `proxykv tabulate`" in lines


def test_a_table_that_does_not_follow_from_rows_is_mentioned() -> None:
    path_of("fidelity").write_text("a,b\n1,2\n")
    found = audit(RUN, finished=False)
    assert not found.findings and found.summary.endswith("no findings; not audited: fidelity.csv")


# --- rows that lack something: the tables agree, and the audit says only what is missing ---------


def retabulated(spoil: Callable[[pd.DataFrame], pd.DataFrame]) -> list[str]:
    """Findings after the rows changed and the tables were made of them."""
    for path in sorted((RUN / "rows").rglob("*.parquet")):
        edit(path, spoil)
    tabulate(Run.read(RUN / "config.json"))
    return [line for line in findings() if "/tables/" in line]


def test_tables_of_incomplete_rows_agree() -> None:
    def lack(rows: pd.DataFrame) -> pd.DataFrame:
        at = rows.retention
        gone = (
            ((rows.method == "kvzip") & (at == 0.1) & (rows.context_id == "single-0"))
            | ((rows.method == "proxykv") & (at == 0.3) & (rows.context_id == "multikey-1"))
            | ((rows.method == "linear") & (at == 0.3) & (rows.context_id == "single-4"))
            | ((rows.method == "prior") & (rows.task == "multikey"))
            | ((rows.method == "snapkv") & (rows.context_id == "single-3"))
        )
        rows = rows[~gone].copy()
        rows.loc[(rows.context_id == "multikey-2") & (rows.question == 0), ["kl", "nll"]] = np.nan
        rows.loc[(rows.method == "proxykv") & (rows.context_id == "single-2"), "kl"] = np.nan
        rows.loc[rows.task == "multikey", "score_fixed"] = 0.5
        return rows

    assert retabulated(lack) == []


def test_tables_of_a_task_with_one_context_agree() -> None:
    one = ["multikey-0"]
    assert retabulated(lambda r: r[(r.task == "single") | r.context_id.isin(one)]) == []


def test_tables_without_the_oracle_or_the_full_cache_agree() -> None:
    assert retabulated(lambda rows: rows[~rows.method.isin(["kvzip", "full"])]) == []


@pytest.mark.parametrize("right", [0, 1, 2])
def test_tables_of_an_oracle_that_hardly_scores_agree(right: int) -> None:
    """Where its mean is 0 in a resample, recovery has no interval."""
    some = [f"{task}-{i}" for task in ("single", "multikey") for i in range(right)]

    def fail(rows: pd.DataFrame) -> pd.DataFrame:
        wrong = (rows.method == "kvzip") & ~rows.context_id.isin(some)
        return rows.assign(score=rows.score.where(~wrong, 0.0))

    assert retabulated(fail) == []


@pytest.mark.parametrize(
    ("points", "outcome"), [(0.0, "upheld"), (4.0, "falsified"), (2.8, "undecided")]
)
def test_each_outcome_of_the_premise_agrees(points: float, outcome: str) -> None:
    """KVzip scores so many points more than ProxyKV, and half a point more in some contexts."""

    def score(rows: pd.DataFrame) -> pd.DataFrame:
        number = rows.context_id.str.partition("-")[2].astype(int)
        gap = points + 0.5 * (number // 2 % 2) * (rows.retention < 0.5)
        return rows.assign(score=0.5 + gap / 100 * (rows.method == "kvzip"))

    assert retabulated(score) == []
    with path_of("premise").open(newline="") as file:
        outcomes = [line["outcome"] for line in csv.DictReader(file) if line["method"] == "kvzip"]
    assert outcomes == [outcome] * 2


def test_tables_of_equal_methods_agree() -> None:
    assert retabulated(lambda rows: rows.assign(score=0.5, kl=1.0)) == []


def test_comparisons_of_the_config_are_corrected_in_their_groups() -> None:
    config = json.loads((RUN / "config.json").read_text())
    pairs = [["kvzip", "snapkv"], ["prior", "snapkv"], ["kvzip", "prior"]]
    run = Run({**config, "comparisons": [{"group": "more", "pairs": pairs}]})
    run.write()
    tabulate(run)
    assert findings() == []
