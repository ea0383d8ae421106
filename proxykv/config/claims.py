"""Stated numbers, and how each follows from a run: the paper's, and the kvpress leaderboard's.

Their values are in `paper/claims.yaml` and `paper/kvpress.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "paper"

REPRODUCED, DIFFERS, UNTESTED = "reproduced", "differs", "not tested here"
"""Verdicts: the interval of what a run found meets the stated range; it does not; no interval."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One stated number.

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
        if self.at_least is None and self.at_most is None:
            return "none known"
        low, high = (None if end is None else f"{end:g}" for end in (self.at_least, self.at_most))
        ends = low if low == high else f"{low} to {high}" if low and high else None
        return f"{ends or (f'≥ {low}' if low else f'≤ {high}')} {self.unit}"


def claims() -> list[Claim]:
    """The paper's, in the file's order."""
    return [Claim(**_frozen(entry)) for entry in _read("claims")["claims"]]


def leaderboard_claims() -> list[Claim]:
    """The kvpress leaderboard's, whose compression ratio is 1 − retention."""
    stated = _read("kvpress")
    common = {"where": stated["where"], "unit": "points", "families": (stated["family"],)}
    found = [
        Claim(
            id=f"kvpress_{method}_{ratio:g}",
            says=f"kvpress leaderboard: {method} at compression ratio {ratio:g} "
            f"(retention {1 - ratio:g}) scores {score:g}",
            at_least=round(score - stated["tolerance"], 1),
            at_most=round(score + stated["tolerance"], 1),
            metric="score",
            method=method,
            benchmarks=("ruler",),
            retentions=(1 - ratio,),
            **common,
        )
        for method, scores in stated["scores"].items()
        for ratio, score in scores.items()
    ]
    return found + [
        Claim(id=f"kvpress_lacks_{i}", says=f"kvpress leaderboard: {what}", lacks=why, **common)
        for i, (what, why) in enumerate(stated["lacks"].items())
    ]


def claims_of(run_dir: Path) -> list[Claim]:
    """Those that a run can be compared with: the leaderboard's only if the run has its samples.

    Args:
        run_dir: folder of the run, with its config.
    """
    stated, path = _read("kvpress"), run_dir / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    same = any(
        part["lengths"] == stated["lengths"]
        and part.get("options", {}).get("samples", {}).get("hub") == stated["samples"]
        for part in config.get("benchmarks", ())
        if part["benchmark"] == "ruler"
    )
    return claims() + (leaderboard_claims() if same else [])


def paper_models() -> Mapping[str, str]:
    """Families to the hub names of the paper's targets."""
    return _read("claims")["models"]


@cache
def _read(name: str) -> Mapping[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


def _frozen(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(Claim)}
    assert entry.keys() <= known, f"{FOLDER}: {entry['id']} has unknown fields"
    return {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
