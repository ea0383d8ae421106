"""What each table of the report's page must show, from the run's CSV tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from proxykv.config.cards import MethodCards
from proxykv.config.claims import claims, leaderboard_claims
from proxykv.runs.audit.page import efficiency
from proxykv.runs.audit.page.shown import Expected, Shown, ShownMetric, count, fixed, known, p_value
from proxykv.runs.audit.table_file import Published

SCORE = ShownMetric("mean", "ci", "Score", "Score")
RECOVERY = ShownMetric("recovery", "recovery", "Recovery, % of the oracle", "Recovery %", 1, 100)
KL = ShownMetric("kl", "kl", "KL, nats per token", "KL")
NLL = ShownMetric("nll", "nll", "NLL, nats per token", "NLL")
PERCENT = ShownMetric("pct_of_full", "", "% of full cache", "% of full", 1)
FIXED = ShownMetric("fixed", "fixed", "Score, corrected metric", "Corrected")
POOLS = {"<=0.3": "≤ 0.3", "<1": "< 1"}
BY_CELL = ("leaderboard", "per_task", "summary", "quality_cost", "paired", "coverage")
TABLES = (*BY_CELL, "by_length", "paper")


def expected(tables: Mapping[str, Published], cards: MethodCards) -> Iterator[tuple[str, Expected]]:
    """The page's tables by their ids.

    Args:
        tables: lines of the CSV tables `TABLES` by name, and of those of time and memory if the
            run has them.
        cards: of the run's methods.
    """
    for i, cell in enumerate(sorted({_cell(line) for line in tables["leaderboard"]})):
        here = {name: [ln for ln in tables[name] if _cell(ln) == cell] for name in BY_CELL}
        yield f"pooled-{i}", _pooled(here["summary"], cards)
        for metric in (SCORE, RECOVERY, KL):
            yield f"board-{i}-{metric.column}", _matrix(here["leaderboard"], metric, cards, ())
        tasks = here["per_task"]
        fixed_too = [FIXED] if any(line["fixed"] for line in tasks) else []
        for metric in (SCORE, PERCENT, NLL, KL, *fixed_too):
            yield f"tasks-{i}-{metric.column}", _matrix(tasks, metric, cards, ("task",))
        yield f"cost-{i}", _costs(here["quality_cost"], cards)
    for metric in ("score", "kl"):
        yield f"paired-{metric}", _paired(tables["paired"], metric, cards)
    if lengths := tables["by_length"]:
        yield "by-length", _differences(lengths, [], "tokens", _tokens, cards)
    yield "claims", _claims(tables["paper"])
    if gaps := [ln for ln in tables["coverage"] if (ln["missing"], ln["truncated"]) != ("0", "0")]:
        yield "coverage", _coverage(gaps, cards)
    if tables.keys() >= {*efficiency.TABLES}:
        yield from efficiency.expected(tables, cards)


def _pooled(lines: Published, cards: MethodCards) -> Expected:
    """A row per method, a column per pool and metric."""
    points = {(line["method"], line["scope"], line["pool"]): line for line in lines}
    columns = [(p, m) for p in POOLS if any(line["pool"] == p for line in lines)
               for m in (SCORE, RECOVERY, KL)]  # fmt: skip
    rows = [
        [_name(key, cards), *(m.cell(points.get((*key, pool))) for pool, m in columns)]
        for key in dict.fromkeys((line["method"], line["scope"]) for line in lines)
    ]
    return Expected(["Method", *(f"{m.short}, ρ {POOLS[p]}" for p, m in columns)], rows, 1)


def _matrix(
    lines: Published, metric: ShownMetric, cards: MethodCards, lead: Sequence[str]
) -> Expected:
    """A row per method, after what is in the columns `lead`; a column per retention."""
    by = (*lead, "method", "scope")
    points = {(*(line[c] for c in by), line["retention"]): line for line in lines}
    retentions = sorted({line["retention"] for line in lines}, key=float)
    rows = [
        [
            *map(Shown, key[:-2]),
            _name(key[-2:], cards),
            *(metric.cell(points.get((*key, rho))) for rho in retentions),
        ]
        for key in dict.fromkeys(tuple(line[c] for c in by) for line in lines)
    ]
    heads = [*(c.capitalize() for c in lead), "Method", *(f"ρ {rho}" for rho in retentions)]
    return Expected(heads, rows, len(lead) + 1)


def _costs(lines: Published, cards: MethodCards) -> Expected:
    show = {"prefills": fixed(2), "operations": "{:.3g}".format, "seconds": fixed(3)}
    joined = {"recovery": RECOVERY, "kl": KL, "score": SCORE}
    rows = [
        [
            Shown(cards.card(line["method"]).label),
            *(Shown(known(line, name), text) for name, text in show.items()),
            *(_joined(line, metric) for metric in joined.values()),
            Shown(known(line, "n_contexts"), count),
        ]
        for line in lines
    ]
    return Expected(["method", *show, *joined, "contexts"], rows, 1)


def _joined(line: Mapping[str, str], metric: ShownMetric) -> Shown:
    """A value with its interval in one text."""
    names = (metric.column, f"{metric.ends}_low", f"{metric.ends}_high")
    values = [known(line, name) for name in names]
    value, low, high = ("–" if math.isnan(v) else f"{v:.12f}" for v in values)
    size = max((abs(v) for v in values if not math.isnan(v)), default=0.0)
    return Shown(f"{value} [{low}, {high}]", size=size)


def _paired(every: Published, metric: str, cards: MethodCards) -> Expected:
    lines = [line for line in every if line["metric"] == metric]
    groups = {line["group"] for line in every}
    return _differences(lines, ["group"] * (len(groups) != 1), "retention", _retention, cards)


def _retention(line: Mapping[str, str]) -> Shown:
    return Shown(line["retention"].replace("<=", "≤ "))


def _tokens(line: Mapping[str, str]) -> Shown:
    return Shown(known(line, "tokens"), count)


def _differences(
    lines: Published,
    lead: list[str],
    part: str,
    shown: Callable[[Mapping[str, str]], Shown],
    cards: MethodCards,
) -> Expected:
    """A row per comparison and `part` of the contexts, which `shown` shows."""
    cells = {_cell(line) for line in lines}
    lead = [*(("family", "benchmark") if len(cells) != 1 else ()), *lead]
    show = dict.fromkeys(("difference", "ci_low", "ci_high"), fixed(3, "+"))
    show |= {"p": p_value, "p_holm": p_value, "mde": fixed(3), "n_contexts": count}
    rows = [
        [
            *(Shown(line[name]) for name in lead),
            *(Shown(cards.card(line[name]).label) for name in ("method", "reference")),
            shown(line),
            *(Shown(known(line, name), text) for name, text in show.items()),
        ]
        for line in lines
    ]
    heads = [*lead, "method", "minus", part, *(name.replace("_", " ") for name in show)]
    return Expected(heads, rows, len(lead) + 3)


def _claims(lines: Published) -> Expected:
    stated = {claim.id: claim.stated for claim in [*claims(), *leaderboard_claims()]}
    shown: dict[str, Callable[[Mapping[str, str]], Shown]] = {
        "statement": lambda line: Shown(line["says"]),
        "where": lambda line: Shown(line["where"]),
        "stated": lambda line: Shown(stated[line["claim"]]),
        "family": lambda line: Shown(line["family"]),
        "task": lambda line: Shown(line["task"]),
        "here": lambda line: Shown(known(line, "found"), fixed(3)),
        "low": lambda line: Shown(known(line, "found_low"), fixed(3)),
        "high": lambda line: Shown(known(line, "found_high"), fixed(3)),
        "interval": lambda line: Shown(line["interval"]),
        "n": lambda line: Shown(known(line, "n"), fixed(0)),
        "verdict": lambda line: Shown(line["verdict"]),
        "reason": lambda line: Shown(line["reason"]),
    }
    rows = [[show(line) for show in shown.values()] for line in lines]
    return Expected([*shown], rows, 5)


def _coverage(lines: Published, cards: MethodCards) -> Expected:
    names = ("family", "benchmark", "task")
    counts = ("contexts", "expected", "missing", "questions", "truncated")
    rows = [
        [
            *(Shown(line[name]) for name in names),
            Shown(cards.card(line["method"]).label),
            Shown(float(line["retention"]), "{:g}".format),
            *(Shown(known(line, name), count) for name in counts),
        ]
        for line in lines
    ]
    return Expected([*names, "method", "retention", *counts], rows, 5)


def _cell(line: Mapping[str, str]) -> tuple[str, str]:
    return line["family"], line["benchmark"]


def _name(key: Sequence[str], cards: MethodCards) -> Shown:
    """A method's cell; its scope is in small print, unless the label has it."""
    method, scope = key
    label = cards.card(method).label
    small = "" if scope == "none" or scope in label else scope
    return Shown(label, small=small, hover=f"{method}, scope {scope}")
