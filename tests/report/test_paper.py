"""The paper's numbers: a verdict follows from the interval that a run found, and from nothing else.

The audit recomputes each line by its own code, so it checks every table that is made here.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from measurements_fixture import make_measurements, write_measurements
from rows_fixture import cards_of, make_rows, write_run

from proxykv.config import benchmarks, catalog
from proxykv.config.cards import MethodCards
from proxykv.config.claims import claims, claims_of, leaderboard_claims, paper_models
from proxykv.report.paper import paper, paper_table, write_paper
from proxykv.runs.audit import Audit, efficiency
from proxykv.runs.audit import paper as audited
from proxykv.runs.audit.table_file import compare, read_table

RETENTIONS = tuple(round(rho / 10, 1) for rho in range(1, 10))


def rows_of(
    family: str, benchmark: str, task: str, scores: dict[str, Any], retentions: Any = RETENTIONS
) -> pd.DataFrame:
    """Rows of a task, one question a context; `scores` gives each method's value per context."""
    made = make_rows(
        families=(family,), tasks=(task,), methods=tuple(scores), questions=1,
        retentions=retentions, contexts=len(next(iter(scores.values()))),
    )  # fmt: skip
    number = made.context_id.str[-3:].astype(int)
    pruned = made.method != "full"
    values = [scores[m][i] for m, i in zip(made.method[pruned], number[pruned], strict=True)]
    made.loc[pruned, "score"] = values
    return made.assign(benchmark=benchmark, target=f"{paper_models()[family]}@123456")


def line_of(table: pd.DataFrame, claim: str, family: str = "", task: str = "") -> pd.Series:
    found = table[(table.claim == claim) & (table.family == family) & (table.task == task)]
    assert len(found) == 1
    return found.iloc[0]


def judged(
    rows: pd.DataFrame, run: Path, measured: pd.DataFrame | None = None, **config: Any
) -> pd.DataFrame:
    """The table of a run of these rows, after the audit has found nothing in it."""
    files = write_run(run, rows)
    stored = run / "config.json"
    stored.write_text(json.dumps(json.loads(stored.read_text("utf-8")) | config), "utf-8")
    if measured is not None:
        write_measurements(run, measured)
    path = write_paper(files, run)
    assert path.with_suffix(".tex").read_text("utf-8").isascii()
    assert findings(rows, run, read_table(path)) == []
    return paper(rows, MethodCards.read(run), run)


def findings(rows: pd.DataFrame, run: Path, published: list[dict[str, str]]) -> list[str]:
    config = {"families": sorted(rows.family.unique()), "efficiency": [{"name": "latency"}]}
    audit = Audit()
    measured = efficiency.measurements(config, run, audit)
    evidence = audited.Evidence(rows.to_dict("records"), measured, MethodCards.read(run), run)
    lines = audited.lines(evidence, published)
    compare(run / "paper.csv", audited.KEYS, published, lines, audit)
    return audit.findings


TASK = ("llama-3", "longbench", "passage_retrieval_en")
NEAR, FAR = [1.0] * 11 + [0.94], [0.5, 0.7] * 6


def passage(scores: dict[str, Any]) -> pd.DataFrame:
    return rows_of(*TASK, scores, (0.3,))


@pytest.mark.parametrize(("scores", "verdict"), [(NEAR, "reproduced"), (FAR, "differs")])
def test_a_number_is_reproduced_if_the_interval_holds_it(
    tmp_path: Path, scores: list[float], verdict: str
) -> None:
    table = judged(passage({"proxykv": scores, "snapkv": FAR}), tmp_path)
    line = line_of(table, "passage_retrieval_en_proxykv", "llama-3")
    assert (line.verdict, line.n) == (verdict, 12)
    assert line.found == pytest.approx(100 * np.mean(scores))
    assert line.found_low < line.found < line.found_high
    assert (line.found_low <= 99.5 <= line.found_high) == (verdict == "reproduced")
    other = line_of(table, "passage_retrieval_en_iam", "llama-3")
    assert other.verdict == "not tested here" and "no answers of kvzip_iam" in other.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "models/tiny"}, "other models: models/tiny"),
        ({"protocol": "query_aware"}, "the run's protocol is not query-agnostic"),
        ({"retention": 0.25}, "no answers of proxykv at all of ρ = 0.3"),
        ({"task": "qasper"}, "for longbench passage_retrieval_en"),
    ],
)
def test_what_does_not_compare_is_not_tested(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    table = judged(passage({"proxykv": NEAR}).assign(**change),
                   tmp_path)  # fmt: skip
    table = table[table.claim != "mass"]  # of the mapper, whatever the answers
    assert set(table.verdict) == {"not tested here"}
    family = "" if "target" in change else "llama-3"
    assert reason in line_of(table, "passage_retrieval_en_proxykv", family).reason
    assert table.found.isna().all()


def test_without_an_interval_there_is_no_verdict(tmp_path: Path) -> None:
    line = line_of(
        judged(passage({"proxykv": [0.995]}), tmp_path),
        "passage_retrieval_en_proxykv", "llama-3",
    )  # fmt: skip
    assert line.found == pytest.approx(99.5) and np.isnan(line.found_low)
    assert line.verdict == "not tested here" and "interval" in line.reason


def test_a_bound_holds_or_not_task_by_task(tmp_path: Path) -> None:
    small = rows_of(
        "qwen-3", "ruler", "vt", {"kvzip": [0.9, 0.8, 0.9], "proxykv": [0.9, 0.8, 0.89]}
    )
    large = rows_of(
        "qwen-3", "ruler", "cwe", {"kvzip": [0.9, 0.8, 0.9], "proxykv": [0.8, 0.6, 0.7]}
    )
    table = judged(pd.concat([small, large]), tmp_path)
    lines = {task: line_of(table, "gap_ruler", "qwen-3", task) for task in ("vt", "cwe", "fwe")}
    assert [line.verdict for line in lines.values()] == [
        "reproduced", "differs", "not tested here",
    ]  # fmt: skip
    assert lines["cwe"].found == pytest.approx(100 * (0.1 + 0.2 + 0.2) / 3)
    assert (table.claim == "gap_ruler").sum() == len(benchmarks.tasks()["ruler"]) == 13


def test_what_pools_benchmarks_needs_every_task(tmp_path: Path) -> None:
    one = rows_of("llama-3", "ruler", "vt", {"kvzip": [0.8, 0.9], "proxykv": [0.79, 0.9]})
    parts = [
        one.assign(benchmark=name, task=task)
        for name in ("longbench", "scbench", "ruler")
        for task in benchmarks.tasks()[name]
    ]
    rows = pd.concat(parts)
    line = line_of(judged(rows, tmp_path), "recovery", "llama-3")
    assert line.found == pytest.approx(100 * 0.845 / 0.85) and line.n == 2 * 46
    lacking = paper(pd.concat(parts[1:-1]), MethodCards.read(tmp_path), tmp_path)
    line = line_of(lacking, "recovery", "llama-3")
    assert line.verdict == "not tested here" and "and 1 more tasks" in line.reason


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "differs"), (3.21 / 2, "reproduced")], ids=["as made", "slower"]
)
def test_measurements_are_judged_on_the_hardware_that_the_paper_names(
    tmp_path: Path, factor: float, verdict: str
) -> None:
    rows = passage({"kvzip": NEAR, "proxykv": NEAR})
    target = rows.target.iloc[0]
    measured = make_measurements("llama-3", failed=("kvzip", 0)).assign(target=target)
    slower = np.where(measured.method == "kvzip", factor, 1.0)
    table = judged(rows, tmp_path, measured.assign(cache_seconds=measured.cache_seconds * slower))
    line = line_of(table, "speedup_two_gpus", "llama-3")
    assert (line.verdict, line.n) == (verdict, 3) and line.found == pytest.approx(2 * factor)
    one = line_of(table, "speedup_one_gpu", "llama-3")
    assert one.reason == "no measurements of kvzip and proxykv on 1 GPU"
    assert "other models" in line_of(table, "speedup_170k").reason
    share = line_of(table, "mapper_share", "llama-3")
    assert share.found == pytest.approx(100 * 0.05 / 1.5) and share.verdict == "differs"
    assert line_of(table, "memory_premium", "llama-3").found == pytest.approx(50)
    assert line_of(table, "mass", "llama-3").verdict == "reproduced"


def test_the_audit_names_each_cell_that_is_wrong(tmp_path: Path) -> None:
    rows = passage({"proxykv": NEAR, "snapkv": FAR})
    judged(rows, tmp_path)
    lines = read_table(tmp_path / "tables" / "paper.csv")
    line = next(x for x in lines if x["claim"] == "passage_retrieval_en_proxykv")
    wrong = {"found": "98", "found_low": "90", "n": "13", "at_least": "99", "reason": "",
             "verdict": "differs", "says": "nothing"}  # fmt: skip
    for column, text in wrong.items():
        found = findings(rows, tmp_path, [x | ({column: text} if x is line else {}) for x in lines])
        assert any(f", {column}: published {text or 'nothing'}" in one for one in found), column
    untested = next(x for x in lines if x["verdict"] == "not tested here")
    claimed = [x | ({"verdict": "reproduced"} if x is untested else {}) for x in lines]
    assert len(findings(rows, tmp_path, claimed)) == 1


def test_the_embedded_models_test_nothing_and_say_so(tmp_path: Path) -> None:
    rows = make_rows(contexts=2)
    said, table = paper_table(paper(rows, cards_of(rows), tmp_path))
    assert said == f"0 reproduced, 0 differs, {len(claims())} not tested here"
    assert len(table.rows) == len(claims())
    others = [row for row in table.rows if row[-1].text == "other models: tiny-target"]
    assert len(others) == len(claims()) - 1


def test_a_run_of_the_leaderboards_setting_is_compared_with_it(tmp_path: Path) -> None:
    frames = [
        rows_of("llama-3", "ruler", task, {"snapkv": [0.665] * 3, "random": [0.3] * 3}, [0.5])
        for task in benchmarks.tasks()["ruler"]
    ]
    rows = pd.concat(frames, ignore_index=True)
    preset = yaml.safe_load((catalog.ROOT / "config" / "kvpress-leaderboard.yaml").read_text())
    assert claims_of(tmp_path) == claims()
    table = judged(rows, tmp_path / "run", benchmarks=preset["benchmarks"])
    near, far = (line_of(table, f"kvpress_{m}_0.5", "llama-3") for m in ("snapkv", "random"))
    assert (near.at_least, near.at_most, near.verdict) == (66, 68, "reproduced")
    assert far.verdict == "differs"
    missing = line_of(table, "kvpress_kvzip_0.75", "llama-3")
    assert "no answers of kvzip at all of ρ = 0.25" in missing.reason
    _, shown = paper_table(table)
    (none,) = {row[2].text for row in shown.rows if "Qwen3-8B" in row[0].text}
    assert none == "none known"
    for claim in leaderboard_claims():
        assert set(claim.retentions) <= set(preset["retentions"])
        assert claim.method in (*preset["methods"], "")
        assert claim.says.startswith("kvpress leaderboard: ")


def test_every_claim_names_what_a_run_can_have() -> None:
    known = {*catalog.variants(), "no_conv", "no_time", "no_head"}
    for claim in claims():
        assert bool(claim.metric) != bool(claim.lacks)
        assert {claim.method, claim.baseline} <= known | {""}
        assert set(claim.families) <= set(paper_models())
        for name in claim.benchmarks:
            assert set(claim.tasks) <= set(benchmarks.tasks()[name])
    for family, hub in paper_models().items():
        assert hub in (catalog.ROOT / "config" / "families" / f"{family}.yaml").read_text("utf-8")
