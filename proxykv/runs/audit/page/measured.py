"""The points of the figures of time and memory, from the run's measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, median

from proxykv.config.cards import MethodCards
from proxykv.runs.audit.cells import mean
from proxykv.runs.audit.efficiency import counts
from proxykv.runs.audit.means import Group, Row, column
from proxykv.runs.audit.page.points import Drawn, drawn, panel_lines
from proxykv.runs.audit.table_file import Line

COMPARED_AT = 0.3
GIB = 2**30
PHASES = (
    "target_prefill",
    "scoring",
    "proxy_prefill",
    "proxy_scoring",
    "mapper",
    "select",
    "prune",
)
DEVICES = {1: "", 2: ", two devices"}

Variant = tuple[str, str]
"""Method and schedule."""
Curve = tuple[tuple[float, float], ...]


def latency(rows: Sequence[Row], cards: MethodCards) -> Iterator[Line]:
    """Seconds to the pruned cache, and peaks of memory, against length.

    Args:
        rows: measurements.
        cards: of the run's methods.
    """
    panel, scans = 0, list(_length_scans(rows))
    variants = _variants(row for _, part in scans for row in part)
    for title, part in scans:
        most = max(row["devices"] for row in part)
        title += DEVICES.get(most, f", {most} devices")
        yield from panel_lines(panel + 1, f"{title}: latency", _seconds(part, variants, cards))
        yield from panel_lines(panel + 2, f"{title}: peak memory", _peaks(part, variants, cards))
        panel += 2


def latency_real(rows: Sequence[Row], cards: MethodCards) -> Iterator[Line]:
    """Seconds to the pruned cache on one device, on contexts of a benchmark.

    Args:
        rows: measurements.
        cards: of the run's methods.
    """
    alone = [row for row in rows if row["devices"] == 1 and row["schedule"] == "sequential"]
    scans = list(_length_scans([row for row in alone if row["inputs"] != "random"]))
    variants = _variants(row for _, part in scans for row in part)
    for panel, (title, part) in enumerate(scans, start=1):
        source = part[0]["inputs"].split(":")[0]
        yield from panel_lines(panel, f"{title}: {source}", _seconds(part, variants, cards))


def time_shares(rows: Sequence[Row], cards: MethodCards) -> Iterator[Line]:
    """Shares of the phases in the sum of their medians, stacked, for each length.

    Args:
        rows: measurements.
        cards: of the run's methods.
    """
    subject, panel = cards.only("subject"), 0
    timed = [row for row in rows if row["method"] == subject and counts(row)]
    for title, part in _length_scans(timed):
        for schedule in dict.fromkeys(row["schedule"] for row in part):
            panel += 1
            here = [row for row in part if row["schedule"] == schedule]
            yield from panel_lines(panel, f"{title}: {schedule}", _stack(here))


def memory_timeline(rows: Sequence[Row], cards: MethodCards) -> Iterator[Line]:
    """Memory over the watched request of the longest context, and its phases.

    Args:
        rows: measurements.
        cards: of the run's methods.
    """
    panel, shown = 0, cards.ids("oracle", "subject")
    for _, part in _length_scans([row for row in rows if row["method"] in shown]):
        watched = [row for row in part if row["repeat"] == 0 and row["status"] == "ok"]
        for row in watched:
            same = (o for o in watched if _variant(o) == _variant(row))
            if row["tokens"] == max(other["tokens"] for other in same):
                panel += 1
                title = f"{row['family']} · {_name(_variant(row), cards)}, {row['tokens']} tokens"
                yield from panel_lines(panel, title, _request(row))


def totals(
    rows: Sequence[Row], found: Sequence[Group]
) -> Iterator[tuple[str, Mapping[Variant, Curve]]]:
    """Seconds of a whole request and score, of each task whose requests were measured.

    Args:
        rows: measurements.
        found: rows of each family and benchmark.

    Yields:
        Title of a panel, and a point for each retention of each variant.
    """
    timed = [row for row in rows if row["batch"] == 1 and counts(row)]
    for family in dict.fromkeys(row["family"] for row in timed):
        scans: dict[str, list[Row]] = {}
        for row in timed:
            if row["family"] == family:
                scans.setdefault(row["scan"], []).append(row)
        scan = max(scans.values(), key=lambda part: len({row["retention"] for row in part}))
        benchmark, _, tasks = scan[0]["inputs"].partition(": ")
        for group in found:
            if group.cell[0] != family or (tasks and group.cell[1] != benchmark):
                continue
            methods = {row["method"] for row in scan}
            scored = [row for row in group.rows if row["method"] in methods]
            for task in sorted({row["task"] for row in scored}):
                if not tasks or task in tasks.split(", "):
                    tokens = fmean(r["context_tokens"] for r in scored if r["task"] == task)
                    at = min(
                        dict.fromkeys(row["tokens"] for row in scan),
                        key=lambda length: abs(math.log(length / tokens)),
                    )
                    near = [row for row in scan if row["tokens"] == at]
                    title = f"{family} · {task} (times at {at} tokens)"
                    yield title, _total(near, _task_means(group, task))


def pareto_total(rows: Sequence[Row], found: Sequence[Group], cards: MethodCards) -> Iterator[Line]:
    """Score against the seconds of a whole request: marks on thin lines.

    Args:
        rows: measurements.
        found: rows of each family and benchmark.
        cards: of the run's methods.
    """
    for panel, (title, curves) in enumerate(totals(rows, found), start=1):
        points = [
            drawn(series, part, *point)
            for variant, curve in curves.items()
            for series, part in ((_series(variant, cards), "line"), (variant[0], "marks"))
            for point in curve
        ]
        yield from panel_lines(panel, title, points)


def _total(near: Sequence[Row], scores: Mapping[tuple[str, float], float]) -> dict[Variant, Curve]:
    curves: dict[Variant, Curve] = {}
    for variant in _variants(near):
        seconds: dict[float, list[float]] = {}
        for row in near:
            if _variant(row) == variant:
                seconds.setdefault(row["retention"], []).append(row["request_seconds"])
        curves[variant] = tuple(
            (median(values), scores[variant[0], rho])
            for rho, values in sorted(seconds.items())
            if (variant[0], rho) in scores
        )
    return curves


def _task_means(group: Group, task: str) -> dict[tuple[str, float], float]:
    """Mean score of a task by method and retention."""
    found = {}
    for (method, _, retention), every in group.points.items():
        if means := {unit: values for unit, values in every.items() if unit[0] == task}:
            found[method, retention] = mean(column(means, "score"))
    return found


def _length_scans(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Scans of several lengths: title, and the requests of one context at one retention."""
    scans: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["batch"] == 1:
            scans.setdefault((row["family"], row["scan"]), []).append(row)
    for (family, scan), part in scans.items():
        pruned = {row["retention"] for row in part if row["retention"] < 1}
        if pruned and len({row["tokens"] for row in part}) > 1:
            at = min(pruned, key=lambda rho: (abs(rho - COMPARED_AT), rho))
            shown = [row for row in part if row["retention"] in (at, 1)]
            yield f"{family} · {scan}, ρ {at:g}", shown


def _variant(row: Row) -> Variant:
    return row["method"], row["schedule"]


def _variants(rows: Iterable[Row]) -> list[Variant]:
    return list(dict.fromkeys(map(_variant, rows)))


def _name(variant: Variant, cards: MethodCards) -> str:
    return cards.card(variant[0]).label + ", parallel" * (variant[1] == "parallel")


def _series(variant: Variant, cards: MethodCards) -> str:
    return f"{variant[0]}: {_name(variant, cards)}"


def _seconds(
    part: Sequence[Row], variants: Sequence[Variant], cards: MethodCards
) -> Iterator[Drawn]:
    """Medians with the range of the repeats; a mark where the memory was too small."""
    for variant in variants:
        here = [row for row in part if _variant(row) == variant]
        times: dict[int, list[float]] = {}
        for row in filter(counts, here):
            times.setdefault(row["tokens"], []).append(row["cache_seconds"])
        for tokens, seconds in sorted(times.items()):
            yield drawn(_series(variant, cards), "line", tokens, median(seconds))
            yield drawn(variant[0], "low", tokens, min(seconds))
            yield drawn(variant[0], "high", tokens, max(seconds))
        for tokens in dict.fromkeys(row["tokens"] for row in here if row["status"] != "ok"):
            yield drawn(variant[0], "level", tokens, math.nan)


def _peaks(part: Sequence[Row], variants: Sequence[Variant], cards: MethodCards) -> Iterator[Drawn]:
    for variant in variants:
        for row in part:
            peak = row["target_peak_bytes"]
            if _variant(row) == variant and row["repeat"] == 0 and peak is not None:
                yield drawn(_series(variant, cards), "line", row["tokens"], peak / GIB)


def _stack(part: Sequence[Row]) -> Iterator[Drawn]:
    repeats: dict[int, list[dict[str, float]]] = {}
    for row in part:
        seconds: dict[str, float] = {}
        for span in row["spans"]:
            took = span["end"] - span["start"]
            seconds[span["phase"]] = seconds.get(span["phase"], 0.0) + took
        repeats.setdefault(row["tokens"], []).append(seconds)
    phases = {phase for several in repeats.values() for one in several for phase in one}
    heights = dict.fromkeys(repeats, 0.0)
    for phase in (name for name in PHASES if name in phases):
        for place, tokens in enumerate(sorted(repeats)):
            middle = {p: median(one.get(p, 0.0) for one in repeats[tokens]) for p in phases}
            share = middle[phase] / sum(middle.values())
            yield drawn("", "bars", place, heights[tokens], share)
            heights[tokens] += share


def _request(row: Row) -> Iterator[Drawn]:
    """Memory over time, the end of the scoring, and a bar for each phase."""
    for name in ("target_bytes", "proxy_bytes"):
        for seconds, taken in zip(row["memory_seconds"], row[name] or (), strict=False):
            yield drawn("", "line", seconds, taken / GIB)
    yield drawn("", "level", row["cache_seconds"], math.nan)
    for span in row["spans"]:
        yield drawn("", "bars", span["start"], math.nan, span["end"] - span["start"])
