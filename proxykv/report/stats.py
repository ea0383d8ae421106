"""Statistics of rows: bootstrap intervals, paired tests, detectable effects, Pareto fronts.

The unit of resampling is the *context*: the questions of one context share a pruned cache, so
they are averaged first. Tasks are *strata*: contexts are resampled within their task and every
task weighs the same, so a mean is the mean over tasks of the mean over contexts. Everywhere
below, `strata` is a sequence of 1-D float arrays, one per task, one value per context, in a fixed
order of contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as sps

Strata = Sequence[np.ndarray]
Size = TypeVar("Size", bound=Hashable)

SAMPLES = 2000  # bootstrap resamples
PERMUTATIONS = 9999  # sign flips drawn where 2^n of them are too many to enumerate
CONFIDENCE = 0.95
SEED = 0
SAME = 1e-12  # relative difference up to which two sums are the same number
BATCH = 64  # groups that are resampled at once, which bounds the memory


class Estimate(NamedTuple):
    """A value and the ends of its 95 % confidence interval; NaN where undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(np.nan, np.nan, np.nan)


def stratified_mean(strata: Strata) -> float:
    """Mean over tasks of the mean over contexts; NaN without data."""
    return float(np.mean([values.mean() for values in strata])) if len(strata) else np.nan


def mean_ci(strata: Strata, *, samples: int = SAMPLES, seed: int = SEED) -> Estimate:
    """Stratified mean with its percentile bootstrap interval.

    The interval is NaN where any task has a single context: resampling one value cannot vary, and
    an interval that leaves that task's spread out would be too narrow.

    Args:
        strata: one array of contexts' values per task.
        samples: bootstrap resamples.
        seed: of the resamples.
    """
    return mean_cis([strata], samples=samples, seed=seed)[0]


def mean_cis(
    groups: Sequence[Strata], *, samples: int = SAMPLES, seed: int = SEED
) -> list[Estimate]:
    """`mean_ci` of many groups, computed together: a table has thousands.

    Args:
        groups: strata of each group.
        samples: bootstrap resamples.
        seed: of the resamples.
    """

    def sample(stacked: Strata) -> tuple[np.ndarray, np.ndarray]:
        return _means(stacked), _bootstrap(stacked, samples, seed)

    return _estimates(groups, sample)


def ratio_ci(
    numerators: Strata, denominators: Strata, *, samples: int = SAMPLES, seed: int = SEED
) -> Estimate:
    """Ratio of two stratified means over the same contexts, resampled jointly (pairs stay pairs).

    NaN where the denominator's mean is 0; a NaN interval where it is 0 in any resample, for then
    the ratio is unbounded within sampling error.

    Args:
        numerators: one array of contexts' values per task.
        denominators: values of the same contexts.
        samples: bootstrap resamples.
        seed: of the resamples.
    """
    return ratio_cis([numerators], [denominators], samples=samples, seed=seed)[0]


def ratio_cis(
    numerators: Sequence[Strata],
    denominators: Sequence[Strata],
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
) -> list[Estimate]:
    """`ratio_ci` of many groups, computed together.

    Args:
        numerators: strata of each group.
        denominators: values of the same contexts.
        samples: bootstrap resamples.
        seed: of the resamples.
    """

    def sample(stacked: Strata) -> tuple[np.ndarray, np.ndarray]:
        above, below = stacked[: len(stacked) // 2], stacked[len(stacked) // 2 :]
        mean, drawn = _means(below), _bootstrap(below, samples, seed)
        mean = np.where(mean > 0, mean, np.nan)
        drawn[np.isnan(mean) | (drawn <= 0).any(axis=1)] = np.nan
        return _means(above) / mean, _bootstrap(above, samples, seed) / drawn

    pairs = zip(numerators, denominators, strict=True)
    return _estimates([[*above, *below] for above, below in pairs], sample)


def median_ci(values: np.ndarray, *, samples: int = SAMPLES, seed: int = SEED) -> Estimate:
    """Median of repeats (1-D) with its percentile bootstrap interval.

    The interval is NaN for a single value, everything for none.

    Args:
        values: of the repeats.
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    if not len(values):
        return UNDEFINED
    drawn = np.random.default_rng(seed).integers(0, len(values), (samples, len(values)))
    low, high = _interval(np.median(values[drawn], axis=1), [len(values)])
    return Estimate(float(np.median(values)), float(low), float(high))


def permutation_p(
    differences: Strata, *, permutations: int = PERMUTATIONS, seed: int = SEED
) -> float:
    """Two-sided p of "paired differences are symmetric about 0": signs flipped per context.

    Exact where all 2^n sign vectors are no more than `permutations`; otherwise drawn, with the
    observed one counted (Phipson & Smyth 2010), so that p is never 0. NaN without data.

    Args:
        differences: one array of paired differences per task.
        permutations: the most sign vectors.
        seed: of the drawn sign vectors.
    """
    return permutation_ps([differences], permutations=permutations, seed=seed)[0]


def permutation_ps(
    groups: Sequence[Strata], *, permutations: int = PERMUTATIONS, seed: int = SEED
) -> list[float]:
    """`permutation_p` of many groups, computed together.

    Args:
        groups: paired differences of each group, one array per task.
        permutations: the most sign vectors.
        seed: of the drawn sign vectors.
    """
    found = [np.nan] * len(groups)
    # A context of task t weighs 1 / (tasks * contexts of t) in the stratified mean.
    weighted = [
        np.concatenate([d / (len(d) * len(differences)) for d in differences])
        if differences
        else np.empty(0)
        for differences in groups
    ]
    for n, places in _batches(map(len, weighted)):
        if not n:
            continue
        signs, exact = _signs(n, permutations, seed)
        values = np.stack([weighted[place] for place in places], axis=1)
        # A hair of tolerance: sums in another order must count as ties.
        extreme = (np.abs(signs @ values) >= np.abs(values.sum(axis=0)) - 1e-12).sum(axis=0)
        p = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
        for place, value in zip(places, p, strict=True):
            found[place] = float(value)
    return found


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p values, in the order given; NaN stays NaN and is not counted."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def detectable_effect(differences: Strata, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean difference a two-sided paired test finds with this power.

    (t_{1-alpha/2} + t_{power}) * standard error, from the paired standard deviation within tasks.
    NaN where it cannot be estimated: a task with one context, or differences that do not vary.

    Args:
        differences: one array of paired differences per task.
        alpha: level of the test.
        power: chance to find the effect.
    """
    if not len(differences) or min(len(d) for d in differences) < 2:
        return np.nan
    tasks = len(differences)
    freedom = sum(len(d) for d in differences) - tasks
    error = np.sqrt(sum(d.var(ddof=1) / len(d) for d in differences)) / tasks
    if error == 0:
        return np.nan
    return float((sps.t.ppf(1 - alpha / 2, freedom) + sps.t.ppf(power, freedom)) * error)


def pareto_front(cost: ArrayLike, value: ArrayLike) -> np.ndarray:
    """Which points no other point beats: bool `[points]`, low cost and high value being good.

    A point is dominated if another costs no more and scores no less, and differs in one of the
    two. Numbers that only the order of a sum tells apart are equal. Equal points stand or fall
    together; a point with a NaN is never on the front.

    Args:
        cost: cost of each point.
        value: value of each point.
    """
    c, v = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    same_c, same_v = (np.isclose(a[None], a[:, None], rtol=SAME, atol=0) for a in (c, v))
    no_worse = ((c[None] <= c[:, None]) | same_c) & ((v[None] >= v[:, None]) | same_v)
    return ~(no_worse & ~(same_c & same_v)).any(axis=1) & np.isfinite(c) & np.isfinite(v)


def _estimates(
    groups: Sequence[Strata], sample: Callable[[Strata], tuple[np.ndarray, np.ndarray]]
) -> list[Estimate]:
    """Estimates of groups; those whose tasks have the same sizes share their resamples.

    `sample` takes arrays `[groups, contexts]`, one per task, and gives values `[groups]` and
    resampled values `[groups, samples]`.
    """
    found = [UNDEFINED] * len(groups)
    for sizes, places in _batches(tuple(map(len, strata)) for strata in groups):
        if not sizes:
            continue
        stacked = zip(*(groups[place] for place in places), strict=True)
        values, drawn = sample([np.stack(task) for task in stacked])
        lows, highs = _interval(drawn, sizes)
        for place, *estimate in zip(places, values, lows, highs, strict=True):
            found[place] = Estimate(*map(float, estimate))
    return found


def _batches(sizes: Iterable[Size]) -> Iterator[tuple[Size, list[int]]]:
    """Places of groups of one size, at most `BATCH` at once."""
    alike: dict[Size, list[int]] = {}
    for place, size in enumerate(sizes):
        alike.setdefault(size, []).append(place)
    for size, places in alike.items():
        for start in range(0, len(places), BATCH):
            yield size, places[start : start + BATCH]


def _interval(drawn: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Ends of the interval along the last axis: `[2, ...]`; NaN if a task has a single context."""
    if min(sizes) < 2:
        return np.full((2, *drawn.shape[:-1]), np.nan)
    tail = 50 * (1 - CONFIDENCE)
    return np.percentile(drawn, [tail, 100 - tail], axis=-1)


def _means(stacked: Strata) -> np.ndarray:
    """Stratified means of groups: `[groups]`, from `[groups, contexts]` per task."""
    return np.stack([values.mean(axis=1) for values in stacked], axis=1).mean(axis=1)


def _bootstrap(stacked: Strata, samples: int, seed: int) -> np.ndarray:
    """Stratified means of resamples: `[groups, samples]`, from `[groups, contexts]` per task."""
    means = [
        # A column for each group: a product of matrices would round in another order.
        (_counts(values.shape[1], samples, seed, task) @ values[..., None])[..., 0]
        / values.shape[1]
        for task, values in enumerate(stacked)
    ]
    return np.mean(means, axis=0)


@lru_cache(maxsize=64)
def _counts(n: int, samples: int, seed: int, stratum: int) -> np.ndarray:
    """How often each of n contexts is drawn: `[samples, n]`.

    The draws depend on nothing but their arguments: every method sees the same resamples, which
    is what makes a ratio of two methods a joint bootstrap (and a table fast).
    """
    rng = np.random.default_rng([seed, stratum, n])
    return rng.multinomial(n, np.full(n, 1 / n), size=samples).astype(np.uint16)


@lru_cache(maxsize=8)
def _signs(n: int, permutations: int, seed: int) -> tuple[np.ndarray, bool]:
    """Sign vectors `[flips, n]` and whether they are all there are."""
    if n < 63 and 2**n <= permutations:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return (2 * bits - 1).astype(np.int8), True
    rng = np.random.default_rng([seed, n])
    return rng.choice(np.array([-1, 1], dtype=np.int8), size=(permutations, n)), False
