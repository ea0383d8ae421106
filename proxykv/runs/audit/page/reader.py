"""The tables of a report's page as they are stored: text by text, nothing interpreted."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class PageCell:
    """One cell.

    Attributes:
        value: what is sorted and copied (`data-v`).
        hover: shown when the pointer is over the cell (`title`).
        text: what is shown.
        small: what is shown in small print.
    """

    value: str = ""
    hover: str = ""
    text: str = ""
    small: str = ""


@dataclass
class PageTable:
    """One table: the texts of its head, and its rows."""

    heads: list[str] = field(default_factory=list)
    rows: list[list[PageCell]] = field(default_factory=list)


def read_page(path: Path) -> dict[str, PageTable]:
    """The tables of a page by the ids of their containers.

    Args:
        path: the HTML file.
    """
    reader = _Reader()
    reader.feed(path.read_text("utf-8", errors="replace"))
    reader.close()
    return reader.tables


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, PageTable] = {}
        self.table, self.cell = PageTable(), PageCell()
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "div" and has.get("class") == "table":
            self.table = self.tables[has.get("id", "")] = PageTable()
        elif tag in ("thead", "tbody", "small"):
            self.inside.append(tag)
        elif tag == "tr" and "tbody" in self.inside:
            self.table.rows.append([])
        elif tag in ("td", "th"):
            self.inside.append(tag)
            self.cell = PageCell(has.get("data-v", ""), has.get("title", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.inside:
            return
        if tag in ("td", "th"):
            self.cell.text = self.cell.text.strip()
            if "thead" in self.inside:
                self.table.heads.append(self.cell.text)
            elif self.table.rows:
                self.table.rows[-1].append(self.cell)
        while self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "small" in self.inside:
            self.cell.small += data
        elif {"td", "th"} & {*self.inside}:
            self.cell.text += data
