"""The verdict in words: sentences that follow from the tables, and from nothing else.

A difference counts if its Holm-corrected permutation test is significant at the 5 % level.
Otherwise the sentence says "no difference found", always with the effect that the sample could have
found.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from proxykv.config.cards import Card, MethodCards
from proxykv.report import wording
from proxykv.report.tables.columns import CELL, LOW, LOW_RETENTION

LOW_WORDS = f"ρ ≤ {LOW_RETENTION}"
FLOOR = 0.05  # an oracle below this leaves nothing to recover


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict.

    Attributes:
        tone: "headline", "good", "tie", "bad", "warning" or "note".
        text: the sentence.
    """

    tone: str
    text: str


def verdicts(tables: dict[str, pd.DataFrame], methods: MethodCards) -> dict[str, list[Finding]]:
    """Findings per `family · benchmark`.

    Args:
        tables: those of `proxykv.report.tables`, by name.
        methods: cards of the run's methods.
    """
    result = {}
    for key, _ in tables["leaderboard"].groupby(CELL):
        cell = {
            name: table[(table[CELL] == list(key)).all(axis=1)] for name, table in tables.items()
        }
        result[" · ".join(map(str, key))] = list(_Verdict(cell, methods).findings())
    return result


class _Verdict:
    """One family and benchmark: its part of the tables, and who plays which role."""

    def __init__(self, cell: dict[str, pd.DataFrame], methods: MethodCards) -> None:
        self.cell, self.methods = cell, methods
        self.subject, self.oracle = methods.only("subject"), methods.only("oracle")
        self.name, self.oracle_name = methods.label("subject"), methods.label("oracle")
        self.methods_run = set(cell["leaderboard"].method)
        self.low = cell["summary"][cell["summary"].pool == LOW].set_index("method")

    def findings(self) -> Iterator[Finding]:
        """All of them: the subject against the others, then what limits the comparison."""
        if self.subject not in self.methods_run:
            yield Finding("warning", f"There are no {self.name} rows: nothing to judge.")
        else:
            yield from self._premise()
            yield from self._unneeded()
            yield from self._against_oracle()
            yield from self._against_controls()
            yield from self._where_controls_suffice()
            yield from self._crossed()
            yield from self._needed()
            yield from self._against_rivals()
        yield from self._floors()
        yield from _size(self.cell)
        yield from self._gaps()

    def _premise(self) -> Iterator[Finding]:
        """Whether the proxy's mask is as good as the target's own, at each length."""
        for _, line in self.cell["premise"].iterrows():
            target_mask, proxy_mask = (
                self.methods.card(m).label for m in (line.method, line.reference)
            )
            yield Finding(*wording.premise(line, target_mask, proxy_mask))

    def _unneeded(self) -> Iterator[Finding]:
        """Parts of the subject that another method does without and is not found to be worse."""
        for method, card in self.methods.cards.items():
            test = self._test(method, LOW) if card.spares else None
            if test is None:
                continue
            better = self._where_better(method)
            outcome = wording.outcome(test)
            if outcome == "below":
                part = wording.capital(card.spares)
                said = f"{part} is not needed here: {card.label} scores higher"
                yield Finding(
                    "bad",
                    f"{said} without it at {LOW_WORDS}: difference, {self.name} minus "
                    f"{card.label}, {wording.difference(test)}. {self._costs(method)}",
                )
            elif outcome == "tie":
                said = f"{wording.capital(card.spares)} was not shown to be needed"
                where = f" At {better} {card.label} scores higher." if better else ""
                yield Finding(
                    "tie",
                    f"{said}: no difference between {self.name} and {card.label} was found at "
                    f"{LOW_WORDS}, {wording.difference(test)}. {wording.power(test)}{where} "
                    f"{self._costs(method)}",
                )
            elif better:
                yield Finding(
                    "warning",
                    f"At {better} {card.spares} is not needed: {card.label} scores "
                    f"higher without it. {self._costs(method)}",
                )

    def _needed(self) -> Iterator[Finding]:
        """Parts of the subject that another method does without, and is worse."""
        for method, card in self.methods.cards.items():
            test = self._test(method, LOW) if card.spares else None
            if test is not None and wording.outcome(test) == "above":
                yield Finding(
                    "good",
                    f"{wording.capital(card.spares)} is needed: {self.name} beats {card.label} at "
                    f"{LOW_WORDS}, difference {wording.difference(test)}. {self._costs(method)}",
                )

    def _costs(self, method: str) -> str:
        """What a request of the subject and of a method takes, in target prefills."""
        spent = self.cell["quality_cost"].drop_duplicates("method").set_index("method").prefills
        rival_cost, subject_cost = spent[method], spent[self.subject]
        return (
            f"By counted operations it costs {rival_cost:.2f} target prefills, {self.name} "
            f"{subject_cost:.2f}."
        )

    def _where_better(self, reference: str) -> str:
        """Retentions and lengths at which a method scores higher than the subject; may be empty."""
        table = self.cell["by_length"]
        tests = table[(table.method == self.subject) & (table.reference == reference)]
        lengths = [f"{t.tokens:,}" for _, t in tests.iterrows() if wording.outcome(t) == "below"]
        places = {"ρ =": self._retentions(reference, "below"), "about": lengths}
        found = [f"{word} {', '.join(where)}" for word, where in places.items() if where]
        return " and at ".join(found) + " tokens" * bool(lengths)

    def _retentions(self, reference: str, *outcomes: str) -> list[str]:
        """Retentions at which the subject's test against a method comes out so, as text."""
        tests = self._tests(reference, "score")
        tests = tests[tests.retention != LOW].drop_duplicates("retention")
        tests = tests.sort_values("retention", key=pd.to_numeric)
        return [str(t.retention) for _, t in tests.iterrows() if wording.outcome(t) in outcomes]

    def _against_oracle(self) -> Iterator[Finding]:
        if self.oracle not in self.methods_run:
            yield Finding("warning", f"{self.oracle_name} was not run: recovery is undefined.")
            return
        test = self._test(self.oracle, LOW)
        if self.subject not in self.low.index or test is None:
            yield Finding(
                "warning",
                f"{self.name} and {self.oracle_name} were not compared at {LOW_WORDS}.",
            )
            return
        subject = self.low.loc[self.subject]
        recovery = (
            f"{self.name} recovers {wording.percent(subject.recovery)} of {self.oracle_name}'s "
            f"score at {LOW_WORDS} ({wording.recovery_interval(subject)})"
            if pd.notna(subject.recovery)
            else f"Recovery at {LOW_WORDS} is undefined ({self.oracle_name}'s mean is 0)"
        )
        outcome = {
            "tie": f"no difference found from {self.oracle_name}: a tie at this sample size. "
            f"{wording.power(test)}",
            "above": f"significantly above {self.oracle_name}.",
            "below": f"significantly below {self.oracle_name}.",
        }[wording.outcome(test)]
        yield Finding("headline", f"{recovery}: {outcome}")
        pair = f"{self.name} − {self.oracle_name}"
        yield Finding("note", f"Paired score difference, {pair}: {wording.difference(test)}.")
        kl = self._test(self.oracle, LOW, "kl")
        if kl is not None:
            yield self._by_kl(kl)

    def _by_kl(self, test: pd.Series) -> Finding:
        outcome = wording.outcome(test)
        claim = {
            "below": f"{self.name} is closer to the full cache than {self.oracle_name}",
            "above": f"{self.name} is farther from the full cache than {self.oracle_name}",
            "tie": f"no difference between {self.name} and {self.oracle_name} was found",
        }[outcome]
        return Finding(
            {"below": "good", "above": "bad", "tie": "tie"}[outcome],
            f"By KL divergence {claim} at {LOW_WORDS}: {self.low.loc[self.subject].kl:.3f} against "
            f"{self.low.loc[self.oracle].kl:.3f} nats per token, difference "
            f"{wording.difference(test)}.",
        )

    def _against_controls(self) -> Iterator[Finding]:
        known = {**self.methods.cards, **self.methods.absent}
        absent = [
            card.label
            for role in ("control", "crossed")
            for method, card in known.items()
            if card.role == role and method not in self.methods_run
        ]
        if absent:
            yield Finding(
                "warning",
                f"Not run: {'; '.join(absent)}. "  # labels contain commas
                "Without its controls a high recovery proves little.",
            )
        for control, card in self._of("control"):
            test = self._test(control, LOW)
            if test is None:
                continue
            outcome = wording.outcome(test)
            verb = {"above": "beats", "below": "is worse than", "tie": "does not beat"}[outcome]
            tone = {"above": "good", "below": "bad", "tie": "warning"}[outcome]
            power = f" {wording.power(test)}" if outcome == "tie" else ""
            yield Finding(
                tone,
                f"{self.name} {verb} “{card.label}” at {LOW_WORDS}: difference "
                f"{wording.difference(test)}.{power}",
            )

    def _where_controls_suffice(self) -> Iterator[Finding]:
        for control, card in self._of("control"):
            tied = self._retentions(control, "tie", "below")
            if tied:
                yield Finding(
                    "warning",
                    f"At ρ = {', '.join(tied)} no advantage over {card.about} was found: "
                    f"{card.shows}.",
                )

    def _crossed(self) -> Iterator[Finding]:
        mean = self.low["mean"]
        crossed = self._of("crossed")
        if not crossed or not {self.subject, self.oracle, *(m for m, _ in crossed)} <= set(
            mean.index
        ):
            return
        parts = [f"{card.about} score {mean[m]:.2f} ({card.shows})" for m, card in crossed]
        yield Finding(
            "note",
            f"Head allocation or token choice? At {LOW_WORDS} {self.oracle_name} scores "
            f"{mean[self.oracle]:.2f} and {self.name} {mean[self.subject]:.2f}; "
            f"{', and '.join(parts)}.",
        )

    def _against_rivals(self) -> Iterator[Finding]:
        verbs = {"above": "beats", "below": "is worse than", "tie": "does not differ visibly from"}
        tones = {"above": "good", "below": "bad", "tie": "tie"}
        for rival, card in self._of("rival"):
            test = None if card.spares else self._test(rival, LOW)
            if test is None:
                continue
            outcome = wording.outcome(test)
            result = f"{self.name} {verbs[outcome]} {card.label} at {LOW_WORDS}"
            yield Finding(tones[outcome], f"{result}: difference {wording.difference(test)}.")

    def _floors(self) -> Iterator[Finding]:
        board = self.cell["leaderboard"]
        full = board[board.retention == 1]["mean"]
        if full.empty:
            yield Finding("warning", "The full cache was not run: there is no ceiling.")
        elif full.iloc[0] < 0.2:
            yield Finding("warning", f"The full cache itself scores only {full.iloc[0]:.2f}.")
        low = board[(board.method == self.oracle) & (board["mean"] < FLOOR)].retention
        if len(low):
            yield Finding(
                "warning",
                f"{self.oracle_name} is at the floor at ρ = {wording.numbers(low)}: recovery there "
                "divides by a value close to 0.",
            )
        for floor, card in self._of("floor") if len(full) and full.iloc[0] > 0 else ():
            chance = board[board.method == floor].set_index("retention")["mean"]
            easy = chance[chance >= 0.95 * full.iloc[0]].index
            if len(easy):
                yield Finding(
                    "warning",
                    f"“{card.label}” keeps 95 % of the full score at ρ = {wording.numbers(easy)}: "
                    "these retentions do not tell methods apart.",
                )

    def _gaps(self) -> Iterator[Finding]:
        coverage = self.cell["coverage"]
        missing, cut = int(coverage.missing.sum()), int(coverage.truncated.sum())
        if missing:
            ids = coverage[coverage.missing > 0].method.unique()
            some = "; ".join(self.methods.card(method).label for method in ids)
            yield Finding(
                "warning",
                f"{missing} context results are missing ({some}): means over different contexts or "
                "tasks do not compare; paired differences and recovery use shared contexts only.",
            )
        if cut:
            yield Finding("note", f"{cut} answers come from contexts that were truncated to fit.")

    def _of(self, role: str) -> list[tuple[str, Card]]:
        return [(method, self.methods.cards[method]) for method in self.methods.ids(role)]

    def _tests(self, reference: str | None, metric: str) -> pd.DataFrame:
        """Tests of the subject against a reference; the first group of comparisons comes first."""
        table = self.cell["paired"]
        pair = (table.method == self.subject) & (table.reference == reference)
        return table[pair & (table.metric == metric)]

    def _test(
        self, reference: str | None, retention: str, metric: str = "score"
    ) -> pd.Series | None:
        tests = self._tests(reference, metric)
        tests = tests[tests.retention == retention]
        return tests.iloc[0] if len(tests) else None


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
