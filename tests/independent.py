"""The report's statistics by another route: exact distributions, fractions and plain loops.

Where `proxykv.report.stats` draws resamples, these enumerate all of them, so the data must be
small: a few contexts a task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from statistics import fmean, variance
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import stdtrit

DRAWS = 2000  # of the bootstrap that is tested
TAIL = 0.025
NEAR = 1e-9  # sums in another order are equal
Tasks = Sequence[Sequence[float]]


class Distribution(NamedTuple):
    """Values of a statistic over all resamples, and how likely each is."""

    values: np.ndarray
    chances: np.ndarray


def mean_of(tasks: Tasks) -> float:
    """Mean over tasks of the mean over contexts."""
    return fmean(map(fmean, tasks)) if tasks else math.nan


def resampled_means(tasks: Tasks) -> Distribution:
    """The stratified mean's exact bootstrap distribution, each task resampled by itself."""
    values, chances = np.zeros(1), np.ones(1)
    for task in tasks:
        drawn, likely = _resamples(len(task))
        means = drawn @ np.array(task) / len(task) / len(tasks)
        values = np.add.outer(values, means).ravel()
        chances = np.multiply.outer(chances, likely).ravel()
    return Distribution(values, chances)


def resampled_ratios(above: Tasks, below: Tasks) -> Distribution:
    """The same for a ratio of two means over the same contexts: pairs stay pairs."""
    top, bottom = resampled_means(above), resampled_means(below)
    return Distribution(top.values / bottom.values, top.chances)


def assert_interval(low: float, high: float, exact: Distribution) -> None:
    """Both ends lie where 2.5 % of all resamples are more extreme, up to 5 errors of sampling."""
    error = 5 * math.sqrt(TAIL * (1 - TAIL) / DRAWS)
    values, chances = exact
    assert chances[values < low - NEAR].sum() <= TAIL + error
    assert chances[values <= low + NEAR].sum() >= TAIL - error
    assert chances[values > high + NEAR].sum() <= TAIL + error
    assert chances[values >= high - NEAR].sum() >= TAIL - error


def sign_flip_p(tasks: Tasks) -> float:
    """Share of all sign vectors whose stratified mean is at least as far from 0, in integers."""
    parts = [
        Fraction(value).limit_denominator(10**6) / (len(task) * len(tasks))
        for task in tasks
        for value in task
    ]
    unit = math.lcm(*(part.denominator for part in parts))
    scaled = [int(part * unit) for part in parts]
    sums = {0: 1}
    for part in scaled:
        flipped: dict[int, int] = {}
        for total, ways in sums.items():
            for end in (total + part, total - part):
                flipped[end] = flipped.get(end, 0) + ways
        sums = flipped
    extreme = sum(ways for total, ways in sums.items() if abs(total) >= abs(sum(scaled)))
    return extreme / 2 ** len(parts)


def holm_by_steps(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p, one at a time: the largest corrected p of all that are no larger."""
    known = sorted(p for p in p_values if not math.isnan(p))
    adjusted = []
    for p in p_values:
        steps = [
            min(1.0, (len(known) - rank) * other) for rank, other in enumerate(known) if other <= p
        ]
        adjusted.append(max(steps) if steps else math.nan)
    return adjusted


def detectable(tasks: Tasks) -> float:
    """Difference found with 80 % power by a two-sided test at 5 %, from variances within tasks."""
    if not tasks or min(map(len, tasks)) < 2:
        return math.nan
    error = math.sqrt(sum(variance(task) / len(task) / len(tasks) ** 2 for task in tasks))
    freedom = sum(map(len, tasks)) - len(tasks)
    return (stdtrit(freedom, 0.975) + stdtrit(freedom, 0.8)) * error or math.nan


def front(points: Iterable[tuple[float, float]]) -> list[bool]:
    """Which (cost, value) points no other one beats."""
    points = list(points)

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return [
        not any(map(math.isnan, one)) and not any(beats(other, one) for other in points)
        for one in points
    ]


def same(value: float) -> object:
    """Equal up to rounding, NaN included."""
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)


def _resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each of n values is drawn in each possible resample, and its probability."""
    counts = [
        [drawn.count(i) for i in range(n)] for drawn in combinations_with_replacement(range(n), n)
    ]
    ways = [math.factorial(n) / math.prod(map(math.factorial, c)) / n**n for c in counts]
    return np.array(counts), np.array(ways)
