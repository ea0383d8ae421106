"""The paper's stated numbers, and how each follows from a run: `paper/claims.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "paper" / "claims.yaml"

REPRODUCED, DIFFERS, UNTESTED = "reproduced", "differs", "not tested here"
"""Verdicts: the interval of what a run found meets the stated range; it does not; no interval."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One number of the paper.

    Attributes:
        id: names it.
        says: the statement.
        where: its section or figure.
        unit: of the number.
        at_least: lower end of the stated range, equal to `at_most` for a number; None for none.
        at_most: upper end.
        metric: what of a run compares with it: of answers `recovery` (% of the baseline's mean),
            `gap` (points below the baseline) or `score` (points); of measurements `speedup` (over
            the baseline, best length), `mapper_share` or `memory_premium` (%); of a fit `mass`.
            Empty if nothing does.
        lacks: why nothing does.
        method: id of the method.
        baseline: id of the method that it is compared with.
        families: names of families with the paper's models.
        benchmarks: names of the benchmarks that are pooled; every task weighs the same.
        tasks: of them; all by default.
        each_task: whether each task is compared alone.
        retentions: pooled in each context; of measurements, those that count (all by default).
        gpus: of a measurement.
        shortest: least length of a measurement, in tokens.
        note: what this project had to decide.
    """

    id: str
    says: str
    where: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    metric: str = ""
    lacks: str = ""
    method: str = ""
    baseline: str = ""
    families: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    each_task: bool = False
    retentions: tuple[float, ...] = ()
    gpus: int = 1
    shortest: int = 0
    note: str = ""

    @property
    def stated(self) -> str:
        """The range for readers, with its unit."""
        low, high = (None if end is None else f"{end:g}" for end in (self.at_least, self.at_most))
        ends = low if low == high else f"{low} to {high}" if low and high else None
        return f"{ends or (f'≥ {low}' if low else f'≤ {high}')} {self.unit}"


def claims() -> list[Claim]:
    """All of them, in the file's order."""
    return [Claim(**_frozen(entry)) for entry in _read()["claims"]]


def paper_models() -> Mapping[str, str]:
    """Families to the hub names of the paper's targets."""
    return _read()["models"]


@cache
def _read() -> Mapping[str, Any]:
    return yaml.safe_load(FILE.read_text("utf-8"))


def _frozen(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(Claim)}
    assert entry.keys() <= known, f"{FILE}: {entry['id']} has unknown fields"
    return {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
