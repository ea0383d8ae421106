"""Two runs on one page: what differs in how they were made, and in answers to the same prompts."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished_run import CONFIG, edit
from lxml import html
from rows_fixture import cards_of, make_rows

from proxykv.cli import main
from proxykv.report.compare import compare_runs
from proxykv.report.compare.made import StoredRun, differences
from proxykv.report.compare.pairs import paired, shared
from proxykv.runtime.errors import ConfigError

METHODS = ("kvzip", "proxykv")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows(methods=METHODS, contexts=5, tasks=("single", "vt"), retentions=(0.1, 0.5))


def changed(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows with other values for ProxyKV."""
    other = rows.copy()
    other.loc[other.method == "proxykv", list(values)] = list(values.values())
    return other


def line(table: pd.DataFrame, **key: Any) -> pd.Series:
    for column, value in key.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_differences_are_of_the_same_contexts(rows: pd.DataFrame) -> None:
    table = paired(rows, changed(rows, score=1.0, prediction="right"))
    for retention, keep in {"0.1": rows.retention == 0.1, "<=0.3": rows.retention <= 0.3}.items():
        of_method = rows[(rows.method == "proxykv") & keep]
        found = line(table, method="proxykv", metric="score", retention=retention)
        assert found.difference == pytest.approx(1 - of_method.score.mean())
        assert found.ci_low <= found.difference <= found.ci_high and found.n_contexts == 10
    same = table[(table.method != "proxykv") | (table.metric == "kl")]
    assert (same.difference == 0).all() and (same.p == 1).all()
    assert set(table.retention) == {"<=0.3", "0.1", "0.5", "1"}
    assert (table.p_holm >= table.p).all()


def test_a_changed_prompt_and_what_one_run_lacks_are_counted_and_not_paired(
    rows: pd.DataFrame,
) -> None:
    other = rows[rows.context_id != "vt-004"].copy()
    other.loc[other.context_id == "vt-003", "prompt_hash"] = "another"
    other.loc[other.context_id == "vt-002", "kept_digest"] = "another"
    found = line(shared(rows, other))
    assert (found.contexts_first, found.contexts_other) == (10, 9)
    assert (found.shared, found.same_id_other_prompt) == (8, 1)
    assert found["same_text_%"] == 100 and found["same_kept_pairs_%"] == pytest.approx(700 / 8)
    assert set(paired(rows, other).n_contexts) == {8}


def test_without_shared_contexts_nothing_is_paired(rows: pd.DataFrame) -> None:
    other = rows.assign(benchmark="other")
    assert paired(rows, other).empty
    assert list(shared(rows, other)["shared"]) == [0, 0]
    for column, value in {"scope": "x", "task": "x", "prompt_hash": "x", "retention": 0.2}.items():
        assert paired(rows, rows.assign(**{column: value})).empty


def test_what_differs_in_config_and_provenance_is_listed(rows: pd.DataFrame) -> None:
    config = {"run": "a", "seed": 0, "training": {"lr": 1}, "methods": ["full", "kvzip", "snapkv"]}
    one = StoredRun("a", config, cards_of(rows), rows)
    assert differences([one, StoredRun("b", {**config, "run": "b"}, one.methods, rows)]).empty
    second = {"run": "b", "seed": 1, "training": {"lr": 1}, "methods": ["full", "proxykv"]}
    other = changed(rows, method_digest="new").assign(versions="torch 9")
    table = differences([one, StoredRun("b", second, one.methods, other)]).set_index("what")
    assert table.to_dict("index") == {
        "config: seed": {"a": "0", "b": "1"},
        "config: methods": {"a": "kvzip, snapkv", "b": "proxykv"},
        "rows of tiny: versions": {"a": rows.versions[0], "b": "torch 9"},
        "rows of tiny: method_digest: proxykv": {"a": "proxykv-digest", "b": "new"},
    }


def test_the_command_writes_a_page_and_its_tables(
    finished_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = finished_here
    other = finished.with_name("<i>other")
    other.mkdir()
    for name in ("config.json", "methods.json"):
        (other / name).write_bytes((finished / name).read_bytes())
    source = finished / "rows/tiny/tiny/multikey.parquet"
    (copy := other / source.relative_to(finished)).parent.mkdir(parents=True)
    copy.write_bytes(source.read_bytes())
    edit(copy, lambda rows: rows.assign(code_hash="new"))
    assert main(["compare", str(finished), str(other), "--output", "both"]) == 0
    assert capsys.readouterr().out == "both/index.html\n"
    page = html.document_fromstring(Path("both/index.html").read_text("utf-8"))
    assert not page.xpath("//*[@src or @href and not(starts-with(@href, '#'))]")[1:]
    assert page.xpath("//h1")[0].text_content() == f"{finished} · {other}"
    assert [div.get("id") for div in page.xpath("//div[@class='table']")] == [
        "made", "shared", "paired-score", "paired-kl",
    ]  # fmt: skip
    made = pd.read_csv("both/made.csv").set_index("what")
    assert made.loc["rows of tiny: code_hash", str(other)] == "new"
    pairs = pd.read_csv("both/paired.csv")
    assert len(pairs) == 2 * (
        6 * 4 + 1
    )  # metrics, methods, retentions and their pool; the full cache


@pytest.mark.parametrize("folders", [["results/demo"], ["results/demo", "results/demo"]])
def test_one_run_is_not_compared(
    finished_here: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *folders]) == 2
    assert "two or more different runs" in capsys.readouterr().err
    assert not Path("comparison").exists()


def test_a_folder_without_a_run_is_named(finished_here: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/config\.json: no such file"):
        compare_runs([finished_here, Path("nowhere")], Path("both"))
    assert json.loads((finished_here / "config.json").read_text())["run"] == CONFIG["run"]
