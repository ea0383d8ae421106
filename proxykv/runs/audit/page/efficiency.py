"""What the page's tables of time and memory must show, from the run's CSV tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from proxykv.config.cards import MethodCards
from proxykv.runs.audit.page.shown import Expected, Shown, count, fixed, known
from proxykv.runs.audit.table_file import Published

TABLES = ("efficiency", "speedups")
CASE = ("family", "scan", "method", "schedule", "hardware", "batch", "retention")
NAMES = ("Scan", "Method", "ρ", "Contexts")
TIMES = {
    "cache_seconds": ("to the cache, s", 3),
    "first_token_seconds": ("to the first token, s", 3),
    "decode_seconds": ("per token, s", 4),
    "request_seconds": ("request, s", 3),
}


def expected(tables: Mapping[str, Published], cards: MethodCards) -> Iterator[tuple[str, Expected]]:
    """The two tables by their ids.

    Args:
        tables: lines of the CSV tables `TABLES` by name.
        cards: of the run's methods.
    """
    yield "speedups", _speedups(tables["speedups"], cards)
    yield "cases", _cases(tables["efficiency"], cards)


def _speedups(lines: Published, cards: MethodCards) -> Expected:
    """A row per case, a column for each reference."""
    names = {
        str(cards.only("oracle")): f"against {cards.label('oracle')}",
        "prefill": "against the bare prefill",
    }
    cells: dict[tuple[str, ...], dict[str, Shown]] = {}
    named = {}
    for line in lines:
        case = tuple(line[name] for name in CASE)
        named[case] = _named(line, cards)
        cells.setdefault(case, {})[line["against"]] = _ratio(line)
    blank = Shown(math.nan, lambda _: "")
    rows = [[*named[c], *(cells[c].get(against, blank) for against in names)] for c in cells]
    return Expected([*NAMES, *names.values()], rows, len(NAMES))


def _ratio(line: Mapping[str, str]) -> Shown:
    """Three ratios in one text: their mean, median and best."""
    three = [known(line, name) for name in ("mean", "median", "best")]
    ends = [known(line, name) for name in ("ci_low", "ci_high")]
    interval = f"95 % CI {' to '.join(map(_exact, ends))}"
    return Shown(
        three[0],
        exact=" · ".join(f"{_exact(value)}×" for value in three),
        small=f"{line['hardware']}; reference on {line['reference_hardware']}",
        hover=f"best at {line['best_tokens']} tokens, {interval}; {line['lengths']} lengths",
        digits=2,
        size=max((value for value in (*three, *ends) if not math.isnan(value)), default=0.0),
    )


def _cases(lines: Published, cards: MethodCards) -> Expected:
    rows = [
        [
            *_named(line, cards),
            Shown(known(line, "tokens"), count),
            *(_time(line, name, digits) for name, (_, digits) in TIMES.items()),
            Shown(known(line, "contexts_per_second"), fixed(2)),
            Shown(known(line, "target_peak_bytes") / 2**30, fixed(3)),
            Shown(known(line, "kv_bytes") / 2**20, fixed(2)),
        ]
        for line in lines
    ]
    times = (head for head, _ in TIMES.values())
    heads = [*NAMES, "Tokens", *times, "contexts/s", "peak, GiB", "kept KV, MiB"]
    return Expected(heads, rows, len(NAMES) + 1)


def _time(line: Mapping[str, str], name: str, digits: int) -> Shown:
    """A median, its range in small print; the status of a request that failed."""
    if line["status"] != "ok":
        return Shown(math.nan, lambda _: line["status"])
    low, high, ci_low, ci_high = (
        known(line, f"{name}_{end}") for end in ("low", "high", "ci_low", "ci_high")
    )
    return Shown(
        known(line, name),
        fixed(digits),
        small=f"{_exact(low)}–{_exact(high)}",
        hover=f"95 % CI {_exact(ci_low)} to {_exact(ci_high)}; {line['repeats']} repeats",
        digits=digits,
        size=high,
    )


def _named(line: Mapping[str, str], cards: MethodCards) -> list[Shown]:
    label = cards.card(line["method"]).label
    parallel = ", parallel" if line["schedule"] == "parallel" else ""
    return [
        Shown(f"{line['family']} · {line['scan']}"),
        Shown(label + parallel, small=line["hardware"]),
        Shown(known(line, "retention"), "{:g}".format),
        Shown(known(line, "batch"), count),
    ]


def _exact(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.12f}"
