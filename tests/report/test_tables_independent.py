"""Every cell of every table, computed a second time: loops over rows, exact distributions."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from statistics import fmean, median
from typing import Any

import pandas as pd
import pytest
from gappy_rows import LINES, RETENTIONS, SCOPES, SIZES, Line
from independent import (
    Distribution,
    assert_interval,
    detectable,
    holm_by_steps,
    mean_of,
    resampled_means,
    resampled_ratios,
    same,
    sign_flip_p,
)
from rows_fixture import cards_of, make_rows

from proxykv.report import tables

Means = dict[tuple[str, str], dict[str, float]]
"""(task, context) -> column -> mean over the questions whose value is known."""

POOLS = {"<=0.3": (0.1, 0.3), "<1": RETENTIONS}
CELL = ("family", "benchmark")


@cache
def table(name: str) -> list[Line]:
    """The table under test, line by line."""
    rows = pd.DataFrame(LINES)
    made = {**tables.TABLES, "costs": tables.costs}[name](rows, cards_of(rows))
    return [{str(k): v for k, v in line.items()} for line in made.to_dict("records")]


def averages(
    keep: Callable[[Line], bool], columns: Iterable[str] = ("score", "kl", "nll", "score_fixed")
) -> Means:
    """Questions of each context averaged, of the rows that are kept."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in LINES:
        if keep(line):
            found.setdefault((line["task"], line["context_id"]), []).append(line)
    return {
        unit: {column: known_mean(line[column] for line in lines) for column in columns}
        for unit, lines in sorted(found.items())
    }


def known_mean(values: Iterable[float | None]) -> float:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return fmean(known) if known else math.nan


def at(cell: tuple[str, str], method: str, retention: float, task: str | None = None) -> Means:
    return averages(
        lambda line: (
            (line["family"], line["benchmark"]) == cell
            and (line["method"], line["retention"]) == (method, retention)
            and task in (None, line["task"])
        )
    )


def oracle(cell: tuple[str, str], retention: float, task: str | None = None) -> Means:
    """KVzip's scores; at retention 1, where nothing is pruned, the full cache's."""
    if not any(at(cell, "kvzip", rho) for rho in RETENTIONS):
        return {}
    return at(cell, "full" if retention == 1 else "kvzip", retention, task)


def by_task(values: dict[tuple[str, str], float]) -> list[list[float]]:
    """Known values, a list for each task."""
    known = {unit: value for unit, value in values.items() if not math.isnan(value)}
    tasks = sorted({task for task, _ in known})
    return [[v for (task, _), v in sorted(known.items()) if task == name] for name in tasks]


def column(means: Means, name: str) -> list[list[float]]:
    return by_task({unit: values[name] for unit, values in means.items()})


def assert_mean(line: Line, name: str, tasks: list[list[float]], ends: str | None = None) -> None:
    low, high = line[f"{ends or name}_low"], line[f"{ends or name}_high"]
    assert line[name] == same(mean_of(tasks)), (name, line)
    assert_ends(low, high, tasks, lambda: resampled_means(tasks))


def assert_ratio(line: Line, pairs: dict[tuple[str, str], tuple[float, float]]) -> None:
    """`recovery` of a line, from (method, oracle) by context."""
    above = by_task({unit: one for unit, (one, _) in pairs.items()})
    below = by_task({unit: other for unit, (_, other) in pairs.items()})
    value = mean_of(above) / mean_of(below) if pairs and mean_of(below) > 0 else math.nan
    assert line["recovery"] == same(value), line
    low, high = line["recovery_low"], line["recovery_high"]
    if math.isnan(value):
        assert math.isnan(low) and math.isnan(high)
    else:
        assert_ends(low, high, above, lambda: resampled_ratios(above, below))


def assert_ends(
    low: float, high: float, tasks: list[list[float]], exact: Callable[[], Distribution]
) -> None:
    if not tasks or min(map(len, tasks)) < 2:
        assert math.isnan(low) and math.isnan(high)
    else:
        assert_interval(low, high, exact())


def cell_of(line: Line) -> tuple[str, str]:
    return line["family"], line["benchmark"]


def keys_of_rows(*columns: str) -> set[tuple[Any, ...]]:
    return {tuple(line[c] for c in columns) for line in LINES}


def keys_of(name: str, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(line[c] for c in columns) for line in table(name)]


def assert_whole(name: str, expected: set[tuple[Any, ...]], *columns: str) -> None:
    """A line for each key, once."""
    keys = keys_of(name, *columns)
    assert set(keys) == expected
    assert len(keys) == len(expected)


# --- leaderboard and tasks ------------------------------------------------------------------------


def test_leaderboard_has_a_line_for_each_method_and_retention():
    by = (*CELL, "method", "scope", "retention")
    assert_whole("leaderboard", keys_of_rows(*by), *by)


def test_every_cell_of_the_leaderboard():
    for line in table("leaderboard"):
        means = at(cell_of(line), line["method"], line["retention"])
        oracle_means = oracle(cell_of(line), line["retention"])
        assert line["n_contexts"] == len(means)
        assert_mean(line, "mean", column(means, "score"), ends="ci")
        assert_mean(line, "kl", column(means, "kl"))
        assert_ratio(line, shared(means, oracle_means))


def shared(means: Means, oracle_means: Means) -> dict[tuple[str, str], tuple[float, float]]:
    """Scores of a method and of KVzip where both have one."""
    units = means.keys() & oracle_means.keys()
    return {unit: (means[unit]["score"], oracle_means[unit]["score"]) for unit in units}


def test_every_cell_of_the_tasks_table():
    by = (*CELL, "task", "method", "scope", "retention")
    assert_whole("per_task", keys_of_rows(*by), *by)
    for line in table("per_task"):
        cell, task = cell_of(line), line["task"]
        means = at(cell, line["method"], line["retention"], task)
        oracle_means = oracle(cell, line["retention"], task)
        assert line["n_contexts"] == len(means)
        assert line["n_questions"] == sum(all(row[c] == line[c] for c in by) for row in LINES)
        assert_mean(line, "mean", column(means, "score"), ends="ci")
        assert_mean(line, "kl", column(means, "kl"))
        assert_mean(line, "nll", column(means, "nll"))
        assert_mean(line, "fixed", [v for v in column(renamed(means), "fixed") if v])
        assert_ratio(line, shared(means, oracle_means))
        full = mean_of(column(at(cell, "full", 1.0, task), "score"))
        share = 100 * mean_of(column(means, "score")) / full if full else math.nan
        assert line["pct_of_full"] == same(share)


def renamed(means: Means) -> Means:
    return {unit: values | {"fixed": values["score_fixed"]} for unit, values in means.items()}


def test_the_rows_try_what_can_go_wrong():
    """Otherwise the tests above prove little."""
    tasks = table("per_task")
    assert any(math.isnan(line["pct_of_full"]) for line in tasks)
    assert any(math.isnan(line["recovery"]) for line in tasks)
    assert any(math.isnan(line["ci_low"]) for line in tasks)
    assert any(line["fixed"] >= 0 for line in tasks)
    assert {line["n_contexts"] for line in tasks} >= {1, 3, 4, 5}
    assert any(line["n_questions"] % line["n_contexts"] for line in tasks)
    assert sum(line["missing"] > 0 for line in table("coverage")) > 3


# --- retentions pooled ----------------------------------------------------------------------------


def pooled(cell: tuple[str, str], method: str, retentions: Iterable[float]) -> Means:
    """Each context's means over the retentions that it has, and KVzip's at the same ones."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for rho in retentions:
        oracle_means = oracle(cell, rho)
        for unit, values in at(cell, method, rho).items():
            other = oracle_means.get(unit, {}).get("score", math.nan)
            above = math.nan if math.isnan(other) else values["score"]
            found.setdefault(unit, []).append(values | {"above": above, "below": other})
    return {
        unit: {name: known_mean(one[name] for one in several) for name in several[0]}
        for unit, several in found.items()
    }


def test_every_cell_of_the_summary():
    by = (*CELL, "pool", "method", "scope")
    pruned = {key for key in keys_of_rows(*CELL, "method", "scope") if key[2] != "full"}
    assert_whole("summary", {(*key[:2], p, *key[2:]) for key in pruned for p in POOLS}, *by)
    for line in table("summary"):
        means = pooled(cell_of(line), line["method"], POOLS[line["pool"]])
        assert line["n_contexts"] == len(means)
        assert_mean(line, "mean", column(means, "score"), ends="ci")
        assert_mean(line, "kl", column(means, "kl"))
        assert_ratio(
            line,
            {u: (v["above"], v["below"]) for u, v in means.items() if not math.isnan(v["below"])},
        )


# --- paired differences ---------------------------------------------------------------------------


def differences(
    cell: tuple[str, str], reference: str, retentions: Iterable[float], metric: str
) -> list[list[float]]:
    """ProxyKV minus the reference in each context, a list for each task."""
    return by_task(gaps_of(cell, reference, retentions, metric))


def gaps_of(
    cell: tuple[str, str], reference: str, retentions: Iterable[float], metric: str
) -> dict[tuple[str, str], float]:
    """ProxyKV minus the reference, averaged in a context over retentions that both have."""
    found: dict[tuple[str, str], list[float]] = {}
    for rho in retentions:
        ours, theirs = at(cell, "proxykv", rho), at(cell, reference, rho)
        for unit in ours.keys() & theirs.keys():
            found.setdefault(unit, []).append(ours[unit][metric] - theirs[unit][metric])
    return {unit: known_mean(values) for unit, values in found.items()}


def of_line(line: Line) -> list[list[float]]:
    retentions = POOLS.get(line["retention"]) or (float(line["retention"]),)
    return differences(cell_of(line), line["reference"], retentions, line["metric"])


def test_every_pair_is_there():
    references = SCOPES.keys() - {"proxykv", "random"}  # random is no method's reference
    expected = {
        (*cell, metric, "proxykv", reference, retention)
        for cell in SIZES
        for metric in ("score", "kl")
        for reference in references
        for retention in ("<=0.3", "0.1", "0.3", "0.5")
        if differences(cell, reference, (0.1, 0.3, 0.5), "score")
    }
    by = (*CELL, "metric", "method", "reference", "retention")
    assert_whole("paired", expected, *by)


def test_every_difference_interval_p_and_detectable_effect():
    for line in table("paired"):
        tasks = of_line(line)
        assert line["n_contexts"] == sum(map(len, tasks))
        assert line["difference"] == same(mean_of(tasks))
        assert_ends(line["ci_low"], line["ci_high"], tasks, lambda t=tasks: resampled_means(t))
        assert line["p"] == same(sign_flip_p(tasks)), line
        assert line["mde"] == same(detectable(tasks))


def test_p_is_corrected_over_the_references_where_pooled_and_over_the_retentions_elsewhere():
    lines = table("paired")
    families: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        compared = "pooled" if line["retention"] == "<=0.3" else line["reference"]
        families.setdefault((*cell_of(line), line["metric"], compared), []).append(line)
    for family in families.values():
        corrected = holm_by_steps([line["p"] for line in family])
        assert [line["p_holm"] for line in family] == [same(p) for p in corrected]
    assert any(line["p_holm"] > line["p"] for line in lines)
    # A family is all references (5 here), or all retentions (3).
    assert {len(family) for family in families.values()} == {3, 4, 5}


def test_each_group_of_comparisons_is_corrected_alone():
    methods = ("kvzip", "proxykv", "snapkv")
    rows = make_rows(tasks=("single",), contexts=8, questions=1, methods=methods)
    alone = tables.paired(rows, cards_of(rows))
    more = [{"group": "more", "pairs": [["kvzip", "snapkv"]]}]
    both = tables.paired(rows, cards_of(rows, comparisons=more))
    main = both[both.group != "more"].reset_index(drop=True)
    pd.testing.assert_frame_equal(main, alone)
    pooled = both[(both.group == "more") & (both.retention == "<=0.3")]
    assert (pooled.p_holm == pooled.p).all()
    assert (pooled.p_holm < 0.5).any()


# --- by length ------------------------------------------------------------------------------------


def length_classes(cell: tuple[str, str]) -> dict[int, set[tuple[str, str]]]:
    """Contexts by the rounded median of the lengths of their class."""
    contexts = {
        (line["task"], line["context_id"]): line["context_tokens"]
        for line in LINES
        if cell_of(line) == cell
    }
    found: list[list[tuple[int, tuple[str, str]]]] = []
    for tokens, unit in sorted((tokens, unit) for unit, tokens in contexts.items()):
        if not found or tokens > 1.2 * found[-1][-1][0]:
            found.append([])
        found[-1].append((tokens, unit))
    return {
        round(median(tokens for tokens, _ in several)): {unit for _, unit in several}
        for several in found
    }


def test_every_cell_of_the_differences_by_length():
    expected: dict[tuple[Any, ...], list[list[float]]] = {}
    for cell in SIZES:
        for reference in SCOPES.keys() - {"proxykv", "random"}:
            gaps = gaps_of(cell, reference, POOLS["<=0.3"], "score")
            for tokens, units in length_classes(cell).items():
                tasks = by_task({unit: gap for unit, gap in gaps.items() if unit in units})
                if tasks:
                    expected[*cell, "proxykv", reference, tokens] = tasks
    by = (*CELL, "method", "reference", "tokens")
    assert_whole("by_length", set(expected), *by)
    assert {key[-1] for key in expected} == {102, 105, 400, 490}
    for line in table("by_length"):
        tasks = expected[tuple(line[c] for c in by)]
        assert line["n_contexts"] == sum(map(len, tasks))
        assert line["difference"] == same(mean_of(tasks))
        assert_ends(line["ci_low"], line["ci_high"], tasks, lambda t=tasks: resampled_means(t))
        assert line["p"] == same(sign_flip_p(tasks)), line
        assert line["mde"] == same(detectable(tasks))


def test_p_is_corrected_over_the_lengths_of_a_comparison():
    comparisons: dict[tuple[str, ...], list[Line]] = {}
    for line in table("by_length"):
        comparisons.setdefault((*cell_of(line), line["reference"]), []).append(line)
    for lines in comparisons.values():
        corrected = holm_by_steps([line["p"] for line in lines])
        assert [line["p_holm"] for line in lines] == [same(p) for p in corrected]
    assert {len(lines) for lines in comparisons.values()} >= {2, 3}


# --- costs and coverage ---------------------------------------------------------------------------


def test_every_cost():
    by = (*CELL, "method", "scope", "retention")
    assert_whole("costs", keys_of_rows(*by), *by)
    for line in table("costs"):
        means = averages(
            lambda row, line=line: all(row[c] == line[c] for c in by),
            ("score", "kv_bytes", "prefill_seconds", "score_seconds", "operations"),
        )
        assert line["operations"] == same(mean_of(column(means, "operations")))
        assert line["score"] == same(mean_of(column(means, "score")))
        assert line["kv_bytes"] == same(mean_of(column(means, "kv_bytes")))
        seconds = [mean_of(column(means, f"{part}_seconds")) for part in ("prefill", "score")]
        assert line["seconds"] == same(sum(seconds))


def test_quality_and_cost_of_each_method():
    by = (*CELL, "method", "scope")
    costs = {tuple(line[c] for c in (*by, "retention")): line for line in table("costs")}
    pooled = {
        tuple(line[c] for c in by): line for line in table("summary") if line["pool"] == "<=0.3"
    }
    lines = table("quality_cost")
    assert {tuple(line[c] for c in by) for line in lines} == set(pooled)
    for line in lines:
        key = tuple(line[c] for c in by)
        low = [costs[(*key, rho)] for rho in RETENTIONS if rho <= 0.3 and (*key, rho) in costs]
        bare = next(c for k, c in costs.items() if k[:2] == key[:2] and k[-1] == 1)
        for cost, ratio in (("seconds", "seconds_per_prefill"), ("operations", "prefills")):
            mean_cost = sum(point[cost] for point in low) / len(low)
            assert line[cost] == same(mean_cost)
            assert line[ratio] == same(mean_cost / bare[cost])
        for name in ("mean", "recovery", "recovery_low", "kl", "kl_high", "n_contexts"):
            assert line[name] == same(pooled[key][name])


def test_every_count_of_coverage():
    expected = {}
    for cell, tasks in SIZES.items():
        methods = {row["method"] for row in LINES if cell_of(row) == cell}
        for task in tasks:
            for method in methods:
                for rho in (1.0,) if method == "full" else RETENTIONS:
                    key = (*cell, task, method, rho)
                    rows = [
                        row
                        for row in LINES
                        if (*cell_of(row), row["task"], row["method"], row["retention"]) == key
                    ]
                    there = len({row["context_id"] for row in rows})
                    expected[key] = {
                        "contexts": there,
                        "expected": tasks[task],
                        "missing": tasks[task] - there,
                        "questions": len(rows),
                        "truncated": sum(row["truncated"] for row in rows),
                    }
    by = (*CELL, "task", "method", "retention")
    assert_whole("coverage", set(expected), *by)
    for line in table("coverage"):
        counts = expected[tuple(line[c] for c in by)]
        assert {name: line[name] for name in counts} == counts


# --- cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["score", "kl"])
def test_a_pooled_difference_compares_the_same_retentions(metric: str):
    """Equal methods do not differ, although one context of KVzip lacks 0.1 and one of ours 0.3."""
    lines = [
        line | {metric: line["retention"]}
        for line in LINES
        if cell_of(line) == ("a", "x") and line["method"] in ("proxykv", "kvzip")
    ]
    rows = pd.DataFrame(lines)
    made = tables.paired(rows, cards_of(rows))
    low = made[(made.metric == metric) & (made.retention == "<=0.3")]
    assert low.difference.tolist() == [0.0]


def test_recovery_of_a_benchmark_does_not_depend_on_the_others_of_the_run():
    """KVzip ran on a: on b, which lacks it, nothing recovers any share of it."""
    board = [line for line in table("leaderboard") if line["family"] == "b"]
    assert board and all(math.isnan(line["recovery"]) for line in board)
