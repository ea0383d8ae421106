"""What a cell of the page must show."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxykv.runs.audit.cells import RELATIVE, Known, number
from proxykv.runs.audit.page.reader import PageCell

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
MINUS = "−"


@dataclass(frozen=True)
class Shown:
    """A cell's number or text, and what is written with it.

    Attributes:
        value: the number, NaN for none; or a text, which is shown.
        text: from the number in the page to what is shown.
        exact: what is shown instead of `text`; its decimal numbers are exact, and rounded in the
            page.
        small: small print; its decimal numbers are exact, and rounded in the page.
        hover: shown when the pointer is over the cell; exact, too.
        digits: digits after the point of rounded numbers.
        size: the largest number that `small` and `hover` follow from.
    """

    value: float | str
    text: Callable[[float], str] = str
    exact: str = ""
    small: str = ""
    hover: str = ""
    digits: int = 3
    size: float = 0.0

    @property
    def key(self) -> str:
        """What tells the cell from others where it names its row."""
        text = self.value if isinstance(self.value, str) else self.text(self.value)
        return self.hover or text

    def differences(self, cell: PageCell) -> Iterator[tuple[str, str, str]]:
        """What differs in the page's cell: its name, what is shown, what should be.

        Args:
            cell: of the page.
        """
        if isinstance(self.value, str):
            if not self._rounded(cell.text, self.value):
                yield "text", cell.text, self.value
            if cell.value != cell.text:
                yield "data-v", cell.value, cell.text
        else:
            if not Known(self.value).agrees(cell.value):
                yield "data-v", cell.value, f"{self.value:.6g}"
            value = number(cell.value)
            if self.exact:
                if not self._rounded(cell.text, self.exact):
                    yield "text", cell.text, self.exact
            elif value is not None and cell.text != (text := self.text(value)):
                yield "text", cell.text, text
        for name, found, exact in (
            ("small print", cell.small, self.small),
            ("title", cell.hover, self.hover),
        ):
            if not self._rounded(found, exact):
                yield name, found, exact

    def _rounded(self, found: str, exact: str) -> bool:
        """Whether a text is another one with its decimal numbers rounded."""
        found = found.replace(MINUS, "-")
        if found == exact:
            return True
        if NUMBER.split(found) != NUMBER.split(exact):
            return False
        near = 0.5 * 10**-self.digits + RELATIVE * self.size + 1e-9
        return all(
            a == b
            if "." not in b
            else len(a.partition(".")[2]) == self.digits and abs(float(a) - float(b)) <= near
            for a, b in zip(NUMBER.findall(found), NUMBER.findall(exact), strict=True)
        )


class Expected(NamedTuple):
    """A table of the page: the texts of its head, its rows, and how many cells name a row."""

    heads: list[str]
    rows: list[list[Shown]]
    names: int


@dataclass(frozen=True)
class ShownMetric:
    """How a metric is named and shown.

    Attributes:
        column: of its value in the CSV table.
        ends: start of the names of its interval's columns; empty for none.
        title: full name.
        short: name in the heads of columns.
        digits: digits after the point.
        scale: factor of what is shown.
    """

    column: str
    ends: str
    title: str
    short: str
    digits: int = 3
    scale: float = 1.0

    def cell(self, line: Mapping[str, str] | None) -> Shown:
        """The metric's cell.

        Args:
            line: of the CSV table; None where nothing was run.
        """
        if line is None:
            return Shown(math.nan, lambda _: "")
        value = self.scale * known(line, self.column)
        if math.isnan(value):
            return Shown(value, fixed(self.digits), hover="undefined")
        parts, small, size = [f"{self.title} {value:.12f}"], "", abs(value)
        if self.ends:
            low, high = (self.scale * known(line, f"{self.ends}_{e}") for e in ("low", "high"))
            if math.isnan(low):
                parts.append("interval undefined")
            else:
                size = max(size, abs(low), abs(high))
                small = f"±{(high - low) / 2:.12f}"
                parts.append(f"95 % CI {low:.12f} to {high:.12f}")
        kept = 100 * known(line, "achieved_retention")
        about = f"{line['n_contexts']} contexts, {kept:.12f} % of the pairs kept"
        hover = "\n".join([*parts, about])
        return Shown(
            value, fixed(self.digits), small=small, hover=hover, digits=self.digits, size=size
        )


def known(line: Mapping[str, str], column: str) -> float:
    """A number of a CSV table; NaN where there is none.

    Args:
        line: of the table.
        column: its name.
    """
    value = number(line[column])
    return math.nan if value is None else value


def fixed(digits: int, sign: str = "") -> Callable[[float], str]:
    """Shows a number with so many digits after the point, with a true minus.

    Args:
        digits: after the point.
        sign: "+" if positive numbers have one.
    """

    def text(value: float) -> str:
        rounded = round(value, digits) + 0.0  # no -0.0
        return "–" if math.isnan(value) else f"{rounded:{sign}.{digits}f}".replace("-", MINUS)

    return text


def p_value(value: float) -> str:
    """Shows a p value."""
    return "< 0.001" if value < 0.001 else fixed(3)(value)


count: Callable[[float], str] = "{:.0f}".format
