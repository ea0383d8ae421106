"""Tables of a verdict, written by hand: each function gives a line of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from proxykv.config.cards import Card, MethodCards
from proxykv.report.verdict import verdicts

Line = dict[str, Any]
NAN = float("nan")
LOW = "<=0.3"
CELL = {"family": "a", "benchmark": "x"}
CARDS = MethodCards(
    {
        "all": Card("Full", "reference"),
        "best": Card("Oracle", "oracle"),
        "ours": Card("Ours", "subject"),
        "r1": Card("First rival", "rival"),
        "r2": Card("Second rival", "rival"),
        "c1": Card("First control", "control", "a shuffled proxy", "it proves nothing"),
        "c2": Card("Second control", "control", "a prior", "the split explains it"),
        "x1": Card("First crossed", "crossed", "one's budgets", "what tokens are worth"),
        "x2": Card("Second crossed", "crossed", "the other's budgets", "what a split costs"),
        "noise": Card("Noise", "floor"),
    }
)
SPARING = replace(
    CARDS,
    cards={
        **CARDS.cards,
        "alone": Card("Local replay", "rival", spares="the proxy"),
        "plain": Card("Plain tokens", "baseline", spares="the mapper"),
    },
)
# (difference, p after Holm's correction) -> what it is called.
SIGNIFICANT = 0.0499
OUTCOMES = {
    "above": (0.1234, SIGNIFICANT),
    "below": (-0.1234, SIGNIFICANT),
    "tie": (0.1234, 0.05),
}
OTHERWISE = {
    "mean": 0.0,
    "p_holm": 0.9,
    "difference": 0.0,
    "kl": 5.0,
    "recovery": NAN,
    "missing": 7,
    "truncated": 7,
    "n_contexts": 1,
}


def paired(reference: str, outcome: str = "above", **changed: Any) -> Line:
    """A line of `paired`; p before the correction would be another outcome."""
    difference, p = OUTCOMES[outcome]
    return {
        **CELL,
        "metric": "score",
        "group": "main",
        "method": "ours",
        "reference": reference,
        "retention": LOW,
        "difference": difference,
        "ci_low": difference - 0.1,
        "ci_high": difference + 0.1,
        "p": p / 10,
        "p_holm": p,
        "mde": 0.2345,
        "n_contexts": 21,
    } | changed


def at_length(reference: str, tokens: int, outcome: str = "above") -> Line:
    """A line of `by_length`."""
    difference, p = OUTCOMES[outcome]
    names = {"method": "ours", "reference": reference, "tokens": tokens}
    return {**CELL, **names, "difference": difference, "p_holm": p}


def low(method: str, mean: float = 0.5, **changed: Any) -> Line:
    """A line of `summary`."""
    return {
        **CELL,
        "pool": LOW,
        "method": method,
        "mean": mean,
        "recovery": 0.8766,
        "recovery_low": 0.8012,
        "recovery_high": 0.9987,
        "kl": {"ours": 0.1111, "best": 0.2222}.get(method, 9.0),
    } | changed


def point(method: str, retention: float, mean: float) -> Line:
    """A line of `leaderboard`."""
    return {**CELL, "method": method, "retention": retention, "mean": mean, "n_contexts": 12}


def task(name: str, n_contexts: int) -> Line:
    return {**CELL, "task": name, "n_contexts": n_contexts}


def covered(method: str, missing: int = 0, truncated: int = 0) -> Line:
    return {**CELL, "method": method, "missing": missing, "truncated": truncated}


def spent(method: str, prefills: float) -> Line:
    """A line of `quality_cost`."""
    return {**CELL, "method": method, "prefills": prefills}


def say(
    *tests: Line,
    methods: MethodCards = CARDS,
    summary: list[Line] | None = None,
    board: list[Line] | None = None,
    tasks: list[Line] | None = None,
    coverage: list[Line] | None = None,
    lengths: list[Line] | None = None,
) -> list[tuple[str, str]]:
    """(tone, text) of all findings, of a run in which every method is there and all is well."""
    fine = [point("all", 1.0, 0.9), *(point(m, 0.3, 0.5) for m in CARDS.cards if m != "all")]
    made = {
        "leaderboard": board or fine,
        "summary": summary or [low(m) for m in ("best", "ours")],
        "paired": [*tests, paired("nobody")],
        "per_task": tasks or [task("one", 6), task("two", 6)],
        "coverage": coverage or [covered("ours")],
        "by_length": lengths or [at_length("nobody", 1000)],
        "quality_cost": [
            spent("ours", 1.6),
            *(spent(m, 3.0) for m in SPARING.cards if m != "ours"),
        ],
    }
    # Another benchmark of the run in which everything is otherwise: it must not be read.
    frames = {
        name: pd.DataFrame([*lines, *(line | {"benchmark": "y"} | OTHERWISE for line in lines)])
        for name, lines in made.items()
    }
    frames["premise"] = pd.DataFrame(columns=["family", "benchmark"])  # see test_premise.py
    return [(f.tone, f.text) for f in verdicts(frames, methods)["a · x"]]
