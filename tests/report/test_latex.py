"""Tables for papers: what is marked, how texts are escaped."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from rows_fixture import cards_of, make_rows

from proxykv.config.cards import Card, MethodCards
from proxykv.report import tables
from proxykv.report.latex import PAGE, latex

CARDS = MethodCards(
    {
        "full": Card("Full cache", "reference"),
        "kvzip": Card("KVzip", "oracle"),
        "proxykv": Card("ProxyKV", "subject"),
        "random": Card("Random", "floor"),
    }
)


def board(*lines: tuple[str, float, float, float, float]) -> pd.DataFrame:
    """Lines (method, retention, mean, low, high) as a leaderboard."""
    table = pd.DataFrame(lines, columns=["method", "retention", "mean", "ci_low", "ci_high"])
    return table.assign(family="a", benchmark="b", scope="global")


def body(text: str) -> list[list[str]]:
    """Cells of the lines between the rules."""
    inside = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [line.removesuffix(" \\\\").split(" & ") for line in inside.splitlines()]


def test_the_best_is_bold_a_tie_is_underlined_and_the_full_cache_is_neither():
    table = board(
        ("full", 1.0, 0.9, 0.8, 1.0),
        ("kvzip", 0.1, 0.5, 0.4, 0.6),
        ("kvzip", 0.3, 0.6, 0.5, 0.7),
        ("proxykv", 0.1, 0.6, 0.5, 0.7),
        ("proxykv", 0.3, 0.6, 0.5, 0.7),
        ("random", 0.1, 0.1, 0.0, 0.2),
    )
    text = latex("leaderboard", table, CARDS)
    assert text.startswith("\\begin{tabular}{lrrr}\n\\toprule\nMethod & $\\rho$ = 0.1 &")
    assert body(text) == [
        ["Full cache (global)", "", "", "0.900"],
        ["ProxyKV (global)", "\\textbf{0.600}", "\\textbf{0.600}", ""],
        ["KVzip (global)", "\\underline{0.500}", "\\textbf{0.600}", ""],
        ["Random (global)", "0.100", "", ""],
    ]


def test_of_kl_the_smallest_is_best_and_each_group_has_its_own():
    rows = make_rows(families=("a", "b"), methods=("kvzip", "proxykv", "random"), contexts=3)
    cards = cards_of(rows)
    table = tables.summary(rows, cards)
    lines = body(latex("summary", table, cards))
    assert [line[0] for line in lines] == ["a"] * 3 + ["b"] * 3
    low = table[table["pool"] == "<=0.3"]
    for family in "ab":
        best = low[low.family == family].set_index("method").kl
        marked = [line[1] for line in lines if line[0] == family and "textbf" in line[4]]
        assert marked == [f"{cards.card(str(best.idxmin())).label} (global)"]


def test_texts_are_escaped():
    hostile = replace(CARDS.cards["kvzip"], label="K_v & 50% \\input{x} $y$ < z\n\nnext")
    cards = MethodCards({**CARDS.cards, "kvzip": hostile})
    escaped = "K\\_v \\& 50\\% \\textbackslash input\\{x\\} \\$y\\$ $<$ z next"
    grid = latex("leaderboard", board(("kvzip", 0.1, 0.5, 0.4, 0.6)), cards)
    plain = latex("another", pd.DataFrame([{"method": "kvzip", "x_y": 0.25}]), cards)
    for text, heads in ((grid, "Method & $\\rho$ = 0.1"), (plain, "method & x y")):
        assert escaped in text and f"\n{heads} \\\\\n" in text


@pytest.mark.parametrize(("lines", "environment"), [(PAGE, "tabular"), (PAGE + 1, "longtable")])
def test_a_long_table_breaks_over_pages(lines: int, environment: str):
    text = latex("another", pd.DataFrame({"x": range(lines)}), CARDS)
    assert text.startswith(f"\\begin{{{environment}}}{{r}}")


def test_an_empty_table_has_its_heads():
    assert "x" in latex("another", pd.DataFrame({"x": []}), CARDS)
