"""Stated numbers (`proxykv.config.claims`), with what a run found for each, and a verdict.

`reproduced`: the run's interval meets the stated range. `differs`: it does not. `not tested here`:
the run has nothing that compares, or no interval; the reason is given.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config import benchmarks
from proxykv.config.cards import MethodCards
from proxykv.config.claims import (
    DIFFERS,
    REPRODUCED,
    UNTESTED,
    Claim,
    claims,
    claims_of,
    leaderboard_claims,
    paper_models,
)
from proxykv.report.cells import Table, number, plain
from proxykv.report.efficiency import read_measurements, speedups, timed
from proxykv.report.stats import Strata, mean_ci, ratio_ci
from proxykv.report.tables import read_rows
from proxykv.report.tabulate import write_table

COLUMNS = [
    *("claim", "family", "task", "says", "where", "unit", "at_least", "at_most"),
    *("found", "found_low", "found_high", "interval", "n", "verdict", "reason"),
]
CONTEXTS, REPEATS = "95 % CI over contexts", "95 % CI over repeats of the best length"
LENGTHS, EVALUATIONS = "range over lengths", "range over evaluations"
NO_INTERVAL = "too few contexts or repeats for an interval"


class _NothingComparesError(Exception):
    """The run has nothing that compares with a claim; the message says why."""


@dataclass(frozen=True)
class Found:
    """What a run found for a claim.

    Attributes:
        found: the value.
        found_low: lower end of its interval.
        found_high: upper end.
        interval: what kind of interval it is.
        n: how many contexts, lengths or evaluations it is over.
    """

    found: float
    found_low: float
    found_high: float
    interval: str
    n: int


def paper(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> pd.DataFrame:
    """One line per claim, and per family with the paper's models that the run has.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run, with its measurements and fits.
    """
    run = _Evidence(rows, read_measurements(run_dir), methods, run_dir)
    records = [
        {
            "claim": claim.id,
            "family": family,
            "task": task,
            **{name: getattr(claim, name) for name in ("says", "where", "unit")},
            **{name: getattr(claim, name) for name in ("at_least", "at_most")},
            **_judged(claim, run, family, task),
        }
        for claim in claims_of(run_dir)
        for family, task in run.places(claim)
    ]
    table = pd.DataFrame(records).reindex(columns=COLUMNS)
    return table.astype({"at_least": float, "at_most": float})


def write_paper(rows_paths: Iterable[Path], run_dir: Path) -> Path:
    """Write `tables/paper` as CSV and LaTeX; returns the CSV file.

    Args:
        rows_paths: files of rows.
        run_dir: folder of the run.
    """
    path, methods = run_dir / "tables" / "paper.csv", MethodCards.read(run_dir)
    write_table(path, paper(read_rows(rows_paths), methods, run_dir), methods)
    return path


def paper_table(table: pd.DataFrame) -> tuple[str, Table]:
    """How many claims have which verdict, in words, and the table of the page."""
    counts = table.verdict.value_counts()
    said = ", ".join(f"{counts.get(v, 0)} {v}" for v in (REPRODUCED, DIFFERS, UNTESTED))
    stated = {claim.id: claim.stated for claim in [*claims(), *leaderboard_claims()]}
    shown = pd.DataFrame(
        {
            "statement": table.says,
            "where": table["where"],
            "stated": table.claim.map(stated),
            "family": table.family,
            "task": table.task,
            "here": table.found,
            "low": table.found_low,
            "high": table.found_high,
            "interval": table.interval,
            "n": table.n,
            "verdict": table.verdict,
            "reason": table.reason,
        }
    )
    show: dict[str, Callable[[Any], str]] = dict.fromkeys(("here", "low", "high"), number)
    show["n"] = lambda n: number(n, 0)
    caption = "Stated numbers and this run's"
    return said, plain(shown, id="claims", caption=caption, styles={}, show=show)


def _judged(claim: Claim, run: _Evidence, family: str, task: str) -> dict[str, Any]:
    try:
        found = run.found(claim, family, task)
    except _NothingComparesError as nothing:
        return {"interval": "", "verdict": UNTESTED, "reason": str(nothing)}
    if np.isnan(found.found_low):
        return {**vars(found), "verdict": UNTESTED, "reason": NO_INTERVAL}
    low = -np.inf if claim.at_least is None else claim.at_least
    high = np.inf if claim.at_most is None else claim.at_most
    meets = found.found_low <= high and found.found_high >= low
    return {**vars(found), "verdict": REPRODUCED if meets else DIFFERS, "reason": claim.note}


@dataclass(frozen=True)
class _Evidence:
    """What a run has."""

    rows: pd.DataFrame
    measured: pd.DataFrame
    methods: MethodCards
    run_dir: Path

    def places(self, claim: Claim) -> list[tuple[str, str]]:
        """Families with the paper's models, each with a task or ""; one blank place if none."""
        models = paper_models()
        here = [f for f in claim.families for name, target in self.targets
                if name == f and target.partition("@")[0] == models[f]]  # fmt: skip
        tasks = [task for _, task in _tasks(claim)] if claim.each_task else [""]
        return [(family, task) for family in here for task in tasks] or [("", "")]

    @cached_property
    def targets(self) -> set[tuple[str, str]]:
        """Each family with its target, of answers and of measurements."""
        made = [frame for frame in (self.rows, self.measured) if len(frame)]
        pairs = [frame[["family", "target"]].drop_duplicates() for frame in made]
        return {pair for frame in pairs for pair in frame.itertuples(index=False, name=None)}

    def found(self, claim: Claim, family: str, task: str) -> Found:
        """What compares with a claim.

        Raises:
            _NothingComparesError: if nothing does.
        """
        if claim.lacks:
            raise _NothingComparesError(claim.lacks)
        if not family:
            raise _NothingComparesError(
                f"other models: {', '.join(sorted(self.rows.target.unique()))}"
            )
        if claim.metric == "mass":
            return self._mass(claim, family)
        if claim.benchmarks:
            return self._answers(claim, family, task)
        return self._measurements(claim, family)

    def _answers(self, claim: Claim, family: str, task: str) -> Found:
        points = _contexts(self.rows[self.rows.family == family], claim, task)
        method = _strata(points[claim.method])
        if claim.metric == "score":
            estimate = mean_ci(method)
        elif claim.metric == "recovery":
            estimate = ratio_ci(method, _strata(points[claim.baseline]))
        else:
            estimate = mean_ci(_strata(points[claim.baseline] - points[claim.method]))
        return Found(*(100 * value for value in estimate), CONTEXTS, len(points))

    def _measurements(self, claim: Claim, family: str) -> Found:
        needed = {claim.method, claim.baseline} - {""}
        part = _on_gpus(self.measured, claim, family)
        if len(part) == 0 or not needed <= set(part.method):
            longest = f" at {claim.shortest} tokens or more" if claim.shortest else ""
            raise _NothingComparesError(
                f"no measurements of {' and '.join(sorted(needed))} on {claim.gpus} "
                f"GPU{'s' * (claim.gpus != 1)}{longest}"
            )
        if claim.metric == "speedup":
            return _best_speedup(speedups(part, self.methods), claim)
        lengths = _shares(part, claim) if claim.metric == "mapper_share" else _premiums(part, claim)
        return _ranged(lengths, LENGTHS)

    def _mass(self, claim: Claim, family: str) -> Found:
        log = self.run_dir / "mappers" / family / claim.method / "log.jsonl"
        texts = log.read_text("utf-8").splitlines() if log.is_file() else []
        lines = list(map(json.loads, texts))
        name = f"mass@{claim.retentions[0]:g}"
        last = max((line["step"] for line in lines), default=0)
        late = [x[name] for x in lines
                if x["split"] == "val" and name in x and x["step"] >= last / 4]  # fmt: skip
        return _ranged(pd.Series(late, dtype=float), EVALUATIONS)


def _contexts(rows: pd.DataFrame, claim: Claim, task: str) -> pd.DataFrame:
    """Scores of contexts by method, averaged over questions, then over the claim's retentions.

    Only contexts that the claim's methods have at all its retentions.
    """
    if (rows.protocol != "query_agnostic").any():
        raise _NothingComparesError("the run's protocol is not query-agnostic")
    methods = [claim.method, *([claim.baseline] if claim.baseline else [])]
    wanted = [(b, t) for b, t in _tasks(claim) if task in ("", t)]
    part = rows[rows.method.isin(methods) & rows.retention.isin(claim.retentions)]
    part = part[pd.MultiIndex.from_frame(part[["benchmark", "task"]]).isin(wanted)]
    unit = ["benchmark", "task", "context_id"]
    scores = part.pivot_table("score", [*unit, "retention"], "method").reindex(columns=methods)
    scores = scores.dropna().groupby(unit)
    complete = scores.mean()[scores.size() == len(claim.retentions)]
    have = set(complete.index.droplevel("context_id"))
    if missing := [pair for pair in wanted if pair not in have]:
        more = f" and {len(missing) - 1} more tasks" if len(missing) > 1 else ""
        raise _NothingComparesError(
            f"no answers of {' and '.join(methods)} at all of ρ = "
            f"{', '.join(f'{rho:g}' for rho in claim.retentions)} for {' '.join(missing[0])}{more}"
        )
    return complete


def _tasks(claim: Claim) -> Iterator[tuple[str, str]]:
    """Benchmark and task of what a claim pools."""
    for benchmark in claim.benchmarks:
        for task in claim.tasks or benchmarks.tasks()[benchmark]:
            yield benchmark, task


def _strata(values: pd.Series) -> Strata:
    return [part.to_numpy() for _, part in values.groupby(level=["benchmark", "task"])]


def _on_gpus(measured: pd.DataFrame, claim: Claim, family: str) -> pd.DataFrame:
    """Requests of one context on the claim's number of GPUs, at its lengths and retentions.

    In the paper's set-ups no model is on several of them.
    """
    if not len(measured):
        return measured
    counts = (
        (measured.family == family)
        & measured.device.str.startswith("cuda")
        & ~measured.device.str.contains(r" x \d+$")
        & (measured.devices == claim.gpus)
        & (measured.batch == 1)
        & (measured.tokens >= claim.shortest)
    )
    if claim.retentions:
        counts &= measured.retention.isin([*claim.retentions, 1.0])
    return measured[counts]


def _best_speedup(table: pd.DataFrame, claim: Claim) -> Found:
    lines = table[(table.method == claim.method) & (table.against == claim.baseline)]
    if lines.empty:
        raise _NothingComparesError(f"{claim.method} and {claim.baseline} share no length")
    best = lines.loc[lines.best.idxmax()]
    return Found(best.best, best.ci_low, best.ci_high, REPEATS, int(best.lengths))


def _shares(part: pd.DataFrame, claim: Claim) -> pd.Series:
    """Percent of the time to the cache that the mapper takes: the repeats' median, by length."""
    ok = timed(part[part.method == claim.method])
    mapper = np.array([seconds.get("mapper", 0.0) for seconds in ok.seconds])
    return (100 * mapper / ok.cache_seconds).groupby(ok.tokens).median()


def _premiums(part: pd.DataFrame, claim: Claim) -> pd.Series:
    """Percent by which the peaks of both models exceed the baseline's, by length."""
    peaks = part.target_peak_bytes + part.proxy_peak_bytes.fillna(0)
    highest = peaks.groupby([part.method, part.tokens]).max()
    return (100 * (highest[claim.method] / highest[claim.baseline] - 1)).dropna()


def _ranged(values: pd.Series, interval: str) -> Found:
    values = values.dropna()
    if values.empty:
        raise _NothingComparesError("nothing was measured or logged")
    return Found(values.mean(), values.min(), values.max(), interval, len(values))
