"""What a cell of a published table must hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance
from typing import Protocol

from scipy.special import stdtrit

from proxykv.runs.audit.resample import (
    TAILS,
    Resampled,
    SignFlips,
    Tasks,
    resampled_mean,
    resampled_median,
    resampled_ratio,
)

RELATIVE = 1e-5  # tables have six digits
ABSOLUTE = 1e-9


class Cell(Protocol):
    """One recomputed cell; its text is shown with the published one."""

    def agrees(self, published: str) -> bool:
        """Whether the published text may be the cell's value."""
        ...


@dataclass(frozen=True)
class Known:
    """A cell with one possible value.

    Attributes:
        value: a text or a number; NaN is an empty cell.
    """

    value: str | float

    def agrees(self, published: str) -> bool:
        """Whether the text is the same, or the number up to rounding."""
        if isinstance(self.value, str):
            return published == self.value
        found = number(published)
        if found is None or math.isnan(found) or math.isnan(self.value):
            return found is not None and math.isnan(found) and math.isnan(self.value)
        return math.isclose(found, self.value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)

    def __str__(self) -> str:
        """The text or the number."""
        return self.value if isinstance(self.value, str) else f"{self.value:.6g}"


@dataclass(frozen=True)
class OneOf:
    """A cell whose text may depend on rounding.

    Attributes:
        texts: the possible texts.
    """

    texts: tuple[str, ...]

    def agrees(self, published: str) -> bool:
        """Whether it is one of them."""
        return published in self.texts

    def __str__(self) -> str:
        """All that it may be."""
        return " or ".join(self.texts)


@dataclass(frozen=True)
class Between:
    """A number that rounding may change.

    Attributes:
        least: the smallest possible number.
        most: the largest one.
        may_be_empty: whether the cell may hold nothing.
    """

    least: float
    most: float
    may_be_empty: bool = False

    def agrees(self, published: str) -> bool:
        """Whether the number is in the range, up to rounding."""
        found = number(published)
        if found is None or math.isnan(found):
            return found is not None and self.may_be_empty
        return self.least * (1 - RELATIVE) <= found <= self.most * (1 + RELATIVE)

    def __str__(self) -> str:
        """The ends of the range."""
        least, most = f"{self.least:.6g}", f"{self.most:.6g}"
        return least if least == most else f"{least} to {most}"


@dataclass(frozen=True)
class End:
    """One end of a 95 % interval.

    Attributes:
        resampled: the statistic in many resamples; None if the interval is undefined.
        tail: share of the resamples below the end.
    """

    resampled: Resampled | None
    tail: float

    def agrees(self, published: str) -> bool:
        """Whether a bootstrap may have found it."""
        found = number(published)
        if found is None or self.resampled is None or math.isnan(found):
            undefined = self.resampled is None or self.resampled.may_be_undefined
            return found is not None and math.isnan(found) and undefined
        near = RELATIVE * abs(found) + ABSOLUTE
        return self.resampled.may_be_defined and self.resampled.may_be_end(found, near, self.tail)

    def __str__(self) -> str:
        """The end in the resamples drawn here."""
        return f"{self.resampled.end(self.tail):.6g}" if self.resampled else "nan"


@dataclass(frozen=True)
class PValue:
    """The p value of a permutation test.

    Attributes:
        flips: the sign flips made here.
    """

    flips: SignFlips

    def agrees(self, published: str) -> bool:
        """Whether drawn sign flips may have given it."""
        found = number(published)
        return found is not None and self.flips.may_be(found)

    def __str__(self) -> str:
        """The p value of the flips made here."""
        return f"{self.flips.p:.6g}"


def number(text: str) -> float | None:
    """The number of a cell, NaN if it is empty; None if it holds something else."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return None


def mean(tasks: Tasks) -> float:
    """Mean over tasks of the mean over contexts."""
    return fmean(map(fmean, tasks)) if tasks else math.nan


def mean_cells(name: str, tasks: Tasks, ends: str | None = None) -> dict[str, Cell]:
    """A mean with the ends of its interval.

    Args:
        name: column of the mean.
        tasks: values of contexts, a list for each task.
        ends: start of the names of the ends' columns; `name` by default.
    """
    return {name: Known(mean(tasks)), **_ends(ends or name, resampled_mean(tasks))}


def median_cells(name: str, values: Sequence[float], ends: str) -> dict[str, Cell]:
    """A median with the ends of its interval.

    Args:
        name: column of the median.
        values: of the repeats.
        ends: start of the names of the ends' columns.
    """
    middle = median(values) if values else math.nan
    return {name: Known(middle), **_ends(ends, resampled_median(values))}


def ratio_cells(name: str, above: Tasks, below: Tasks) -> dict[str, Cell]:
    """A ratio of two means over the same contexts, with the ends of its interval.

    Args:
        name: column of the ratio.
        above: values of the numerator, a list for each task.
        below: values of the denominator.
    """
    if not below or not mean(below) > 0:
        return {name: Known(math.nan), **_ends(name, None)}
    return {
        name: Known(mean(above) / mean(below)),
        **_ends(name, resampled_ratio(above, below)),
    }


def detectable(differences: Tasks) -> float:
    """True difference that a two-sided test at 5 % finds with 80 % power."""
    if not differences or min(map(len, differences)) < 2:
        return math.nan
    squares = sum(variance(task) / len(task) for task in differences)
    freedom = sum(map(len, differences)) - len(differences)
    error = math.sqrt(squares) / len(differences)
    return float(stdtrit(freedom, 0.975) + stdtrit(freedom, 0.8)) * error or math.nan


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction, one at a time: the largest of the steps up to this p."""
    known = sorted(p for p in p_values if not math.isnan(p))
    corrected = []
    for p in p_values:
        steps = [(len(known) - rank) * other for rank, other in enumerate(known) if other <= p]
        corrected.append(min(1.0, max(steps)) if steps else math.nan)
    return corrected


def _ends(name: str, resampled: Resampled | None) -> dict[str, Cell]:
    low, high = (End(resampled, tail) for tail in TAILS)
    return {f"{name}_low": low, f"{name}_high": high}
