"""The points of the figures that are drawn from a table of fits: ablations, and transfer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from proxykv.runs.audit.means import known_mean
from proxykv.runs.audit.page.points import Drawn, drawn, panel_lines
from proxykv.runs.audit.page.shown import known
from proxykv.runs.audit.table_file import Line, Published

METRICS = ("score", "kl")
POOLED, ALL = "<=0.3", "all"
KINDS = {"loss": "terms of the loss", "weights": "weights of the loss"}
OTHERS = "parts of the mapper"
TESTED, AT = "head_overlap", 0.1
ROOM = 0.5
"""Width of the retention's place that the variants share."""


def ablation(table: Published) -> Iterator[Line]:
    """Differences of the variants with their intervals, and the spread between seeds.

    Args:
        table: lines of the table of ablations.
    """
    kinds: dict[tuple[str, str, str], Published] = {}
    for line in table:
        pruned = line["metric"] in METRICS and line["retention"] != POOLED
        if pruned and line["group"] != "reference":
            kind = KINDS.get(line["group"], OTHERS)
            kinds.setdefault((line["family"], line["benchmark"], kind), []).append(line)
    panel = 0
    for key, lines in kinds.items():
        variants = list(dict.fromkeys(line["variant"] for line in lines))
        for metric in METRICS:
            panel += 1
            here = [line for line in lines if line["metric"] == metric]
            yield from panel_lines(panel, f"{' · '.join(key)}: {metric}", _panel(here, variants))


def _panel(lines: Sequence[Mapping[str, str]], variants: Sequence[str]) -> Iterator[Drawn]:
    yield drawn("", "level", math.nan, 0)
    retentions = sorted({float(line["retention"]) for line in lines})
    for place, retention in enumerate(retentions):
        at = [line for line in lines if float(line["retention"]) == retention]
        for spread in [s for ln in at if not math.isnan(s := known(ln, "seed_spread"))][:1]:
            yield drawn("", "low", place, -spread)
            yield drawn("", "high", place, spread)
    for number, variant in enumerate(variants):
        aside = ROOM / len(variants) * (number - (len(variants) - 1) / 2)
        curve = [line for line in lines if line["variant"] == variant]
        for line in sorted(curve, key=lambda line: float(line["retention"])):
            x = retentions.index(float(line["retention"])) + aside
            yield drawn("", "line", x, known(line, "difference"))
            ends = known(line, "difference_low"), known(line, "difference_high")
            if not math.isnan(sum(ends)):
                yield drawn("", "interval", x, ends[0])
                yield drawn("", "interval", x, ends[1])


def transfer(table: Published) -> Iterator[Line]:
    """Overlaps with the oracle, by the tested part of the corpus and by length.

    Args:
        table: lines of the table of fidelity.
    """
    shown = [ln for ln in table if ln["metric"] == TESTED and float(ln["retention"]) == AT]
    panel = 0
    for family in sorted({line["family"] for line in shown}):
        here = [line for line in shown if line["family"] == family]
        panel += 1
        every = [line for line in here if line["length"] == ALL]
        yield from panel_lines(panel, f"{family}: tested on", _cells(every, "part"))
        single = [line for line in here if line["length"] != ALL]
        lengths = {line["length"] for line in single}
        of_part: dict[str, set[str]] = {}
        for line in single:
            of_part.setdefault(line["part"], set()).add(line["length"])
        single = [line for line in single if of_part[line["part"]] == lengths]
        if len({line["length"] for line in single}) > 1:
            panel += 1
            title = f"{family}: tokens of the tested contexts"
            yield from panel_lines(panel, title, _cells(single, "length"))


def _cells(table: Published, column: str) -> Iterator[Drawn]:
    """Mean over the lines of a fitted method and a value of the column, in the table's order."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in table:
        found.setdefault((_fitted(line), line[column]), []).append(known(line, "mean"))
    names, columns = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    for y, name in enumerate(names):
        for x, value in enumerate(columns):
            yield drawn("", "cells", x, y, known_mean(found.get((name, value), ())))


def _fitted(line: Mapping[str, str]) -> str:
    """Name of a fitted method with what it was fitted on."""
    limits = [what for what in (line["fitted_on"], line["fitted_lengths"]) if what != ALL]
    return f"{line['method']} ({', '.join(limits)})" if limits else line["method"]
