"""The comparison of a report's page with the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from proxykv.config.cards import MethodCards
from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.page import efficiency
from proxykv.runs.audit.page.drawings import check_drawings
from proxykv.runs.audit.page.expected import TABLES, expected
from proxykv.runs.audit.page.reader import PageTable, read_page
from proxykv.runs.audit.page.shown import Expected
from proxykv.runs.audit.table_file import read_table
from proxykv.runtime.errors import ConfigError

Key = tuple[str, ...]
Row = TypeVar("Row")


def check_page(folder: Path, audit: Audit) -> None:
    """Compare what the page shows with the CSV tables, and its figures with their files.

    Tables that are newer than the page make it an old one, which one finding says.

    Args:
        folder: the run's folder, with `methods.json`, `tables/` and `report/`.
        audit: receives counts and findings.
    """
    page = folder / "report" / "index.html"
    every = (*TABLES, *efficiency.TABLES)
    paths = {name: folder / "tables" / f"{name}.csv" for name in every}
    paths = {name: p for name, p in paths.items() if name in TABLES or p.is_file()}
    if not page.is_file():
        audit.say(page, "missing; run `proxykv report`")
        return
    check_drawings(page, folder / "figures", audit)
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        audit.say(page, f"cannot be compared without {', '.join(missing)}; run `proxykv tabulate`")
        return
    try:
        tables = {name: read_table(path) for name, path in paths.items()}
    except ConfigError:  # a finding about the table
        return
    found, shown = Audit(), read_page(page)
    try:
        for name, table in expected(tables, MethodCards.read(folder)):
            if name in shown:
                _compare(f"{page}, {name}", shown.pop(name), table, found)
            else:
                found.say(f"{page}, {name}", "this table is missing")
    except KeyError as error:
        found.say(page, f"cannot be compared: a table has no column {error}")
        shown.clear()
    for name in shown:
        found.say(f"{page}, {name}", "the tables do not give this one")
    audit.cells += found.cells
    if found.findings and page.stat().st_mtime < max(p.stat().st_mtime for p in paths.values()):
        audit.say(page, "differs from the tables, which are newer; run `proxykv report`")
    else:
        audit.findings += found.findings


def _compare(where: str, shown: PageTable, table: Expected, audit: Audit) -> None:
    if shown.heads != table.heads:
        audit.differs(f"{where}, heads", shown.heads, table.heads)
        return
    names = slice(table.names)
    rows = dict(
        _numbered((tuple(c.hover or c.text for c in row[names]), row) for row in shown.rows)
    )
    for key, wanted in _numbered((tuple(c.key for c in row[names]), row) for row in table.rows):
        row, name = rows.pop(key, None), f"{where}, {' '.join(key[0])}"
        if row is None or len(row) != len(wanted):
            audit.say(name, "this row is missing" if row is None else f"has {len(row)} cells")
            continue
        for head, cell, expected_cell in zip(table.heads, row, wanted, strict=True):
            audit.cells += 1
            for what, published, recomputed in expected_cell.differences(cell):
                audit.differs(f"{name}, {head}, {what}", repr(published), repr(recomputed))
    for key in rows:
        audit.say(f"{where}, {' '.join(key[0])}", "the tables do not give this row")


def _numbered(rows: Iterable[tuple[Key, Row]]) -> Iterator[tuple[tuple[Key, int], Row]]:
    """Rows whose keys are all different: rows of one key are counted."""
    seen: Counter[Key] = Counter()
    for key, row in rows:
        seen[key] += 1
        yield (key, seen[key]), row
