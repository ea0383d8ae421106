"""Resamples drawn here: the bootstrap of stratified means, and sign flips of paired differences.

The published intervals and p values are draws, too. So each has a sampling error, and what is drawn
here differs from it by no more than `ERRORS` standard errors of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Tasks = Sequence[Sequence[float]]
"""Values of contexts, a list for each task."""

PUBLISHED_RESAMPLES, PUBLISHED_FLIPS = 2000, 9999  # docs/explanation/statistics.md
RESAMPLES, FLIPS = 10_000, 20_000
TAILS = (0.025, 0.975)
ERRORS = 5.0
IMPOSSIBLE = 1e-6
"""About the chance of an error above `ERRORS` standard errors."""
SEED = 20_261_127
CHUNK = 1000


class Resampled(NamedTuple):
    """A statistic in many resamples.

    Attributes:
        values: the statistic in each resample.
        undefined: chance that it is undefined in a resample.
    """

    values: np.ndarray
    undefined: float = 0.0

    def end(self, tail: float) -> float:
        """The value below which a share `tail` of the resamples is."""
        return float(np.quantile(self.values, tail))

    def may_be_end(self, value: float, near: float, tail: float) -> bool:
        """Whether another bootstrap may have found a value as the end of its interval.

        Args:
            value: the published end.
            near: how far it may be off by rounding.
            tail: share of the resamples below the end.
        """
        below = float(np.mean(self.values < value - near))
        up_to = float(np.mean(self.values <= value + near))
        # Where several resamples are equal, each share between the two may be the tail.
        nearest = min(max(tail, below), up_to)
        return _same_share(tail, PUBLISHED_RESAMPLES, nearest, RESAMPLES)

    @property
    def may_be_undefined(self) -> bool:
        """Whether a bootstrap may hold a resample in which the statistic is undefined."""
        return 1 - (1 - self.undefined) ** PUBLISHED_RESAMPLES > IMPOSSIBLE

    @property
    def may_be_defined(self) -> bool:
        """Whether it may be defined in every resample of a bootstrap."""
        return (1 - self.undefined) ** PUBLISHED_RESAMPLES > IMPOSSIBLE


def resampled_mean(tasks: Tasks) -> Resampled | None:
    """The mean over tasks of the mean over contexts; None if a task has fewer than two contexts."""
    if not tasks or min(map(len, tasks)) < 2:
        return None
    drawn = [_drawn(len(task), i) @ np.array(task) / len(task) for i, task in enumerate(tasks)]
    return Resampled(np.mean(drawn, axis=0))


def resampled_median(values: Sequence[float]) -> Resampled | None:
    """The median of repeats; None if there are fewer than two."""
    n = len(values)
    if n < 2:
        return None
    drawn = np.random.default_rng([SEED, n]).integers(n, size=(RESAMPLES, n))
    return Resampled(np.median(np.array(values)[drawn], axis=1))


def resampled_ratio(above: Tasks, below: Tasks) -> Resampled | None:
    """Resample the ratio of two means over the same contexts. It is undefined where `below` is 0.

    Args:
        above: values of the numerator, a list for each task.
        below: values of the denominator.

    Returns:
        None if a task has fewer than two contexts.
    """
    top, bottom = resampled_mean(above), resampled_mean(below)
    if top is None or bottom is None:
        return None
    zeros = math.prod((task.count(0) / len(task)) ** len(task) for task in map(list, below))
    defined = bottom.values > 0
    return Resampled(top.values[defined] / bottom.values[defined], zeros)


class SignFlips(NamedTuple):
    """Result of a sign-flip test of paired differences.

    Attributes:
        p: share of the sign vectors whose mean is at least as far from 0 as the observed mean.
        exact: whether all sign vectors were tried.
    """

    p: float
    exact: bool

    def may_be(self, p: float) -> bool:
        """Whether another draw may have found this p; an exact one must be the same."""
        if self.exact:
            return math.isclose(p, self.p, rel_tol=1e-5)
        # The published p counts the observed signs as one draw more.
        share = (p * (PUBLISHED_FLIPS + 1) - 1) / PUBLISHED_FLIPS
        return _same_share(share, PUBLISHED_FLIPS, self.p, FLIPS)


def sign_flips(tasks: Tasks) -> SignFlips:
    """Flip the signs of contexts' differences: all ways if they are few, otherwise drawn ones."""
    parts = [value / len(task) / len(tasks) for task in tasks for value in task]
    observed = abs(sum(parts)) - 1e-12  # sums in another order are ties
    if 2 ** len(parts) <= PUBLISHED_FLIPS:
        sums = [0.0]
        for part in parts:
            sums = [total + sign * part for total in sums for sign in (-1, 1)]
        return SignFlips(sum(abs(total) >= observed for total in sums) / len(sums), exact=True)
    weights = np.array(parts)
    chunks = np.split(_signs(len(parts)), FLIPS // CHUNK)  # a chunk at a time, for memory
    extreme = sum(int((np.abs(signs @ weights) >= observed).sum()) for signs in chunks)
    return SignFlips(extreme / FLIPS, exact=False)


def _same_share(one: float, draws: int, other: float, others: int) -> bool:
    """Whether two shares of so many draws may be of one chance, up to `ERRORS` standard errors."""
    chance = (one * draws + other * others + 1) / (draws + others + 2)
    error = math.sqrt(chance * (1 - chance) * (1 / draws + 1 / others)) if 0 < chance < 1 else 0
    return abs(one - other) <= ERRORS * error


@lru_cache(maxsize=32)
def _drawn(n: int, task: int) -> np.ndarray:
    """How often each resample of a task draws each of n contexts: `[RESAMPLES, n]`."""
    drawn = np.random.default_rng([SEED, task, n]).integers(n, size=(RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n), dtype=np.uint16)
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return counts


@lru_cache(maxsize=8)
def _signs(n: int) -> np.ndarray:
    """Drawn sign vectors: `[FLIPS, n]`."""
    return np.random.default_rng([SEED, n]).choice(np.array([-1, 1], np.int8), size=(FLIPS, n))
