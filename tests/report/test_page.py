"""The page, read back: its tables against loops over rows, and what else it states."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lxml.html import HtmlElement
from rows_fixture import cards_of, make_rows, write_run

from proxykv.report import build_report, cells, plots, tables
from proxykv.report.stats import mean_ci, ratio_ci

LABELS = {
    "full": "Full cache",
    "kvzip": "KVzip",
    "proxykv": "ProxyKV",
    "snapkv": "SnapKV",
    "random": "Random",
    "prior": "Head prior (control)",
    "proxykv_shuffled": "Shuffled proxy (control)",
}
METHODS = tuple(LABELS)[1:]


def lines_of(document: HtmlElement, table: str) -> list[list[HtmlElement]]:
    (found,) = document.xpath(f"//div[@id='{table}']//tbody")
    return [line.xpath("./th | ./td") for line in found.xpath("./tr")]


def heads_of(document: HtmlElement, table: str) -> list[str]:
    return [h.text_content() for h in document.xpath(f"//div[@id='{table}']//thead//th")]


def words(cell: HtmlElement) -> str:
    return " ".join(cell.text_content().split())


def minus(text: str) -> str:
    return text.replace("-", "−")


def strata(rows: pd.DataFrame, column: str = "score") -> list[np.ndarray]:
    """Context means of these rows, task by task."""
    return [
        np.array([fmean(part[column]) for _, part in task.groupby("context_id")])
        for _, task in rows.groupby("task")
    ]


def mean(rows: pd.DataFrame, column: str = "score") -> float:
    return fmean(map(fmean, strata(rows, column)))


def at(rows: pd.DataFrame, method: str, *retentions: float) -> pd.DataFrame:
    return rows[(rows.method == method) & rows.retention.isin(retentions)]


def best_first(rows: pd.DataFrame) -> list[str]:
    """Methods by their mean at 0.05 and 0.3; the full cache leads."""
    key = {m: fmean(mean(at(rows, m, rho)) for rho in (0.05, 0.3)) for m in METHODS}
    return ["full", *sorted(key, key=key.__getitem__, reverse=True)]


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "column", "digits", "scale"),
    [("mean", "score", 3, 1), ("kl", "kl", 3, 1), ("recovery", "score", 1, 100)],
)
def test_every_cell_of_the_leaderboard(
    document: HtmlElement, rows: pd.DataFrame, metric: str, column: str, digits: int, scale: int
):
    table = f"board-0-{metric}"
    assert heads_of(document, table) == ["Method", "ρ 0.05", "ρ 0.3", "ρ 0.5", "ρ 1"]
    lines = lines_of(document, table)
    order = best_first(rows)
    assert [words(line[0]).removesuffix(" global").removesuffix(" head") for line in lines] == [
        LABELS[method] for method in order
    ]
    shown = 0
    for method, (_, *line) in zip(order, lines, strict=True):
        for rho, cell in zip((0.05, 0.3, 0.5, 1.0), line, strict=True):
            part = at(rows, method, rho)
            if part.empty:
                assert words(cell) == "" and cell.get("data-v") == ""
                continue
            if metric == "recovery":
                oracle = at(rows, "kvzip" if rho < 1 else "full", rho)
                estimate = ratio_ci(strata(part), strata(oracle))
            else:
                estimate = mean_ci(strata(part, column))
            value, low, high = (scale * number for number in estimate)
            half = minus(f"{(high - low) / 2:.{digits}f}")
            assert words(cell) == minus(f"{value:.{digits}f} ±{half}")
            assert float(cell.get("data-v")) == pytest.approx(value)
            _, interval, contexts = cell.get("title").split("\n")
            assert interval == minus(f"95 % CI {low:.{digits}f} to {high:.{digits}f}")
            assert contexts == f"12 contexts, {100 * rho:.{digits}f} % of the pairs kept"
            shown += 1
    assert shown == 19


def test_rows_are_marked_by_the_method_and_its_role(document: HtmlElement, rows: pd.DataFrame):
    roles = {"full": "reference", "kvzip": "oracle", "proxykv": "subject", "snapkv": "rival"}
    roles |= {"random": "floor", "prior": "control", "proxykv_shuffled": "control"}
    styles = plots.looks(cards_of(rows), roles)
    lines = document.xpath("//div[@id='board-0-mean']//tbody/tr")
    for method, line in zip(best_first(rows), lines, strict=True):
        assert line.get("class") == roles[method]
        (swatch,) = line.xpath(".//span[contains(@class, 'swatch')]")
        assert swatch.get("style") == f"--c:{styles[method].color}"


def test_pooled_cells(document: HtmlElement, rows: pd.DataFrame):
    heads = heads_of(document, "pooled-0")
    assert heads[1:4] == ["Score, ρ ≤ 0.3", "Recovery %, ρ ≤ 0.3", "KL, ρ ≤ 0.3"]
    assert heads[4:] == ["Score, ρ < 1", "Recovery %, ρ < 1", "KL, ρ < 1"]
    lines = lines_of(document, "pooled-0")
    assert len(lines) == len(METHODS)
    for method, (_, *line) in zip(best_first(rows)[1:], lines, strict=True):
        for cells_, retentions in ((line[:3], (0.05, 0.3)), (line[3:], (0.05, 0.3, 0.5))):
            part, oracle = (at(rows, m, *retentions) for m in (method, "kvzip"))
            numbers = [float(cell.get("data-v")) for cell in cells_]
            assert numbers[0] == pytest.approx(mean(part))
            assert numbers[1] == pytest.approx(100 * mean(part) / mean(oracle))
            assert numbers[2] == pytest.approx(mean(part, "kl"))


def test_paired_cells(document: HtmlElement, rows: pd.DataFrame):
    made = tables.paired(rows, cards_of(rows))
    for metric in ("score", "kl"):
        expected = made[made.metric == metric].to_dict("records")
        heads = heads_of(document, f"paired-{metric}")
        assert heads == [
            "method", "minus", "retention", "difference", "ci low", "ci high", "p", "p holm",
            "mde", "n contexts",
        ]  # fmt: skip
        lines = lines_of(document, f"paired-{metric}")
        for record, line in zip(expected, lines, strict=True):
            assert [words(cell) for cell in line] == [
                LABELS[record["method"]],
                LABELS[record["reference"]],
                record["retention"].replace("<=", "≤ "),
                *(minus(f"{record[n]:+.3f}") for n in ("difference", "ci_low", "ci_high")),
                *(f"{record[n]:.3f}" if record[n] >= 0.001 else "< 0.001" for n in ("p", "p_holm")),
                f"{record['mde']:.3f}",
                str(record["n_contexts"]),
            ]


def test_differences_by_length(document: HtmlElement, rows: pd.DataFrame):
    assert heads_of(document, "by-length") == [
        "method", "minus", "tokens", "difference", "ci low", "ci high", "p", "p holm", "mde",
        "n contexts",
    ]  # fmt: skip
    made = tables.by_length(rows, cards_of(rows)).to_dict("records")
    for record, line in zip(made, lines_of(document, "by-length"), strict=True):
        assert [words(cell) for cell in line][:4] == [
            LABELS[record["method"]],
            LABELS[record["reference"]],
            str(record["tokens"]),
            minus(f"{record['difference']:+.3f}"),
        ]
        assert words(line[-1]) == str(record["n_contexts"]) == "6"


def test_cells_of_quality_and_cost(document: HtmlElement, rows: pd.DataFrame):
    lines = lines_of(document, "cost-0")
    made = tables.quality_cost(rows, cards_of(rows)).to_dict("records")
    for record, (name, prefills, _, seconds, *quality) in zip(made, lines, strict=True):
        assert words(name).startswith(LABELS[record["method"]])
        assert [words(prefills), words(seconds)] == [
            f"{record['prefills']:.2f}", f"{record['seconds']:.3f}"
        ]  # fmt: skip
        shown = [("recovery", "recovery"), ("kl", "kl"), ("mean", "ci")]
        assert [words(cell) for cell in quality] == [
            *(
                minus(f"{record[value]:.3f} [{record[f'{ends}_low']:.3f}, ")
                + minus(f"{record[f'{ends}_high']:.3f}]")
                for value, ends in shown
            ),
            str(record["n_contexts"]),
        ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.0004, "0.000"), (-1.5, "−1.500"), (float("nan"), "–")],
)
def test_numbers(value: float, text: str):
    assert cells.number(value) == text
    signed = text if text == "–" or text.startswith("−") else f"+{text}"
    assert cells.number(value, sign=True) == signed
    assert cells.number(2.25, 1) == "2.2"


@pytest.mark.parametrize(
    ("row", "text", "spread", "hover", "share"),
    [
        ({"mean": 0.5, "ci_low": 0.4, "ci_high": 0.7}, "0.500", "±0.150",
         "Score 0.500\n95 % CI 0.400 to 0.700\n9 contexts, 42.000 % of the pairs kept", 0.5),
        ({"mean": 1.5, "ci_low": None, "ci_high": None}, "1.500", "",
         "Score 1.500\ninterval undefined\n9 contexts, 42.000 % of the pairs kept", 1.0),
        ({"mean": -1.0, "ci_low": None, "ci_high": None}, "−1.000", "",
         "Score −1.000\ninterval undefined\n9 contexts, 42.000 % of the pairs kept", 0.0),
        ({"mean": None, "ci_low": None, "ci_high": None}, "–", "", "undefined", None),
    ],
)  # fmt: skip
def test_a_cell(row: dict[str, Any], text: str, spread: str, hover: str, share: float | None):
    line = {"method": "m", "scope": "head", "retention": 0.5, "n_contexts": 9}
    line |= {"achieved_retention": 0.42} | row
    look = plots.Look("M", "#000000", "o", "rival", "m")
    (table,) = cells.matrix(
        pd.DataFrame([line], dtype=object), [cells.SCORE], id="i", caption="c", styles={"m": look}
    )
    assert (table.id, table.caption, table.metric) == ("i-mean", "c", "Score")
    assert table.heads == ["Method", "ρ 0.5"]
    name, cell = table.rows[0]
    assert (name.text, name.spread, name.hover) == ("M", "head", "m, scope head")
    assert (cell.text, cell.spread, cell.hover, cell.share) == (text, spread, hover, share)


def test_a_plain_table_shows_numbers_texts_and_gaps():
    table = cells.plain(
        pd.DataFrame([{"method": "m", "mean_cost": 0.25, "where": "here", "mde": float("nan")}]),
        id="i",
        caption="c",
        styles={},
        show={"method": str.upper},
    )
    assert table.heads == ["method", "mean cost", "where", "mde"]
    assert [cell.text for cell in table.rows[0]] == ["M", "0.25", "here", "–"]


# --- what else is on the page ---------------------------------------------------------------------

MEASURED = {"latency", "latency_real", "memory_timeline", "pareto_total", "time_shares"}
RECORDED = {"kept_heads", "kept_overlap", "kept_positions", "needle_depth"}
NOT_OF_THIS_RUN = {"ablation", "transfer", *MEASURED, *RECORDED}
"""Plots of data that this run does not have: times, which pairs are kept, where needles are."""


def test_mappers_and_figures_are_this_runs(page: str, document: HtmlElement):
    assert "of another run" not in page
    assert [words(s) for s in document.xpath("//section[@id='mappers']//summary")] == [
        "tiny · proxykv"
    ]
    facts = document.xpath("//section[@id='mappers']//dl/div")
    assert ["parameters", "183412"] in [[words(x) for x in fact] for fact in facts]
    drawn = [figure.get("id") for figure in document.xpath("//figure")]
    assert drawn == [f"figure-{name}" for name in plots.names() if name not in NOT_OF_THIS_RUN]


def test_facts_of_the_run(document: HtmlElement):
    facts = {words(div[0]): words(div[1]) for div in document.xpath("//header//dl/div")}
    assert facts["Model pairs"] == "tiny-target scored by tiny-proxy"
    assert facts["Contexts"] == "12 (24 questions, 256–1024 tokens)"
    assert facts["Retentions"] == "0.05, 0.3, 0.5, 1"
    assert facts["Answers"] == f"{24 * 19}, made 2026-11-22"


def test_heads_of_rows_and_columns_are_marked_as_such(page: str):
    assert set(re.findall(r"<th\b[^>]*?\bscope=(\S+?)[\s>]", page)) == {'"row"', '"col"'}
    assert re.search(r"<th scope=.row.[^<]*</th>", page)


def test_page_holds_verdict_tables_figures_and_provenance(page: str):
    for text in (
        "ProxyKV recovers", "95 % CI", "Head prior (control)", ">Terms</", "Mappers",
        "0123456789abcdef", "torch 2.13.0, transformers 5.2.0", "context results exist",
    ):  # fmt: skip
        assert text in page
    drawn = set(plots.names()) - NOT_OF_THIS_RUN
    assert page.count("<svg ") == len(drawn)


def test_report_of_two_families_without_mapper_or_oracle(tmp_path: Path):
    rows = make_rows(
        families=("a", "b"), tasks=("single",), contexts=1, methods=("proxykv",), retentions=(0.1,)
    )
    paths = write_run(tmp_path / "run", rows.assign(kl=np.nan), mapper=False)
    longest = int(rows.context_tokens.max())
    positions = {"a": longest, "b": longest - 1}  # of another family nothing is known
    build_report(paths, tmp_path / "run", tmp_path / "page.html", positions=positions)
    text = (tmp_path / "page.html").read_text()
    assert "KVzip was not run" in text and "a · tiny" in text and "b · tiny" in text
    beyond = f"b: contexts of up to {longest:,} tokens, models of {longest - 1:,} positions."
    assert "<h3>By length</h3>" not in text
    assert text.count("Beyond the models' positions.") == text.count(beyond) == 1


def test_a_corrected_metric_is_shown_with_the_official_one(rows: pd.DataFrame, tmp_path: Path):
    assert tables.per_task(rows, cards_of(rows)).fixed.isna().all()
    corrected = rows.assign(score_fixed=np.where(rows.task == "vt", 1.0, np.nan))
    table = tables.per_task(corrected, cards_of(corrected)).set_index("task")
    assert (table.fixed["vt"] == 1).all()
    assert table.fixed["single"].isna().all()
    pages = []
    for name, some in (("plain", rows), ("corrected", corrected)):
        paths = write_run(tmp_path / name, some, mapper=False)
        build_report(paths, tmp_path / name, tmp_path / f"{name}.html")
        pages.append((tmp_path / f"{name}.html").read_text("utf-8"))
    assert [page.count("corrected metric") > 0 for page in pages] == [False, True]
