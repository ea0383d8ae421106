"""Ablations: variants of a run's subject, compared with the subject itself.

A variant is a method `{id, base: <the subject>, params}` with the subject's scope, fitted on the
whole corpus. Methods whose parameters differ only in `seed` are one variant, trained several times.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.config.settings.training import default_weights
from proxykv.report.stats import Strata, mean_cis, stratified_mean
from proxykv.report.tables import read_rows
from proxykv.report.tables.columns import CELL, LOW, LOW_RETENTION, UNIT
from proxykv.report.tables.means import context_means
from proxykv.report.tabulate import write_table
from proxykv.runtime.digest import digest

OTHER = {"scope", "corpus", "lengths"}
"""An entry with one of these keys is no variant."""
FIDELITY = ("mass", "allocation", "head_overlap")
COLUMNS = [
    *CELL,
    "group",
    "variant",
    "seeds",
    "metric",
    "retention",
    "mean",
    "ci_low",
    "ci_high",
    "difference",
    "difference_low",
    "difference_high",
    "seed_spread",
    "verdict",
]


@dataclass(frozen=True)
class AblationVariant:
    """One way to train.

    Attributes:
        id: of the first of its methods.
        group: `reference`, `loss` (other terms), `weights` (of all terms), or the parameter that
            differs (`mapper`, `features`, …).
        methods: ids of the methods that are trained so, with different seeds.
    """

    id: str
    group: str
    methods: tuple[str, ...]


def variants(config: Mapping[str, Any], subject: str | None) -> list[AblationVariant]:
    """The subject, then its variants in the config's order; empty if it has none.

    Args:
        config: contents of the run's config.
        subject: id of the subject; None if the run has none.
    """
    entries = [m if isinstance(m, dict) else {"id": m, "base": m} for m in config["methods"]]
    own_entries = [m for m in entries if subject in (m["id"], m["base"]) and not OTHER & m.keys()]
    terms = config.get("training", {}).get("weights", default_weights())
    groups: dict[str, list[tuple[str, str]]] = {}
    for entry in sorted(own_entries, key=lambda m: m["id"] != subject):
        params = {k: v for k, v in entry.get("params", {}).items() if k != "seed"}
        groups.setdefault(digest(params), []).append((entry["id"], _group(params, terms)))
    found = [
        AblationVariant(members[0][0], members[0][1], tuple(name for name, _ in members))
        for members in groups.values()
    ]
    return found if len(found) > 1 and found[0].id == subject else []


def ablations(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> pd.DataFrame:
    """Every variant minus the subject: `score`, `kl` and the fidelity of its mapper.

    `retention` is a number as text, or "<=0.3": retentions up to there averaged in each context.
    Intervals are over contexts, with a variant's seeds averaged first; a difference covers the
    contexts and retentions that both have. Fidelity is measured on the mapper's held-out contexts
    (see `proxykv.mapper.fidelity`) and has no interval. `seed_spread` is the largest difference
    between two seeds of one variant. `verdict` is `none` if the difference is no larger than that,
    or if its interval contains 0. Empty for a run without variants.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run, with its config and fits.
    """
    config = json.loads((run_dir / "config.json").read_text("utf-8"))
    found = variants(config, methods.only("subject"))
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    records = [*_from_rows(context_means(rows, methods), found), *_from_fits(run_dir, found)]
    return pd.DataFrame(records).reindex(columns=COLUMNS)


def write_ablations(rows_paths: Iterable[Path], run_dir: Path) -> list[Path]:
    """Write `tables/ablations` as CSV and LaTeX.

    Args:
        rows_paths: files of rows.
        run_dir: folder of the run.

    Returns:
        The files that were written: none for a run without variants.
    """
    methods = MethodCards.read(run_dir)
    table = ablations(read_rows(rows_paths), methods, run_dir)
    if table.empty:
        return []
    return write_table(run_dir / "tables" / "ablations.csv", table, methods)


def _group(params: Mapping[str, Any], terms: Mapping[str, float]) -> str:
    if not params:
        return "reference"
    if set(params) == {"weights"}:
        used = {name for name, weight in params["weights"].items() if weight}
        return "weights" if used == {name for name, weight in terms.items() if weight} else "loss"
    return "+".join(sorted(params))


def _from_rows(means: pd.DataFrame, found: list[AblationVariant]) -> Iterator[dict[str, Any]]:
    """Each variant minus the subject, over the contexts and retentions that both have."""
    means = means[means.method.isin([m for v in found for m in v.methods])]
    low = means[means.retention <= LOW_RETENTION].assign(label=LOW)
    every = pd.concat([low, means.assign(label=means.retention.map("{:g}".format))])
    compared = [
        dict(zip(CELL, cell, strict=True)) | {"metric": metric, "retention": label} | record
        for (*cell, label), group in every.groupby([*CELL, "label"], sort=False)
        for metric in ("score", "kl")
        for record in _compared(group, found, metric)
    ]
    estimates = mean_cis([record.pop("values") for record in compared])
    differences = mean_cis([record.pop("differences") for record in compared])
    for record, mean, difference in zip(compared, estimates, differences, strict=True):
        spread, lower_is_better = record["seed_spread"], record["metric"] == "kl"
        clear = difference.low > 0 or difference.high < 0
        yield record | {
            "mean": mean.value,
            "ci_low": mean.low,
            "ci_high": mean.high,
            "difference": difference.value,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "verdict": _verdict(difference.value, spread, clear, lower_is_better),
        }


def _compared(
    group: pd.DataFrame, found: list[AblationVariant], metric: str
) -> Iterator[dict[str, Any]]:
    """`values` of a variant's contexts, and their `differences` from the subject's, by task."""
    table = group.pivot(index=[*UNIT, "retention"], columns="method", values=metric)
    by_seed = {v: [m for m in v.methods if m in table] for v in found}
    by_seed = {v: seeds for v, seeds in by_seed.items() if seeds}
    averages = pd.DataFrame({v.id: table[seeds].mean(axis=1) for v, seeds in by_seed.items()})
    contexts = table.groupby(level=UNIT).mean()
    means = averages.groupby(level=UNIT).mean()
    gaps = averages.sub(averages.get(found[0].id, np.nan), axis=0).groupby(level=UNIT).mean()
    spread = _spread(
        [[stratified_mean(_strata(contexts[m])) for m in seeds] for seeds in by_seed.values()]
    )
    for variant, seeds in by_seed.items():
        yield {
            "group": variant.group,
            "variant": variant.id,
            "seeds": len(seeds),
            "seed_spread": spread,
            "values": _strata(means[variant.id]),
            "differences": _strata(gaps[variant.id]),
        }


def _from_fits(run_dir: Path, found: list[AblationVariant]) -> Iterator[dict[str, Any]]:
    for folder in sorted((run_dir / "mappers").glob("*/")):
        cards = {path.parent.name: path for path in folder.glob("*/card.json")}
        fidelity = {
            v.id: [
                json.loads(cards[m].read_text("utf-8"))["metrics"] for m in v.methods if m in cards
            ]
            for v in found
        }
        if not fidelity[found[0].id]:
            continue
        for name in fidelity[found[0].id][0]:
            metric, _, retention = name.partition("@")
            if metric not in FIDELITY:
                continue
            values = {v: [one[name] for one in seeds] for v, seeds in fidelity.items() if seeds}
            spread = _spread(list(values.values()))
            for variant in (v for v in found if v.id in values):
                mean = float(np.mean(values[variant.id]))
                difference = mean - float(np.mean(values[found[0].id]))
                yield {
                    "family": folder.name,
                    "benchmark": "held-out contexts",
                    "group": variant.group,
                    "variant": variant.id,
                    "seeds": len(values[variant.id]),
                    "metric": metric,
                    "retention": retention,
                    "mean": mean,
                    "difference": difference,
                    "seed_spread": spread,
                    "verdict": _verdict(difference, spread, True, False),
                }


def _spread(by_seed: list[list[float]]) -> float:
    """Largest range over seeds of any variant; NaN if none was trained twice."""
    return max((max(v) - min(v) for v in by_seed if len(v) > 1), default=np.nan)


def _verdict(difference: float, spread: float, clear: bool, lower_is_better: bool) -> str:
    if not clear or not abs(difference) > spread:
        return "none"
    return "better" if (difference < 0) == lower_is_better else "worse"


def _strata(contexts: pd.Series) -> Strata:
    """Known values of contexts, one array per task."""
    return [part.to_numpy() for _, part in contexts.dropna().groupby(level="task")]
