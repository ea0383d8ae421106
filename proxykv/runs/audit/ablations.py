"""The table of ablations: the subject's variants against the subject, from rows and fits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from proxykv.config.settings.training import default_weights
from proxykv.runs.audit.cells import Cell, Known, OneOf, mean, mean_cells, number
from proxykv.runs.audit.means import Group, Unit, by_task, known_mean
from proxykv.runs.audit.table_file import Line, Published, key_of
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError

KEYS = ("family", "benchmark", "variant", "metric", "retention")
POOL, LIMIT = "<=0.3", 0.3
OTHER_THAN_PARAMS = {"scope", "corpus", "lengths"}
FIDELITY = ("mass", "allocation", "head_overlap")


class Variant(NamedTuple):
    """One way to train; `methods` did so with different seeds."""

    id: str
    group: str
    methods: tuple[str, ...]


def variants(config: Mapping[str, Any], subject: str | None) -> list[Variant]:
    """The subject and its variants, the subject first; empty if it has none.

    Args:
        config: contents of the run's config.
        subject: id of the subject; None if the run has none.
    """
    terms = config.get("training", {}).get("weights", default_weights())
    found: dict[str, Variant] = {}
    entries: list[dict[str, Any]] = [
        {"id": m, "base": m} if isinstance(m, str) else m for m in config["methods"]
    ]
    for entry in sorted(entries, key=lambda entry: entry["id"] != subject):
        is_variant = subject in (entry["id"], entry["base"])
        if is_variant and not OTHER_THAN_PARAMS & entry.keys():
            params = {k: v for k, v in entry.get("params", {}).items() if k != "seed"}
            same = json.dumps(params, sort_keys=True)
            first = found.get(same, Variant(entry["id"], _group(params, terms), ()))
            found[same] = first._replace(methods=(*first.methods, entry["id"]))
    every = list(found.values())
    return every if len(every) > 1 and every[0].id == subject else []


def lines(
    found: Sequence[Variant], groups: Sequence[Group], folder: Path, published: Published
) -> Iterator[Line]:
    """The table's lines. Verdicts follow from the published intervals, which are checked, too.

    Args:
        found: the subject and its variants.
        groups: rows of each family and benchmark.
        folder: of the run's results.
        published: lines of the published table.
    """
    for group in groups:
        yield from _from_rows(found, group, published)
    yield from _from_fits(found, folder)


def _from_rows(found: Sequence[Variant], group: Group, published: Published) -> Iterator[Line]:
    """Score and KL."""
    by_key = {key_of(line, KEYS): line for line in published}
    names = {method for variant in found for method in variant.methods}
    retentions = sorted({rho for method, _, rho in group.points if method in names})
    pooled = [rho for rho in retentions if rho <= LIMIT]
    limits = {**({POOL: pooled} if pooled else {}), **{f"{rho:g}": [rho] for rho in retentions}}
    for (label, over), metric in ((a, m) for a in limits.items() for m in ("score", "kl")):
        seeds = {v.id: [m for m in v.methods if any(group.at(m, r) for r in over)] for v in found}
        spread = _spread(
            [[mean(by_task(_pooled(group, [m], over, metric))) for m in seeds[v]] for v in seeds]
        )
        for variant in (v for v in found if seeds[v.id]):
            trained, reference = seeds[variant.id], seeds[found[0].id]
            key = (*group.cell, variant.id, metric, label)
            values = by_task(_pooled(group, trained, over, metric))
            differences = by_task(_pooled(group, trained, over, metric, reference))
            cells = {
                **mean_cells("mean", values, ends="ci"),
                **mean_cells("difference", differences),
            }
            line = by_key.get(key, {})
            low, high = (number(line.get(f"difference_{end}") or "") for end in ("low", "high"))
            clear = (low is not None and low > 0) or (high is not None and high < 0)
            verdict = _verdict(mean(differences), spread, clear, metric == "kl")
            yield key, _line(variant, len(trained), spread, verdict) | cells


def _from_fits(found: Sequence[Variant], folder: Path) -> Iterator[Line]:
    """The fidelity of fitted mappers, which has no interval."""
    for family in sorted(path for path in (folder / "mappers").glob("*") if path.is_dir()):
        fits = {
            v.id: [
                _metrics(card)
                for method in v.methods
                if (card := family / method / "card.json").is_file()
            ]
            for v in found
        }
        for name in fits[found[0].id][0] if fits[found[0].id] else ():
            metric, _, retention = name.partition("@")
            if metric not in FIDELITY:
                continue
            seeds = {
                v: [fit.get(name, math.nan) for fit in several]
                for v, several in fits.items()
                if several
            }
            spread = _spread(list(seeds.values()))
            for variant in (v for v in found if v.id in seeds):
                value = fmean(seeds[variant.id])
                difference = value - fmean(seeds[found[0].id])
                verdict = _verdict(difference, spread, clear=True, low_is_good=False)
                key = (family.name, "held-out contexts", variant.id, metric, retention)
                cells = _line(variant, len(seeds[variant.id]), spread, verdict)
                unknown = ("ci_low", "ci_high", "difference_low", "difference_high")
                cells |= dict.fromkeys(unknown, Known(math.nan))
                yield key, cells | {"mean": Known(value), "difference": Known(difference)}


def _line(variant: Variant, seeds: int, spread: float, verdict: Cell) -> dict[str, Cell]:
    return {
        "group": Known(variant.group),
        "seeds": Known(seeds),
        "seed_spread": Known(spread),
        "verdict": verdict,
    }


def _pooled(
    group: Group,
    methods: Sequence[str],
    retentions: Sequence[float],
    metric: str,
    minus: Sequence[str] = (),
) -> dict[Unit, float]:
    """Each context's mean over methods, then over retentions; `minus` other methods' mean there."""
    several: dict[Unit, list[float]] = {}
    for retention in retentions:
        averages = _over_seeds(group, methods, retention, metric)
        other = _over_seeds(group, minus, retention, metric) if minus else {}
        for unit, value in averages.items():
            less = other.get(unit, math.nan) if minus else 0.0
            several.setdefault(unit, []).append(value - less)
    return {unit: known_mean(values) for unit, values in several.items()}


def _over_seeds(
    group: Group, methods: Sequence[str], retention: float, metric: str
) -> dict[Unit, float]:
    several: dict[Unit, list[float]] = {}
    for method in methods:
        for unit, means in group.at(method, retention).items():
            several.setdefault(unit, []).append(means[metric])
    return {unit: known_mean(values) for unit, values in several.items()}


def _metrics(card: Path) -> dict[str, float]:
    """The fidelity that a fit's card states."""
    found = files.read_object(card).get("metrics")
    if not isinstance(found, dict) or not all(isinstance(v, float | int) for v in found.values()):
        raise ConfigError(f"{card}: no numbers as `metrics`; fit the method again")
    return found


def _spread(seeds: list[list[float]]) -> float:
    """Largest difference between two seeds of one variant; NaN if none was trained twice."""
    ranges = [max(values) - min(values) for values in seeds if len(values) > 1]
    return max(ranges, default=math.nan)


def _verdict(difference: float, spread: float, clear: bool, low_is_good: bool) -> Cell:
    """`none` if the interval holds 0 or the difference is no larger than that between seeds."""
    if not clear or math.isnan(spread) or difference == 0:
        return OneOf(("none",))
    side = "better" if (difference < 0) == low_is_good else "worse"
    if math.isclose(abs(difference), spread, rel_tol=1e-9, abs_tol=1e-12):
        return OneOf(("none", side))
    return OneOf((side if abs(difference) > spread else "none",))


def _group(params: Mapping[str, Any], terms: Mapping[str, float]) -> str:
    if not params:
        return "reference"
    if params.keys() != {"weights"}:
        return "+".join(sorted(params))
    used, usual = ({k for k, v in w.items() if v} for w in (params["weights"], terms))
    return "weights" if used == usual else "loss"
