"""The numbers that a figure draws, read from the figure itself."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import singledispatch

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from proxykv.report.plots._emphasis import GID

COLUMNS = ["panel", "title", "series", "part", "point", "x", "y", "value"]
Point = tuple[float, float, float]
"""Coordinates and the value there; NaN is a coordinate that spans the panel, or no value."""


def points(figure: Figure) -> pd.DataFrame:
    """Every point of a figure.

    `series` is a method, or the name of what is drawn. `part` is `line`, `level` (a line across the
    panel), `marks`, `low` and `high` (the edges of a band), `interval` (lower and upper end),
    `bars` or `cells`. A bar's `value` is its length, a cell's `value` its number.

    Args:
        figure: the figure.
    """
    panels = [a for a in figure.axes if a.get_visible() and a.get_label() != "<colorbar>"]
    lines = []
    for number, axis in enumerate(panels, start=1):
        seen: Counter[tuple[str, str]] = Counter()
        for series, part, point in _drawn(axis):
            seen[series, part] += 1
            title = axis.get_title(loc="left")
            lines.append((number, title, series, part, seen[series, part], *point))
    return pd.DataFrame(lines, columns=COLUMNS)


def _drawn(axis: Axes) -> Iterator[tuple[str, str, Point]]:
    for artist in (*axis.lines, *axis.collections, *axis.patches, *axis.images):
        gid, label = artist.get_gid() or "", str(artist.get_label())
        series = "" if label.startswith("_") else label
        if gid.startswith(GID):
            series = gid.removeprefix(GID) + (f": {series}" if series else "")
        for part, point in _points(artist, axis):
            yield series, part, point


@singledispatch
def _points(artist: Artist, axis: Axes) -> Iterator[tuple[str, Point]]:
    """Parts of an artist with their points, in the order in which they are drawn."""
    return iter(())


@_points.register
def _(artist: Line2D, axis: Axes) -> Iterator[tuple[str, Point]]:
    in_x, in_y = artist.get_transform().contains_branch_seperately(axis.transData)
    if in_x and in_y:
        for x, y in np.asarray(artist.get_xydata()):
            yield "line", _point(x, y)
    else:
        x, y = np.asarray(artist.get_xydata())[0]
        yield "level", _point(x, y, in_x=in_x, in_y=in_y)


@_points.register
def _(artist: PathCollection, axis: Axes) -> Iterator[tuple[str, Point]]:
    for x, y in np.asarray(artist.get_offsets()):
        yield "marks", _point(x, y)


@_points.register
def _(artist: LineCollection, axis: Axes) -> Iterator[tuple[str, Point]]:
    for x, y in (end for segment in artist.get_segments() for end in np.asarray(segment)):
        if not np.isnan(y):
            yield "interval", _point(x, y)


@_points.register
def _(artist: PolyCollection, axis: Axes) -> Iterator[tuple[str, Point]]:
    edges: dict[float, list[float]] = {}
    for x, y in (corner for path in artist.get_paths() for corner in np.asarray(path.vertices)):
        edges.setdefault(float(x), []).append(float(y))
    for x in sorted(edges):
        yield "low", _point(x, min(edges[x]))
        yield "high", _point(x, max(edges[x]))


@_points.register
def _(artist: Rectangle, axis: Axes) -> Iterator[tuple[str, Point]]:
    in_x, in_y = artist.get_transform().contains_branch_seperately(axis.transData)
    x, y = artist.get_xy()
    if in_y:
        yield "bars", _point(x + artist.get_width() / 2, y, artist.get_height(), in_x=in_x)
    else:
        yield "bars", _point(x, y, artist.get_width(), in_y=False)


@_points.register(AxesImage)
@_points.register(QuadMesh)
def _(artist: AxesImage | QuadMesh, axis: Axes) -> Iterator[tuple[str, Point]]:
    values = np.ma.filled(np.ma.asarray(artist.get_array(), dtype=float), math.nan)
    for (line, column), value in np.ndenumerate(values):
        yield "cells", _point(column, line, value)


def _point(
    x: float, y: float, value: float = math.nan, *, in_x: bool = True, in_y: bool = True
) -> Point:
    return float(x) if in_x else math.nan, float(y) if in_y else math.nan, float(value)
