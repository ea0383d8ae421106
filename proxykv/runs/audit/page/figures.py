"""The points of a run's figures, compared with its tables, rows and measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from proxykv.config.cards import MethodCards
from proxykv.runs.audit.cells import RELATIVE, Cell, Known, mean
from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.means import Group, Row, column
from proxykv.runs.audit.page import grids, measured
from proxykv.runs.audit.page.points import KEYS
from proxykv.runs.audit.page.shown import known
from proxykv.runs.audit.table_file import Line, Published, compare, read_table
from proxykv.runtime.errors import ConfigError

PLAIN = ("subject", "oracle", "reference")
"""Roles of the methods that have a band in every figure."""
FRONT = "Pareto front"
STATED = ": stated in the paper"
SAME = 1e-12
COSTS = {"kept KV": ("kv_bytes", 2**20), "prefill + scoring": ("seconds", 1)}
OPTIONAL = ("ablations", "fidelity")
"""Tables that a run need not have; that another one is missing is a finding already."""
QUALITIES = ("recovery", "kl")
AGAINST = ("seconds", "prefills")

Pair = tuple[float, float]
Curve = tuple[Pair, ...]
Panel = tuple[int, str, Iterable[Curve]]


def check_figures(
    found: list[Group],
    requests: Sequence[Row],
    cards: MethodCards,
    folder: Path,
    audit: Audit,
) -> None:
    """Compare what the figures draw with the tables, the rows and the measurements.

    Figures of training, of kept sets and of needles follow from other records: they are listed as
    not audited.

    Args:
        found: rows of each family and benchmark.
        requests: the run's measurements.
        cards: of the run's methods.
        folder: the run's folder, with `tables/` and `figures/`.
        audit: receives counts and findings.
    """
    makers: dict[str, Callable[[], Iterator[Line]]] = {
        "accuracy_retention": lambda: _curves(_by_cell(_table(folder, "leaderboard")), cards),
        "accuracy_per_task": lambda: _curves(
            _by_task(_table(folder, "per_task")), cards, faint=False
        ),
        "kl_retention": lambda: _curves(_distances(_table(folder, "leaderboard")), cards, "kl"),
        "quality_cost": lambda: _intervals(_by_cell(_table(folder, "quality_cost"))),
        "pareto": lambda: _marks(found),
        "pareto_total": lambda: measured.pareto_total(requests, found, cards),
        "latency": lambda: measured.latency(requests, cards),
        "latency_real": lambda: measured.latency_real(requests, cards),
        "time_shares": lambda: measured.time_shares(requests, cards),
        "memory_timeline": lambda: measured.memory_timeline(requests, cards),
        "ablation": lambda: grids.ablation(_table(folder, "ablations")),
        "transfer": lambda: grids.transfer(_table(folder, "fidelity")),
    }
    totals = (
        (panel, title, curves.values())
        for panel, (title, curves) in enumerate(measured.totals(requests, found), start=1)
    )
    fronts = {"pareto": _fronts(found), "pareto_total": totals}
    for image in sorted((folder / "figures").glob("*.svg")):
        path = image.with_suffix(".csv")
        if image.stem not in makers:
            audit.skipped.append(f"figures/{path.name}")
            continue
        if not path.is_file():
            audit.say(path, "missing; run `proxykv plot`")
            continue
        try:
            published = [
                line
                for line in read_table(path)
                # The paper's own numbers are audited in its table.
                if not (line.get("series") or "").endswith(STATED)
            ]
            drawn = [line for line in published if line.get("series") != FRONT]
            compare(path, KEYS, drawn, makers[image.stem](), audit)
            if image.stem in fronts:
                _check_fronts(path, published, fronts[image.stem], audit)
        except FileNotFoundError as error:
            if (table := Path(error.filename)).stem in OPTIONAL:
                audit.say(path, f"cannot be compared without {table}; run `proxykv plot`")
        except ConfigError:  # a finding about the table
            continue


def _table(folder: Path, name: str) -> Published:
    return read_table(folder / "tables" / f"{name}.csv")


def _by_cell(lines: Published) -> dict[str, Published]:
    panels: dict[str, Published] = {}
    for line in sorted(lines, key=lambda line: (line["family"], line["benchmark"])):
        panels.setdefault(f"{line['family']} · {line['benchmark']}", []).append(line)
    return panels


def _by_task(lines: Published) -> dict[str, Published]:
    several = len({(line["family"], line["benchmark"]) for line in lines}) > 1
    panels: dict[tuple[str, ...], Published] = {}
    for line in lines:
        panels.setdefault((line["family"], line["benchmark"], line["task"]), []).append(line)
    return {" · ".join(key if several else key[2:]): panels[key] for key in sorted(panels)}


def _distances(lines: Published) -> dict[str, Published]:
    """Lines that a logarithmic scale can show."""
    return _by_cell([ln for ln in lines if float(ln["retention"]) < 1 and known(ln, "kl") > 0])


def _curves(
    panels: Mapping[str, Published], cards: MethodCards, metric: str = "mean", *, faint: bool = True
) -> Iterator[Line]:
    """A curve with its band for each method; the full cache is a level with a mark.

    The curves end in the full cache's point. Retentions are evenly spaced.
    """
    ends = "ci" if metric == "mean" else metric
    for panel, (title, lines) in enumerate(panels.items(), start=1):
        retentions = sorted({float(line["retention"]) for line in lines})
        unpruned = [line for line in lines if float(line["retention"]) == 1]
        for method in dict.fromkeys(line["method"] for line in lines):
            start = str(panel), title, method
            curve = sorted(
                (line for line in lines if line["method"] == method),
                key=lambda line: float(line["retention"]),
            )
            if float(curve[-1]["retention"]) == 1:
                yield from _part(start, "level", [(math.nan, known(curve[0], metric))])
            else:
                curve += unpruned
                if faint or cards.card(method).role in PLAIN:
                    yield from _band(start, curve, retentions, ends)
            places = [_place(line, retentions) for line in curve]
            values = [known(line, metric) for line in curve]
            yield from _part(start, "line", zip(places, values, strict=True))


def _place(line: Mapping[str, str], retentions: list[float]) -> float:
    """Place along the axis; a method that chooses how much it keeps stands at what it kept."""
    kept = known(line, "achieved_retention" if line["scope"] == "custom" else "retention")
    if kept <= retentions[0]:
        return 0.0
    for i in range(1, len(retentions)):
        low, high = retentions[i - 1 : i + 1]
        if kept <= high:
            return i - 1 + (kept - low) / (high - low)
    return float(len(retentions) - 1)


def _band(
    start: tuple[str, ...], curve: Published, retentions: list[float], ends: str
) -> Iterator[Line]:
    edges: dict[float, list[float]] = {}
    for line in curve:
        both = known(line, f"{ends}_low"), known(line, f"{ends}_high")
        if not math.isnan(sum(both)):
            edges.setdefault(_place(line, retentions), []).extend(both)
    places = sorted(edges)
    yield from _part(start, "low", ((x, min(edges[x])) for x in places))
    yield from _part(start, "high", ((x, max(edges[x])) for x in places))


def _intervals(panels: Mapping[str, Published]) -> Iterator[Line]:
    """Recovery and KL, with their intervals, against two costs."""
    panel = 0
    for title, lines in panels.items():
        for quality, cost in product(QUALITIES, AGAINST):
            panel += 1
            for line in lines:
                start = str(panel), f"{title}: {quality}, {cost}", line["method"]
                x, y = known(line, cost), known(line, quality)
                low, high = known(line, f"{quality}_low"), known(line, f"{quality}_high")
                if not math.isnan(x + y):
                    yield from _part(start, "line", [(x, y)])
                    if not math.isnan(low + high):
                        ends = [(x, min(low, y)), (x, max(high, y))]
                        yield from _part(start, "interval", ends)


def _marks(found: list[Group]) -> Iterator[Line]:
    """A mark for each method and retention, on a thin line."""
    for panel, title, points in _panels(found):
        for method, curve in points.items():
            for part in ("line", "marks"):
                yield from _part((str(panel), title, method), part, curve)


def _panels(found: list[Group]) -> Iterator[tuple[int, str, Mapping[str, Curve]]]:
    """Number, title and (cost, score) of each method of the Pareto figure's panels."""
    panel = 0
    for group in found:
        for what, (name, unit) in COSTS.items():
            panel += 1
            curves: dict[str, Curve] = {}
            for (method, _, _), means in sorted(group.points.items(), key=lambda item: item[0][2]):
                point = mean(column(means, name)) / unit, mean(column(means, "score"))
                curves[method] = (*curves.get(method, ()), point)
            yield panel, f"{' · '.join(group.cell)}: {what}", curves


def _fronts(found: list[Group]) -> Iterator[Panel]:
    for panel, title, curves in _panels(found):
        yield panel, title, curves.values()


def _check_fronts(path: Path, published: Published, panels: Iterable[Panel], audit: Audit) -> None:
    """Every point that no other one beats is on the front, in the order of its cost."""
    for panel, title, curves in panels:
        every = [point for curve in curves for point in curve]
        front = [point for point in every if not any(_beats(other, point) for other in every)]
        drawn = [
            (known(line, "x"), known(line, "y"))
            for line in published
            if (line["panel"], line["title"], line["series"]) == (str(panel), title, FRONT)
        ]
        audit.cells += len(drawn)
        where = f"{path}, {panel} {title} {FRONT}"
        if drawn != sorted(drawn):
            audit.say(where, "is not in the order of its points' costs")
        for point in drawn:
            if not any(_close(point, other, RELATIVE) for other in front):
                audit.say(where, f"({point[0]:g}, {point[1]:g}) is not on the front")
        for point in front:
            if not any(_close(point, other, RELATIVE) for other in drawn):
                audit.say(where, f"({point[0]:.6g}, {point[1]:.6g}) is missing")


def _beats(one: Pair, other: Pair) -> bool:
    """Whether a point costs no more and scores no less than another one, and is not the same."""
    cheap = one[0] <= other[0] or math.isclose(one[0], other[0], rel_tol=SAME)
    good = one[1] >= other[1] or math.isclose(one[1], other[1], rel_tol=SAME)
    return cheap and good and not _close(one, other, SAME)


def _close(one: Pair, other: Pair, tolerance: float) -> bool:
    return all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(one, other, strict=True))


def _part(start: tuple[str, ...], part: str, points: Iterable[Pair]) -> Iterator[Line]:
    for number, (x, y) in enumerate(points, start=1):
        cells: dict[str, Cell] = {"x": Known(x), "y": Known(y), "value": Known(math.nan)}
        yield (*start, part, str(number)), cells
