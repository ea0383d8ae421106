"""The verdict in words: sentences that follow from the tables, and from nothing else.

A difference is called one if its Holm-corrected permutation test says so at the 5 % level;
otherwise it is "no difference found", always with the effect that the sample could have found.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from proxykv.report.cells import number
from proxykv.report.plots import looks
from proxykv.report.tables import CELL, CONTROLS, FULL, LOW, LOW_RETENTION, ORACLE, RIVALS, SUBJECT

ALPHA = 0.05
LOW_WORDS = f"ρ ≤ {LOW_RETENTION}"
FLOOR = 0.05  # an oracle below this leaves nothing to recover
# ProxyKV claims to beat these; crossed ones explain.
TELLING_CONTROLS = ("prior", "prior_mean", "proxykv_shuffled")


@dataclass(frozen=True)
class Finding:
    """One sentence; `tone` is headline, good, tie, bad, warning or note."""

    tone: str
    text: str


def verdicts(tables: dict[str, pd.DataFrame]) -> dict[str, list[Finding]]:
    """Findings per `family · benchmark`, from the tables of `proxykv.report.tables` by name."""
    result = {}
    for key, _ in tables["leaderboard"].groupby(CELL):
        cell = {
            name: table[(table[CELL] == list(key)).all(axis=1)] for name, table in tables.items()
        }
        result[" · ".join(map(str, key))] = list(_findings(cell))
    return result


def _findings(cell: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    methods = set(cell["leaderboard"].method)
    if SUBJECT not in methods:
        yield Finding("warning", "There are no ProxyKV rows: nothing to judge.")
    else:
        yield from _against_oracle(cell, methods)
        yield from _against_controls(cell, methods)
        yield from _where_controls_suffice(cell)
        yield from _crossed(cell)
        yield from _against_rivals(cell)
    yield from _floors(cell["leaderboard"])
    yield from _size(cell)
    yield from _gaps(cell["coverage"])


def _against_oracle(cell: dict[str, pd.DataFrame], methods: set[str]) -> Iterator[Finding]:
    if ORACLE not in methods:
        yield Finding("warning", "KVzip was not run: recovery is undefined.")
        return
    low = cell["summary"][cell["summary"].pool == LOW].set_index("method")
    test = _test(cell, ORACLE, LOW)
    if SUBJECT not in low.index or test is None:
        yield Finding("warning", f"ProxyKV and KVzip share no context at {LOW_WORDS}.")
        return
    ours = low.loc[SUBJECT]
    recovery = (
        f"ProxyKV recovers {_percent(ours.recovery)} of KVzip's score at {LOW_WORDS} "
        f"({_recovery_interval(ours)})"
        if pd.notna(ours.recovery)
        else f"Recovery at {LOW_WORDS} is undefined (KVzip's mean is 0)"
    )
    outcome = {
        "tie": f"no difference found from KVzip: a tie at this sample size. {_power(test)}",
        "above": "significantly above KVzip.",
        "below": "significantly below KVzip.",
    }[_outcome(test)]
    yield Finding("headline", f"{recovery}: {outcome}")
    yield Finding("note", f"Paired score difference, ProxyKV − KVzip: {_difference(test)}.")
    kl = _test(cell, ORACLE, LOW, "kl")
    if kl is not None:
        outcome = _outcome(kl)
        claim = {
            "below": "ProxyKV is closer to the full cache than KVzip",
            "above": "ProxyKV is farther from the full cache than KVzip",
            "tie": "no difference between ProxyKV and KVzip was found",
        }[outcome]
        yield Finding(
            {"below": "good", "above": "bad", "tie": "tie"}[outcome],
            f"By KL divergence {claim} at {LOW_WORDS}: {ours.kl:.3f} against "
            f"{low.loc[ORACLE].kl:.3f} nats per token, difference {_difference(kl)}.",
        )


def _against_controls(cell: dict[str, pd.DataFrame], methods: set[str]) -> Iterator[Finding]:
    absent = [c for c in CONTROLS if c not in methods]
    if absent:
        names = "; ".join(_name(c) for c in absent)  # labels hold commas
        yield Finding(
            "warning", f"Not run: {names}. Without its controls a high recovery proves little."
        )
    for control in TELLING_CONTROLS:
        test = _test(cell, control, LOW)
        if test is None:
            continue
        outcome = _outcome(test)
        verb = {"above": "beats", "below": "is worse than", "tie": "does not beat"}[outcome]
        tone = {"above": "good", "below": "bad", "tie": "warning"}[outcome]
        power = f" {_power(test)}" if outcome == "tie" else ""
        yield Finding(
            tone,
            f"ProxyKV {verb} “{_name(control)}” at {LOW_WORDS}: difference "
            f"{_difference(test)}.{power}",
        )


def _where_controls_suffice(cell: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    what = {
        "prior": "the static head prior, which sees no proxy at all,",
        "prior_mean": "each head's mean score, which sees no proxy at all,",
        "proxykv_shuffled": "the mapper fed another context's proxy scores",
    }
    meaning = {
        "prior": "accuracy there does not prove token choice, only a good split among heads",
        "prior_mean": "accuracy there does not prove token choice, only a good split among heads",
        "proxykv_shuffled": "what the proxy knows of this context does not show in accuracy there",
    }
    score = cell["paired"][(cell["paired"].metric == "score") & (cell["paired"].retention != LOW)]
    for control in TELLING_CONTROLS:
        tests = score[score.reference == control].sort_values("retention", key=pd.to_numeric)
        calibrated = [str(t.retention) for _, t in tests.iterrows() if _outcome(t) != "above"]
        if calibrated:
            yield Finding(
                "warning",
                f"At ρ = {', '.join(calibrated)} no advantage over {what[control]} was found: "
                f"{meaning[control]}.",
            )


def _crossed(cell: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    low = cell["summary"][cell["summary"].pool == LOW].set_index("method")["mean"]
    if not {*CONTROLS[2:], SUBJECT, ORACLE} <= set(low.index):
        return
    yield Finding(
        "note",
        f"Head allocation or token choice? At {LOW_WORDS} KVzip scores {low[ORACLE]:.2f} and "
        f"ProxyKV {low[SUBJECT]:.2f}; KVzip's per-head budgets filled with ProxyKV's tokens score "
        f"{low['cross_kvzip_budget']:.2f} (what ProxyKV's tokens are worth), and the prior's "
        f"budgets filled with KVzip's tokens {low['cross_prior_budget']:.2f} (what a fixed split "
        "among heads costs).",
    )


def _against_rivals(cell: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    verbs = {"above": "beats", "below": "is worse than", "tie": "does not differ visibly from"}
    tones = {"above": "good", "below": "bad", "tie": "tie"}
    for rival in RIVALS:
        test = _test(cell, rival, LOW)
        if test is None:
            continue
        outcome = _outcome(test)
        said = f"ProxyKV {verbs[outcome]} {_name(rival)} at {LOW_WORDS}"
        yield Finding(tones[outcome], f"{said}: difference {_difference(test)}.")


def _floors(board: pd.DataFrame) -> Iterator[Finding]:
    full = board[board.method == FULL]["mean"]
    if full.empty:
        yield Finding("warning", "The full cache was not run: there is no ceiling to compare with.")
    elif full.iloc[0] < 0.2:
        yield Finding("warning", f"The full cache itself scores only {full.iloc[0]:.2f}.")
    oracle = board[(board.method == ORACLE) & (board["mean"] < FLOOR)].retention
    if len(oracle):
        yield Finding(
            "warning",
            f"KVzip is at the floor at ρ = {_numbers(oracle)}: recovery there divides by next to "
            "nothing.",
        )
    random = board[board.method == "random"].set_index("retention")["mean"]
    if len(full) and full.iloc[0] > 0:
        easy = random[random >= 0.95 * full.iloc[0]].index
        if len(easy):
            yield Finding(
                "warning",
                f"Random pruning keeps 95 % of the full score at ρ = {_numbers(easy)}: "
                "these retentions do not tell methods apart.",
            )


def _size(cell: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    contexts = cell["leaderboard"].n_contexts.max()
    tasks = cell["per_task"].task.nunique()
    sizes = cell["per_task"].groupby("task").n_contexts.max()
    alone = list(sizes.index[sizes == 1])
    single = f" A single context, so no interval: {', '.join(alone)}." if alone else ""
    yield Finding(
        "note",
        f"Sample: {contexts} contexts over {tasks} task{'s' if tasks != 1 else ''}. Contexts, not "
        f"questions, are resampled.{single}",
    )


def _gaps(coverage: pd.DataFrame) -> Iterator[Finding]:
    missing, cut = int(coverage.missing.sum()), int(coverage.truncated.sum())
    if missing:
        some = "; ".join(_name(m) for m in coverage[coverage.missing > 0].method.unique())
        yield Finding(
            "warning",
            f"{missing} context results are missing ({some}): means over different contexts or "
            "tasks do not compare; paired differences and recovery use shared contexts only.",
        )
    if cut:
        yield Finding("note", f"{cut} answers come from contexts that were truncated to fit.")


def _test(
    cell: dict[str, pd.DataFrame], reference: str, retention: str, metric: str = "score"
) -> pd.Series | None:
    table = cell["paired"]
    wanted = (
        (table.reference == reference) & (table.retention == retention) & (table.metric == metric)
    )
    return table[wanted].iloc[0] if wanted.any() else None


def _outcome(test: pd.Series) -> str:
    """Above, below or tie: the sign of a difference that is significant."""
    if not test.p_holm < ALPHA:
        return "tie"
    return "above" if test.difference > 0 else "below"


def _difference(test: pd.Series) -> str:
    interval = "no interval"
    if pd.notna(test.ci_low):
        interval = f"95 % CI {_signed(test.ci_low)} to {_signed(test.ci_high)}"
    return (
        f"{_signed(test.difference)} ({interval}; p {_p(test.p_holm)}; {test.n_contexts} contexts)"
    )


def _power(test: pd.Series) -> str:
    if pd.isna(test.mde):
        return "The sample is too small or too uniform to say what it could have found."
    return (
        f"With {test.n_contexts} contexts only a true difference of {test.mde:.3f} or more would "
        "be found with 80 % power (before correction), so a smaller one is not excluded."
    )


def _p(p: float) -> str:
    return "undefined" if pd.isna(p) else f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def _signed(value: float) -> str:
    return number(value, sign=True)


def _recovery_interval(summary: pd.Series) -> str:
    if pd.isna(summary.recovery_low):
        return "no interval"
    return f"95 % CI {_percent(summary.recovery_low)} to {_percent(summary.recovery_high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _name(method: str) -> str:
    return looks([method])[method].label


def _numbers(retentions: pd.Series | pd.Index) -> str:
    return ", ".join(f"{rho:g}" for rho in sorted(retentions))
