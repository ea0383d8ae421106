"""A page that shows other numbers than the tables is found, cell by cell and row by row."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measurements_fixture import make_measurements, write_measurements
from rows_fixture import make_rows, write_run

from proxykv.cli import main
from proxykv.config.cards import MethodCards
from proxykv.report import build_report
from proxykv.report.paper import write_paper
from proxykv.report.plots import draw_figures
from proxykv.report.tabulate import write_efficiency, write_tables
from proxykv.runs.audit import Audit
from proxykv.runs.audit.page import check_page

TABLES = ("pooled-0", "pooled-1", "board-0-mean", "board-0-recovery", "board-0-kl", "tasks-0-mean",
          "tasks-0-pct_of_full", "tasks-0-nll", "tasks-0-kl", "tasks-1-fixed", "cost-0",
          "paired-score", "paired-kl", "by-length", "coverage", "speedups", "cases",
          "claims")  # fmt: skip
NUMBER = re.compile(r'<td class="n" data-v="([^"]+)"[^>]*>([^<]*\d[^<\s]*)')

Edit = Callable[[str], str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two families with a page; a context, a score and KLs are missing."""
    draw = np.random.default_rng(3)
    methods = ("kvzip", "kvzip_head", "proxykv", "snapkv", "prior")
    rows = make_rows(
        families=("tiny", "qwen-3"), contexts=4, tasks=("single", "vt"), methods=methods,
        retentions=(0.05, 0.3, 0.5),
    )  # fmt: skip
    rows["score"] = (rows.score + draw.integers(0, 5, len(rows)) / 4) / 2
    rows["score_fixed"] = (rows.score / 3).where(rows.task == "vt")
    rows["operations"] = draw.integers(10**9, 10**10, len(rows)).astype(float)
    rows["prefill_seconds"] = 12345.678 * draw.random(len(rows))
    rows["kl"] = (-1000 * rows.kl).where(rows.method != "kvzip_head")
    rows.loc[3, "truncated"] = True
    # Of two lengths, a little apart in tokens.
    later = rows.context_id.str.endswith(("2", "3"))
    rows["context_tokens"] = 250 + 4 * rows.question + 750 * later
    rows.loc[rows.family == "qwen-3", "target"] = "Qwen/Qwen3-32B@123"  # for the paper's numbers
    gone = (rows.method == "prior") & (rows.context_id == "vt-001")
    run = tmp_path_factory.mktemp("page") / "demo"
    files = write_run(run, rows[~gone])
    measured = make_measurements()
    times = measured.cache_seconds * draw.uniform(1, 1.2, len(measured))
    write_measurements(run, measured.assign(cache_seconds=times))
    write_tables(files, MethodCards.read(run), run / "tables")
    write_efficiency(run, MethodCards.read(run))
    write_paper(files, run)
    build_report(files, run, run / "report" / "index.html")
    draw_figures(files, run, run / "figures", ["pareto"])
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "demo"))


def findings(run: Path) -> list[str]:
    audit = Audit()
    check_page(run, audit)
    return audit.findings


def edit(run: Path, table: str, change: Edit) -> None:
    """Change the HTML of one of the page's tables."""
    page = run / "report" / "index.html"
    before, start, rest = page.read_text("utf-8").partition(f'<div class="table" id="{table}"')
    inside, end, after = rest.partition("</table>")
    changed = change(inside)
    assert changed != inside
    page.write_text(f"{before}{start}{changed}{end}{after}", "utf-8")


def other(text: str) -> str:
    """A text with another last digit."""
    return re.sub(r"\d(?=\D*$)", lambda last: str((int(last[0]) + 5) % 10), text)


def last_number(group: int, change: Edit) -> Edit:
    """Changes a part of the last cell that holds a number."""

    def changed(html: str) -> str:
        found = list(NUMBER.finditer(html))[-1]
        start, end = found.span(group)
        return html[:start] + change(found[group]) + html[end:]

    return changed


def without_a_row(html: str) -> str:
    return re.sub(
        r"<tr(?: class=\"\w+\")?>\s*<th scope=\"row\".*?</tr>", "", html, count=1, flags=re.S
    )


def with_a_row_twice(html: str) -> str:
    return re.sub(r"(<tr(?: class=\"\w+\")?>\s*<th scope=\"row\".*?</tr>)", r"\1\1", html, count=1,
                  flags=re.S)  # fmt: skip


def test_an_untouched_page_agrees(run: Path) -> None:
    audit = Audit()
    check_page(run, audit)
    assert audit.findings == [] and audit.cells > 900


@pytest.mark.parametrize(
    ("group", "change", "said"),
    [(2, other, "text"), (1, lambda text: f"{1.001 * float(text) + 1}", "data-v")],
    ids=["text", "value"],
)
def test_a_wrong_number_of_each_table_is_named(
    run: Path, group: int, change: Edit, said: str
) -> None:
    for table in TABLES:
        edit(run, table, last_number(group, change))
    found = findings(run)
    for table in TABLES:
        start = f"{run / 'report' / 'index.html'}, {table}, "
        lines = [line for line in found if line.startswith(start)]
        assert any(f", {said}: published " in line for line in lines), (table, found)
        assert len(lines) <= 2  # a text agrees with its data-v, and data-v with the table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_row, "this row is missing"),
        (with_a_row_twice, "the tables do not give this row"),
        (
            lambda html: re.sub(r"(</td>)(\s*</tr>)", r"\1<td>7</td>\2", html, count=1),
            r"has \d+ cells",
        ),
        (lambda html: re.sub(r"(<th scope=\"col\"[^>]*>)", r"\1x", html, count=1), r"heads: .*'x"),
    ],
    ids=["missing", "twice", "cell", "head"],
)
def test_a_row_a_cell_or_a_head_too_many_or_too_few_is_named(
    run: Path, change: Edit, said: str
) -> None:
    for table in TABLES:
        edit(run, table, change)
    found = findings(run)
    assert len(found) == len(TABLES), found
    for table in TABLES:
        assert any(f", {table}, " in line and re.search(said, line) for line in found), table


@pytest.mark.parametrize(
    ("table", "pattern"),
    [
        ("board-0-mean", r"<small>±\d\.\d\d(\d)"),
        ("board-0-mean", r"95 % CI \d\.\d\d(\d) to"),
        ("tasks-0-mean", r"(\d) contexts, "),
        ("board-0-mean", r" contexts, (\d+)\.\d+ %"),
        ("cost-0", r"\[\d+\.(\d)"),
        ("cases", r"<small>\d\.\d\d(\d)–"),
        ("cases", r"95 % CI \d\.\d\d(\d) to"),
        ("speedups", r">\d\.(\d)\d× · "),
        ("speedups", r"best at (\d)"),
        ("speedups", r"reference on (\d) × H100"),
    ],
)
def test_a_wrong_number_beside_or_behind_a_number_is_named(
    run: Path, table: str, pattern: str
) -> None:
    def change(html: str) -> str:
        found = re.search(pattern, html)
        assert found
        return html[: found.start(1)] + other(found[1]) + html[found.end(1) :]

    edit(run, table, change)
    assert len(found := findings(run)) in (1, 2) and all(f", {table}, " in one for one in found)


@pytest.mark.parametrize("attribute", ["d", "x", "y"])
def test_a_figure_that_is_drawn_otherwise_than_its_file_is_named(run: Path, attribute: str) -> None:
    page = run / "report" / "index.html"
    html = page.read_text("utf-8")
    start = html.index('id="pareto-figure_1"')
    tag = "path" if attribute == "d" else "use"
    place = re.compile(rf'(<{tag}\b[^>]*? {attribute}=")([^"]*?)(\d)(\D*")')
    changed = place.sub(lambda m: f"{m[1]}{m[2]}{(int(m[3]) + 1) % 10}{m[4]}", html[start:], 1)
    page.write_text(html[:start] + changed, "utf-8")
    file = run / "figures" / "pareto.svg"
    finding = f"{page}: draws pareto otherwise than {file}; run `proxykv report`"
    assert findings(run) == [finding]
    page.write_text(html[:start] + html[start:].replace("</g>", "", 1), "utf-8")
    assert "holds a damaged figure" in findings(run)[0]


def test_another_method_s_name_is_named(run: Path) -> None:
    edit(run, "board-0-mean", lambda html: html.replace("</span>SnapKV", "</span>Random", 1))
    assert any("text: published 'Random', recomputed 'SnapKV'" in line for line in findings(run))


def test_a_table_that_is_missing_or_too_many_is_named(run: Path) -> None:
    page = run / "report" / "index.html"
    text = page.read_text("utf-8")
    page.write_text(text.replace('id="paired-kl"', 'id="paired-nll"'), "utf-8")
    assert findings(run) == [
        f"{page}, paired-kl: this table is missing",
        f"{page}, paired-nll: the tables do not give this one",
    ]


def test_a_page_older_than_other_tables_is_one_finding_and_so_is_no_page(run: Path) -> None:
    page, table = run / "report" / "index.html", run / "tables" / "leaderboard.csv"
    lines = pd.read_csv(table, dtype=str).assign(mean=0.5, kl=7)
    lines.to_csv(table, index=False)
    assert len(findings(run)) == 1
    os.utime(page, (table.stat().st_mtime + 1,) * 2)
    assert len(findings(run)) > 10
    page.unlink()
    assert [line.removeprefix(str(page)) for line in findings(run)] == [
        ": missing; run `proxykv report`"
    ]


def test_a_table_that_is_gone_or_lacks_a_column_is_one_finding(run: Path) -> None:
    path = run / "tables" / "summary.csv"
    pd.read_csv(path, dtype=str).drop(columns="kl_low").to_csv(path, index=False)
    os.utime(run / "report" / "index.html")
    assert len(found := findings(run)) == 1 and "no column 'kl_low'" in found[0]
    path.unlink()
    assert len(found := findings(run)) == 1 and "summary.csv; run `proxykv tabulate`" in found[0]


@pytest.mark.usefixtures("finished_here")
def test_the_audit_of_a_run_reads_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("results/demo")
    assert main(["report", "--config", str(run / "config.json")]) == 0
    assert main(["audit", str(run)]) == 0
    edit(run, "board-0-mean", last_number(2, other))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(["audit", str(run)])
    assert "index.html, board-0-mean, " in capsys.readouterr().out
