"""The table of the paper's numbers, from rows, measurements and logs of training."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from proxykv.config import benchmarks
from proxykv.config.cards import MethodCards
from proxykv.config.claims import DIFFERS, REPRODUCED, UNTESTED, Claim, claims_of, paper_models
from proxykv.runs.audit import efficiency
from proxykv.runs.audit.cells import (
    ABSOLUTE,
    RELATIVE,
    Cell,
    Known,
    OneOf,
    mean_cells,
    number,
    ratio_cells,
)
from proxykv.runs.audit.means import Row, known_mean
from proxykv.runs.audit.table_file import Line, Published, key_of
from proxykv.runtime.errors import ConfigError

KEYS = ("claim", "family", "task")
CONTEXTS, REPEATS = "95 % CI over contexts", "95 % CI over repeats of the best length"
LENGTHS, EVALUATIONS = "range over lengths", "range over evaluations"
FOUND = ("found", "found_low", "found_high")
NOTHING: dict[str, Cell] = {
    **dict.fromkeys((*FOUND, "n"), Known(math.nan)),
    "interval": Known(""),
}


@dataclass(frozen=True)
class Filled:
    """A cell that holds some text."""

    def agrees(self, published: str) -> bool:
        """Whether it does."""
        return bool(published.strip())

    def __str__(self) -> str:
        """What is missing."""
        return "a reason"


@dataclass(frozen=True)
class Evidence:
    """What a run has.

    Attributes:
        rows: its rows.
        measured: its measurements.
        cards: of its methods.
        folder: of its results.
    """

    rows: Sequence[Row]
    measured: Sequence[Row]
    cards: MethodCards
    folder: Path


def lines(run: Evidence, published: Published) -> Iterator[Line]:
    """The table's lines. Verdicts follow from the published intervals, which are checked, too.

    Args:
        run: what the run has.
        published: lines of the published table.
    """
    by_key = {key_of(line, KEYS): line for line in published}
    targets = {(row["family"], row["target"].split("@")[0]) for row in [*run.rows, *run.measured]}
    for claim in claims_of(run.folder):
        same = [f for f in claim.families if (f, paper_models()[f]) in targets]
        tasks = [t for _, t in _tasks(claim)] if claim.each_task else [""]
        for key in [(claim.id, f, t) for f in same for t in tasks] or [(claim.id, "", "")]:
            ends = (None, None) if key not in by_key else tuple(
                number(by_key[key].get(name) or "") for name in FOUND[1:]
            )  # fmt: skip
            found = _found(run, claim, *key[1:]) if key[1] and not claim.lacks else {}
            yield (
                key,
                {
                    **{name: Known(getattr(claim, name)) for name in ("says", "where", "unit")},
                    "at_least": Known(_end(claim.at_least)),
                    "at_most": Known(_end(claim.at_most)),
                    **(found or NOTHING),
                    **_judged(claim, *ends, known=bool(found)),
                },
            )


def _judged(claim: Claim, low: float | None, high: float | None, *, known: bool) -> dict[str, Cell]:
    if not known or low is None or high is None or math.isnan(low) or math.isnan(high):
        return {"verdict": Known(UNTESTED), "reason": Filled()}
    least = -math.inf if claim.at_least is None else claim.at_least
    most = math.inf if claim.at_most is None else claim.at_most
    near = RELATIVE * max(abs(low), abs(high)) + ABSOLUTE
    verdicts = {
        REPRODUCED if low - off <= most and least <= high + off else DIFFERS
        for off in (-near, 0.0, near)
    }
    return {"verdict": OneOf(tuple(sorted(verdicts))), "reason": Known(claim.note)}


def _found(run: Evidence, claim: Claim, family: str, task: str) -> dict[str, Cell]:
    """What the run has for a claim; empty if nothing."""
    if claim.metric == "mass":
        return _mass(run.folder / "mappers" / family / claim.method / "log.jsonl", claim)
    if claim.benchmarks:
        return _answers([row for row in run.rows if row["family"] == family], claim, task)
    counts = [row for row in run.measured if row["family"] == family and _counts(row, claim)]
    if claim.metric == "speedup":
        return _speedup(counts, run.cards, claim)
    by_length = _shares(counts, claim) if claim.metric == "mapper_share" else _premiums(
        counts, claim
    )  # fmt: skip
    return _range(by_length, LENGTHS)


def _answers(rows: Sequence[Row], claim: Claim, task: str) -> dict[str, Cell]:
    """A score, a gap or a recovery; nothing unless all tasks, methods and retentions are there."""
    if any(row["protocol"] != "query_agnostic" for row in rows):
        return {}
    wanted = {pair for pair in _tasks(claim) if task in ("", pair[1])}
    methods = [claim.method] + ([claim.baseline] if claim.baseline else [])
    scores: dict[tuple[str, str], dict[str, dict[tuple[str, float], list[float]]]] = {}
    for row in rows:
        pair = row["benchmark"], row["task"]
        if pair in wanted and row["method"] in methods and row["retention"] in claim.retentions:
            context = scores.setdefault(pair, {}).setdefault(row["context_id"], {})
            context.setdefault((row["method"], row["retention"]), []).append(row["score"])
    by_method: dict[str, list[list[float]]] = {method: [] for method in methods}
    for pair in sorted(wanted):
        complete = []
        for _, points in sorted(scores.get(pair, {}).items()):
            known = {point: known_mean(values) for point, values in points.items()}
            if len(known) == len(methods) * len(claim.retentions):
                means = [fmean(v for (m, _), v in known.items() if m == name) for name in methods]
                complete += [] if any(map(math.isnan, means)) else [means]
        if not complete:
            return {}
        for place, method in enumerate(methods):
            by_method[method].append([100 * means[place] for means in complete])
    ours, theirs = by_method[claim.method], by_method.get(claim.baseline, [])
    about = {"interval": Known(CONTEXTS), "n": Known(sum(map(len, ours)))}
    if claim.metric == "recovery":
        parts = [[value / 100 for value in task] for task in theirs]
        return ratio_cells("found", ours, parts) | about
    if claim.metric == "gap":
        ours = [[b - a for a, b in zip(*two, strict=True)]
                for two in zip(ours, theirs, strict=True)]  # fmt: skip
    return mean_cells("found", ours) | about


def _speedup(rows: list[Row], cards: MethodCards, claim: Claim) -> dict[str, Cell]:
    """The best length of the best case."""
    best: dict[str, Cell] = {}
    highest = -math.inf
    for key, cells in efficiency.speedups(rows, cards, []):
        value = getattr(cells["best"], "value", math.nan)
        if key[2] == claim.method and key[-1] == claim.baseline and value > highest:
            highest, best = value, cells
    if not best:
        return {}
    ends = dict(zip(FOUND[1:], (best["ci_low"], best["ci_high"]), strict=True))
    return {"found": best["best"], **ends, "n": best["lengths"], "interval": Known(REPEATS)}


def _shares(rows: Sequence[Row], claim: Claim) -> list[float]:
    """Percent of the time to the cache that the mapper takes, a median for each length."""
    shares: dict[int, list[float]] = {}
    for row in rows:
        if row["method"] == claim.method and row["repeat"] > 0 and row["status"] == "ok":
            spans = (span for span in row["spans"] if span["phase"] == "mapper")
            seconds = sum(span["end"] - span["start"] for span in spans)
            shares.setdefault(row["tokens"], []).append(100 * seconds / row["cache_seconds"])
    return [median(values) for values in shares.values()]


def _premiums(rows: Sequence[Row], claim: Claim) -> list[float]:
    """Percent by which the method's peaks are above the baseline's, for each length."""
    peaks: dict[tuple[str, int], float] = {}
    for row in rows:
        target, proxy = row["target_peak_bytes"], row["proxy_peak_bytes"]
        if target is not None and not math.isnan(target):
            both = target + (0 if proxy is None or math.isnan(proxy) else proxy)
            case = row["method"], row["tokens"]
            peaks[case] = max(both, peaks.get(case, 0))
    return [
        100 * (peak / peaks[claim.baseline, tokens] - 1)
        for (method, tokens), peak in peaks.items()
        if method == claim.method and (claim.baseline, tokens) in peaks
    ]


def _mass(log: Path, claim: Claim) -> dict[str, Cell]:
    """Evaluations after the first quarter of the training."""
    name = f"mass@{claim.retentions[0]:g}"
    try:
        steps = [json.loads(line) for line in log.open(encoding="utf-8")] if log.is_file() else []
        last = max((step["step"] for step in steps), default=0)
        late = [
            s[name] for s in steps if s["split"] == "val" and 4 * s["step"] >= last and name in s
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{log}: damaged ({error!r}); fit the method again") from error
    return _range(late, EVALUATIONS)


def _range(values: Sequence[float], interval: str) -> dict[str, Cell]:
    if not values:
        return {}
    three = (fmean(values), min(values), max(values))
    cells = {name: Known(value) for name, value in zip(FOUND, three, strict=True)}
    return {**cells, "n": Known(len(values)), "interval": Known(interval)}


def _counts(row: Row, claim: Claim) -> bool:
    """Whether a request is one of those that the claim is about."""
    return (
        row["device"].startswith("cuda")
        and not re.search(r" x \d+$", row["device"])
        and (row["devices"], row["batch"]) == (claim.gpus, 1)
        and row["tokens"] >= claim.shortest
        and (not claim.retentions or row["retention"] in (*claim.retentions, 1.0))
    )


def _tasks(claim: Claim) -> list[tuple[str, str]]:
    return [
        (benchmark, task)
        for benchmark in claim.benchmarks
        for task in (claim.tasks or benchmarks.tasks()[benchmark])
    ]


def _end(value: float | None) -> float:
    return math.nan if value is None else value
