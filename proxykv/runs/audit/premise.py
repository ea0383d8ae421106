"""The table of the premise: how many points the own mask scores more than the proxy's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean, median

from proxykv.config.cards import PREMISE, MethodCards
from proxykv.runs.audit.cells import (
    ABSOLUTE,
    RELATIVE,
    Between,
    Cell,
    Known,
    OneOf,
    detectable,
    mean,
    mean_cells,
    number,
)
from proxykv.runs.audit.means import Group, Unit, by_task
from proxykv.runs.audit.table_file import Line, Published, key_of

KEYS = ("family", "benchmark", "method", "reference", "tokens")
MARGIN, APART, LIMIT, NO_WIDTH = 3.0, 1.2, 0.3, 1e-6


def lines(found: list[Group], cards: MethodCards, published: Published) -> Iterator[Line]:
    """The table's lines. Outcomes follow from the published intervals, which are checked, too.

    Args:
        found: rows of each family and benchmark.
        cards: of the run's methods, with the comparisons.
        published: lines of the published table.
    """
    by_key = {key_of(line, KEYS): line for line in published}
    for group in found:
        classes = length_classes(group)
        for method, reference in cards.comparisons.get(PREMISE, ()):
            own, proxy = _low(group, method), _low(group, reference)
            for tokens, units in classes.items():
                if own.keys() & units and proxy.keys() & units:
                    both = own.keys() & proxy.keys() & units
                    gaps = by_task({unit: 100 * (own[unit] - proxy[unit]) for unit in both})
                    key = (*group.cell, method, reference, str(tokens))
                    yield (
                        key,
                        {
                            **mean_cells("points", gaps, ends="ci"),
                            "mde": Known(detectable(gaps)),
                            "n_contexts": Known(len(both)),
                            **_judged(mean(gaps), *_ends(by_key.get(key, {})), len(both)),
                        },
                    )


def _ends(line: Mapping[str, str]) -> tuple[float, float]:
    """The published interval; NaN for an end that is not a number."""
    low, high = (number(line.get(end) or "") for end in ("ci_low", "ci_high"))
    return math.nan if low is None else low, math.nan if high is None else high


def length_classes(group: Group) -> dict[int, set[Unit]]:
    """Contexts by length class: a new one starts where a length is `APART` times the last one.

    Args:
        group: rows of a family and benchmark.
    """
    tokens = {(row["task"], row["context_id"]): row["context_tokens"] for row in group.rows}
    classes: list[list[Unit]] = []
    last = 0
    for unit in sorted(tokens, key=lambda unit: tokens[unit]):
        if not classes or tokens[unit] > APART * last:
            classes.append([])
        classes[-1].append(unit)
        last = tokens[unit]
    return {round(median(tokens[unit] for unit in units)): {*units} for units in classes}


def _low(group: Group, method: str) -> dict[Unit, float]:
    """Each context's mean score over the low retentions."""
    several: dict[Unit, list[float]] = {}
    for (name, _, retention), means in group.points.items():
        if name == method and retention <= LIMIT:
            for unit, values in means.items():
                several.setdefault(unit, []).append(values["score"])
    return {unit: fmean(scores) for unit, scores in several.items()}


def _judged(points: float, low: float, high: float, contexts: int) -> dict[str, Cell]:
    """The outcome and the contexts that would decide; ends near the margin leave both open."""
    near = RELATIVE * max(abs(low), abs(high)) + ABSOLUTE
    outcomes = dict.fromkeys(_outcome(low + off, high + off) for off in (-near, 0.0, near))
    needed: Cell = Known(math.nan)
    if "undecided" in outcomes:
        half, distance = (high - low) / 2, abs(points - MARGIN)
        if not math.isnan(half) and high - low >= NO_WIDTH:
            least = contexts * (max(half - near, 0) / (distance + ABSOLUTE)) ** 2
            most = contexts * ((half + near) / max(distance - ABSOLUTE, ABSOLUTE)) ** 2
            unknown = len(outcomes) > 1 or distance <= ABSOLUTE
            needed = Between(math.floor(least) + 1, math.floor(most) + 1, may_be_empty=unknown)
    return {"outcome": OneOf(tuple(outcomes)), "n_needed": needed}


def _outcome(low: float, high: float) -> str:
    if high - low < NO_WIDTH:
        return "undecided"
    return "falsified" if low > MARGIN else "upheld" if high < MARGIN else "undecided"
