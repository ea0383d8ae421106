"""Every published table that follows from rows or measurements, computed again cell by cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from proxykv.config.cards import MethodCards
from proxykv.runs.audit import ablations, efficiency, paper, premise
from proxykv.runs.audit.cells import (
    Cell,
    Known,
    PValue,
    detectable,
    holm,
    mean,
    mean_cells,
    number,
    ratio_cells,
)
from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.means import Group, Means, Row, Unit, by_task, column, groups, known_mean
from proxykv.runs.audit.resample import sign_flips
from proxykv.runs.audit.table_file import Key, Line, Published, compare, key_of, read_table
from proxykv.runtime.errors import ConfigError

LOW = 0.3
POOLS = {"<=0.3": LOW, "<1": math.nextafter(1, 0)}
KEYS = {
    "leaderboard": ("family", "benchmark", "method", "scope", "retention"),
    "per_task": ("family", "benchmark", "task", "method", "scope", "retention"),
    "summary": ("family", "benchmark", "pool", "method", "scope"),
    "quality_cost": ("family", "benchmark", "method", "scope"),
    "paired": ("family", "benchmark", "metric", "group", "method", "reference", "retention"),
    "by_length": ("family", "benchmark", "method", "reference", "tokens"),
    "premise": premise.KEYS,
    "coverage": ("family", "benchmark", "task", "method", "retention"),
    "ablations": ablations.KEYS,
    "paper": paper.KEYS,
    **efficiency.KEYS,
}


def check_tables(rows: list[Row], config: Mapping[str, Any], folder: Path, audit: Audit) -> None:
    """Compare the run's tables with what its rows and measurements give.

    Args:
        rows: all of the run.
        config: of the run.
        folder: the run's folder, with `methods.json` and `tables/`.
        audit: receives counts and findings.
    """
    cards = MethodCards.read(folder)
    found = groups(rows, cards.only("oracle"))
    variants = ablations.variants(config, cards.only("subject"))
    makers: dict[str, Callable[[Published], Iterator[Line]]] = {
        "leaderboard": lambda _: _leaderboard(found),
        "per_task": lambda _: _per_task(found),
        "summary": lambda _: _summary(found),
        "quality_cost": lambda _: _quality_cost(found),
        "paired": lambda published: _paired(found, cards, published),
        "by_length": lambda published: _by_length(found, cards, published),
        "premise": lambda published: premise.lines(found, cards, published),
        "coverage": lambda _: _coverage(found),
    }
    measured = efficiency.measurements(config, folder, audit)
    evidence = paper.Evidence(rows, measured, cards, folder)
    makers["paper"] = lambda published: paper.lines(evidence, published)
    if variants:
        makers["ablations"] = lambda published: ablations.lines(variants, found, folder, published)
    if measured:
        makers["efficiency"] = lambda _: efficiency.cases(measured)
        makers["speedups"] = lambda published: efficiency.speedups(measured, cards, published)
    for name, make in makers.items():
        path = folder / "tables" / f"{name}.csv"
        if not path.is_file():
            audit.say(path, "missing; run `proxykv tabulate`")
            continue
        try:
            published = read_table(path)
            compare(path, KEYS[name], published, make(published), audit)
        except ConfigError as error:
            audit.findings.append(str(error))
    known = {f"{name}.csv" for name in makers}
    others = (folder / "tables").glob("*.csv")
    audit.skipped += sorted(path.name for path in others if path.name not in known)


def _leaderboard(found: list[Group]) -> Iterator[Line]:
    for group in found:
        for (method, scope, retention), means in group.points.items():
            key = (*group.cell, method, scope, f"{retention:g}")
            yield key, _scores(means, _pairs(means, group.oracle_at(retention)))


def _per_task(found: list[Group]) -> Iterator[Line]:
    for group in found:
        questions = Counter(
            (row["task"], row["method"], row["scope"], row["retention"]) for row in group.rows
        )
        for task in sorted({key[0] for key in questions}):
            unpruned = {u: m["score"] for p, units in group.points.items() if p[2] == 1
                        for u, m in units.items() if u[0] == task}  # fmt: skip
            full = mean(by_task(unpruned))
            for (method, scope, retention), every in group.points.items():
                means = {unit: m for unit, m in every.items() if unit[0] == task}
                if not means:
                    continue
                share = mean(column(means, "score")) / full if full > 0 else math.nan
                yield (
                    (*group.cell, task, method, scope, f"{retention:g}"),
                    {
                        **_scores(means, _pairs(means, group.oracle_at(retention))),
                        **mean_cells("nll", column(means, "nll")),
                        **mean_cells("fixed", column(means, "score_fixed")),
                        "n_questions": Known(questions[task, method, scope, retention]),
                        "pct_of_full": Known(100 * share),
                    },
                )


def _summary(found: list[Group]) -> Iterator[Line]:
    for group in found:
        for method, scope in sorted({point[:2] for point in group.points}):
            for pool, limit in POOLS.items():
                if pooled := _pooled(group, method, scope, limit):
                    yield (*group.cell, pool, method, scope), _pooled_scores(pooled)


def _quality_cost(found: list[Group]) -> Iterator[Line]:
    for group in found:
        unpruned = _spent(means for point, means in group.points.items() if point[2] == 1)
        bare = {name: value or math.nan for name, value in unpruned.items()}
        for method, scope in sorted({point[:2] for point in group.points}):
            if pooled := _pooled(group, method, scope, LOW):
                spent = _spent(
                    means
                    for point, means in group.points.items()
                    if point[:2] == (method, scope) and point[2] <= LOW
                )
                yield (
                    (*group.cell, method, scope),
                    {
                        **{name: Known(value) for name, value in spent.items()},
                        "seconds_per_prefill": Known(spent["seconds"] / bare["seconds"]),
                        "prefills": Known(spent["operations"] / bare["operations"]),
                        **_pooled_scores(pooled),
                    },
                )


def _spent(points: Iterable[Means]) -> dict[str, float]:
    """Seconds and operations: means over contexts, then over tasks, then over points."""
    every = list(points)
    names = ("seconds", "operations")
    return {name: known_mean(mean(column(means, name)) for means in every) for name in names}


def _pooled_scores(pooled: Means) -> dict[str, Cell]:
    both = {
        unit: (means["above"], means["below"])
        for unit, means in pooled.items()
        if not math.isnan(means["below"])
    }
    return _scores(pooled, both)


def _pooled(group: Group, method: str, scope: str, limit: float) -> Means:
    """Each context's means over its retentions up to `limit`.

    `above` and `below`: the method's score and the oracle's over the retentions that both have.
    """
    several: dict[Unit, list[dict[str, float]]] = {}
    for (name, its_scope, retention), means in group.points.items():
        if (name, its_scope) == (method, scope) and retention <= limit:
            oracle = group.oracle_at(retention)
            for unit, values in means.items():
                below = oracle.get(unit, math.nan)
                above = math.nan if math.isnan(below) else values["score"]
                several.setdefault(unit, []).append({**values, "above": above, "below": below})
    return {
        unit: {name: known_mean(one[name] for one in values) for name in values[0]}
        for unit, values in several.items()
    }


def _by_length(found: list[Group], cards: MethodCards, published: Published) -> Iterator[Line]:
    corrected = _corrected(published, KEYS["by_length"], lambda key: key[:4])
    comparisons = {pair: None for pairs in cards.comparisons.values() for pair in pairs}
    for group in found:
        classes = premise.length_classes(group)
        low = sorted({point[2] for point in group.points if point[2] <= LOW})
        for method, reference in comparisons if len(classes) > 1 else ():
            gaps = _differences(group, method, reference, "score", low)
            for tokens, units in classes.items():
                tasks = by_task({unit: gap for unit, gap in gaps.items() if unit in units})
                key = (*group.cell, method, reference, str(tokens))
                if tasks:
                    yield key, _tested(tasks, corrected.get(key, math.nan))


def _paired(found: list[Group], cards: MethodCards, published: Published) -> Iterator[Line]:
    corrected = _corrected(published, KEYS["paired"], _corrected_with)
    for name, pairs in cards.comparisons.items():
        for group in found:
            retentions = sorted({point[2] for point in group.points if point[2] < 1})
            pooled = tuple(rho for rho in retentions if rho <= POOLS["<=0.3"])
            limits = {"<=0.3": pooled, **{f"{rho:g}": (rho,) for rho in retentions}}
            for method, reference in pairs:
                for metric in ("score", "kl"):
                    for label, over in limits.items():
                        tasks = by_task(_differences(group, method, reference, metric, over))
                        key = (*group.cell, metric, name, method, reference, label)
                        if tasks:
                            yield key, _tested(tasks, corrected.get(key, math.nan))


def _tested(tasks: list[list[float]], corrected: float) -> dict[str, Cell]:
    return {
        **mean_cells("difference", tasks, ends="ci"),
        "p": PValue(sign_flips(tasks)),
        "p_holm": Known(corrected),
        "mde": Known(detectable(tasks)),
        "n_contexts": Known(sum(map(len, tasks))),
    }


def _differences(
    group: Group, method: str, reference: str, metric: str, retentions: Iterable[float]
) -> dict[Unit, float]:
    """Method minus reference, averaged in a context over the retentions that both have."""
    several: dict[Unit, list[float]] = {}
    for retention in retentions:
        method_means, reference_means = group.at(method, retention), group.at(reference, retention)
        for unit in method_means.keys() & reference_means.keys():
            several.setdefault(unit, []).append(
                method_means[unit][metric] - reference_means[unit][metric]
            )
    return {unit: known_mean(values) for unit, values in several.items()}


def _corrected_with(key: Key) -> Key:
    """Lines of `paired` that are corrected together.

    These are the comparisons of a group at the pool, and the retentions of a comparison elsewhere.
    """
    return (*key[:4], "" if key[-1] == "<=0.3" else " ".join(key[4:6]))


def _corrected(
    published: Published, keys: Sequence[str], together: Callable[[Key], Key]
) -> dict[Key, float]:
    """Holm's correction of the published p values, by line; `together` names what it covers."""
    families: dict[Key, dict[Key, float]] = {}
    for line in published:
        key = key_of(line, keys)
        p = number(line.get("p") or "")
        families.setdefault(together(key), {})[key] = math.nan if p is None else p
    return {
        key: p
        for tests in families.values()
        for key, p in zip(tests, holm(list(tests.values())), strict=True)
    }


def _coverage(found: list[Group]) -> Iterator[Line]:
    unpruned = {row["method"] for group in found for row in group.rows if row["retention"] == 1}
    for group in found:
        methods, retentions = ({row[c] for row in group.rows} for c in ("method", "retention"))
        here: dict[tuple[str, str, float], list[Row]] = {}
        contexts: dict[str, set[str]] = {}
        for row in group.rows:
            here.setdefault((row["task"], row["method"], row["retention"]), []).append(row)
            contexts.setdefault(row["task"], set()).add(row["context_id"])
        for task, method, retention in product(contexts, methods, retentions):
            if (method in unpruned) == (retention == 1):
                answered = here.get((task, method, retention), [])
                done = len({row["context_id"] for row in answered})
                counts = {
                    "contexts": done,
                    "expected": len(contexts[task]),
                    "missing": len(contexts[task]) - done,
                    "questions": len(answered),
                    "truncated": sum(row["truncated"] for row in answered),
                }
                key = (*group.cell, task, method, f"{retention:g}")
                yield key, {name: Known(count) for name, count in counts.items()}


def _scores(means: Means, pairs: Mapping[Unit, tuple[float, float]]) -> dict[str, Cell]:
    """Cells that several tables have; `pairs` holds scores of the method and of the oracle."""
    above, below = (by_task({u: pair[i] for u, pair in pairs.items()}) for i in (0, 1))
    return {
        **mean_cells("mean", column(means, "score"), ends="ci"),
        "n_contexts": Known(len(means)),
        **ratio_cells("recovery", above, below),
        **mean_cells("kl", column(means, "kl")),
        "achieved_retention": Known(mean(column(means, "achieved_retention"))),
    }


def _pairs(means: Means, oracle: Mapping[Unit, float]) -> dict[Unit, tuple[float, float]]:
    return {unit: (m["score"], oracle[unit]) for unit, m in means.items() if unit in oracle}
