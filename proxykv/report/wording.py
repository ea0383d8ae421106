"""How the verdict words the result of a test."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import pandas as pd

from proxykv.report.cells import number
from proxykv.report.tables.columns import LOW_RETENTION
from proxykv.report.tables.premise import MARGIN

ALPHA = 0.05


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def outcome(test: pd.Series) -> str:
    """Above, below or tie: the sign of a difference that is significant."""
    if not test.p_holm < ALPHA:
        return "tie"
    return "above" if test.difference > 0 else "below"


def difference(test: pd.Series) -> str:
    """A test's difference with interval, p and number of contexts."""
    interval = "no interval"
    if pd.notna(test.ci_low):
        interval = f"95 % CI {signed(test.ci_low)} to {signed(test.ci_high)}"
    return (
        f"{signed(test.difference)} ({interval}; p {_p(test.p_holm)}; {test.n_contexts} contexts)"
    )


def power(test: pd.Series) -> str:
    """What a test that found nothing could have found."""
    if pd.isna(test.mde):
        return "The sample is too small or too uniform to say what it could have found."
    return (
        f"With {test.n_contexts} contexts only a true difference of {test.mde:.3f} or more would "
        "be found with 80 % power (before correction), so a smaller one is not excluded."
    )


def _p(p: float) -> str:
    return "undefined" if pd.isna(p) else f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def signed(value: float) -> str:
    """A number with its sign."""
    return number(value, sign=True)


def recovery_interval(summary: pd.Series) -> str:
    """The interval of a recovery."""
    if pd.isna(summary.recovery_low):
        return "no interval"
    return f"95 % CI {percent(summary.recovery_low)} to {percent(summary.recovery_high)}"


def premise(test: pd.Series, own: str, proxy: str) -> tuple[str, str]:
    """Tone and sentence of a line of the table `premise`.

    Args:
        test: the line.
        own: name of the method that gives the target's own mask.
        proxy: name of the method that gives the proxy's.
    """
    interval = (
        f"95 % CI {number(test.ci_low, 1, sign=True)} to {number(test.ci_high, 1, sign=True)}; "
        f"{test.n_contexts} contexts"
    )
    where = f"at about {test.tokens:,} tokens and ρ ≤ {LOW_RETENTION}"
    gap = (
        f"{own} scores {number(test.points, 1, sign=True)} points ({interval}) against {proxy} "
        f"{where}"
    )
    more = (
        "all contexts differ alike, which says nothing about their spread"
        if test.ci_low == test.ci_high
        else "no number of contexts would decide at this mean"
        if pd.isna(test.n_needed)
        else f"about {test.n_needed:,.0f} contexts would decide at this mean and spread"
    )
    return {
        "falsified": ("bad", f"The premise is falsified: {gap}, more than {MARGIN:g}."),
        "upheld": ("good", f"The premise is upheld: {gap}, less than {MARGIN:g}."),
        "undecided": ("tie", f"The premise is undecided: {gap}; {more}."),
    }[test.outcome]


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def numbers(retentions: pd.Series | pd.Index) -> str:
    """Retentions in order."""
    return ", ".join(f"{rho:g}" for rho in sorted(retentions))
