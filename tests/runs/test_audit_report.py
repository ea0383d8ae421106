"""A report begins with what its audit found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from finished_run import edit, tabulate

from proxykv.cli import main
from proxykv.config.run import Run

RUN = Path("results/demo")
ROWS = RUN / "rows" / "tiny" / "tiny" / "multikey.parquet"
PAGE = RUN / "report" / "index.html"

pytestmark = pytest.mark.usefixtures("finished_here")


def report() -> str:
    """Text of the page that the report step writes."""
    assert main(["report", "--config", str(RUN / "config.json")]) == 0
    page = re.sub(r"<(style|script).*?</\1>", "", PAGE.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def cell(table: str, column: str) -> Callable[[], None]:
    """Spoil a cell of the last line of a table."""

    def spoil() -> None:
        path = RUN / "tables" / f"{table}.csv"
        lines = pd.read_csv(path, dtype=str)
        lines.loc[lines.index[-1], column] = "0.123"
        lines.to_csv(path, index=False)

    return spoil


def value(path: Path, column: str, what: object) -> Callable[[], None]:
    """Spoil a value of the third row."""

    def put(rows: pd.DataFrame) -> None:
        rows.loc[2, column] = what

    return lambda: edit(path, put)


def test_a_clean_report_says_how_much_agrees_in_its_provenance() -> None:
    text = report()
    _, _, provenance = text.partition("Provenance audited: ")
    assert re.match(r"\d{3,} cells, \d{3,} scores and \d{3,} rows, no findings", provenance)
    assert "the audit has" not in text and "PARTIAL" not in text
    assert main(["audit", str(RUN)]) == 0


@pytest.mark.parametrize(
    "spoiled",
    [
        {
            ", score: published 0.123, recomputed": value(ROWS, "score", 0.123),
            ", prediction: published &lt;b&gt;": value(ROWS, "prediction", "<b>"),
            "missing, though the config plans": lambda: edit(ROWS, lambda rows: rows.drop(index=5)),
        },
        {
            ", mean: published 0.123, recomputed": cell("leaderboard", "mean"),
            ", ci_low: published 0.123, recomputed": cell("summary", "ci_low"),
            ", p_holm: published 0.123, recomputed": cell("paired", "p_holm"),
            "per_task.csv: missing": (RUN / "tables" / "per_task.csv").unlink,
        },
    ],
    ids=["rows", "tables"],
)
def test_a_report_begins_with_the_findings(spoiled: dict[str, Callable[[], None]]) -> None:
    for spoil in spoiled.values():
        spoil()
    first, _, _ = report().partition("ProxyKV benchmark report")
    assert first.startswith("Audit failed: ProxyKV report: demo")
    assert re.search(r"Do not cite this report: the audit has \d+ finding", first)
    assert [line for line in spoiled if line not in first] == []


def test_many_findings_are_counted_and_rows_that_are_there_twice_give_no_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(ROWS, lambda rows: rows.assign(score=0.123))
    first, _, _ = report().partition("ProxyKV benchmark report")
    assert first.count("published 0.123") == 10 and re.search(r"… and \d+ more", first)
    edit(ROWS, lambda rows: pd.concat([rows, rows.iloc[[2]]]))
    assert main(["report", "--config", str(RUN / "config.json")]) == 2
    assert "more than once" in capsys.readouterr().err
    assert not PAGE.exists()  # the earlier one


def test_a_report_of_an_unfinished_run_says_what_is_missing() -> None:
    ROWS.unlink()
    tabulate(Run.read(RUN / "config.json"))
    first, _, _ = report().partition("ProxyKV benchmark report")
    assert first.startswith("PARTIAL: Audit failed: ProxyKV report: demo")
    assert "PARTIAL. This run is not finished. Its tables and figures hold 2 of 3 jobs" in first
    assert "1 to do tiny · tiny · multikey: missing, 0 of 5 contexts" in first
