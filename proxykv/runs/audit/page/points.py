"""The lines of a figure's file, from what its panels draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from proxykv.runs.audit.cells import Cell, Known
from proxykv.runs.audit.table_file import Line

KEYS = ("panel", "title", "series", "part", "point")
Drawn = tuple[str, str, float, float, float]
"""Series, part, coordinates and value; NaN is a coordinate that spans the panel, or no value."""


def drawn(series: str, part: str, x: float, y: float, value: float = math.nan) -> Drawn:
    """One point.

    Args:
        series: a method, or the name of what is drawn.
        part: such as `line` or `bars`.
        x: coordinate.
        y: coordinate.
        value: length of a bar, or number of a cell.
    """
    return series, part, x, y, value


def panel_lines(panel: int, title: str, points: Iterable[Drawn]) -> Iterator[Line]:
    """The lines of one panel. Points of a series and part are numbered in their order.

    Args:
        panel: its number.
        title: of the panel.
        points: what it draws.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for series, part, x, y, value in points:
        seen[series, part] += 1
        cells: dict[str, Cell] = {"x": Known(x), "y": Known(y), "value": Known(value)}
        yield (str(panel), title, series, part, str(seen[series, part])), cells
