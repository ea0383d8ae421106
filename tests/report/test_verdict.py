"""Every sentence of the verdict, in all directions, from tables written by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rows_fixture import cards_of, make_rows
from verdict_tables import (
    CARDS,
    NAN,
    OUTCOMES,
    SPARING,
    Line,
    at_length,
    covered,
    low,
    paired,
    point,
    say,
    task,
)

from proxykv.config.cards import Card, MethodCards
from proxykv.report import tables
from proxykv.report.verdict import verdicts

SIZE = (
    "note",
    "Sample: 12 contexts over 2 tasks. Contexts, not questions, are resampled.",
)
NOT_COMPARED = ("warning", "Ours and Oracle were not compared at ρ ≤ 0.3.")
INTERVALS = {
    "above": "+0.123 (95 % CI +0.023 to +0.223; p = 0.050; 21 contexts)",
    "below": "−0.123 (95 % CI −0.223 to −0.023; p = 0.050; 21 contexts)",
    "tie": "+0.123 (95 % CI +0.023 to +0.223; p = 0.050; 21 contexts)",
}
POWER = (
    "With 21 contexts only a true difference of 0.234 or more would be found with 80 % power "
    "(before correction), so a smaller one is not excluded."
)


def test_a_run_without_tests_says_so_and_how_large_it_is():
    assert say() == [NOT_COMPARED, SIZE]


# --- what another method does without -------------------------------------------------------------

COST = "By counted operations it costs 3.00 target prefills, Ours 1.60."


@pytest.mark.parametrize(
    ("method", "part", "label"),
    [("alone", "The proxy", "Local replay"), ("plain", "The mapper", "Plain tokens")],
)
def test_the_verdict_begins_with_what_is_not_needed(method: str, part: str, label: str):
    def first(outcome: str, *more: Line) -> tuple[str, str]:
        return say(paired(method, outcome), *more, paired("best"), methods=SPARING)[0]

    assert first("below") == (
        "bad",
        f"{part} is not needed here: {label} scores higher without it at ρ ≤ 0.3: difference, Ours "
        f"minus {label}, {INTERVALS['below']}. {COST}",
    )
    unknown = (
        f"{part} was not shown to be needed: no difference between Ours and {label} was found at "
        f"ρ ≤ 0.3, {INTERVALS['tie']}. {POWER}"
    )
    assert first("tie") == ("tie", f"{unknown} {COST}")
    higher = paired(method, "below", retention="0.3")
    assert first("tie", higher) == ("tie", f"{unknown} At ρ = 0.3 {label} scores higher. {COST}")
    some = f"At ρ = 0.3 {part.lower()} is not needed: {label} scores higher without it. {COST}"
    assert first("above", higher) == ("warning", some)


def test_the_verdict_begins_with_lengths_at_which_something_is_not_needed():
    """A tie at one length shows nothing; what the whole comparison says stands as it is."""

    def first(outcome: str, *higher: int, also: tuple[Line, ...] = ()) -> tuple[str, str]:
        lengths = [
            *(at_length("alone", tokens, "below") for tokens in higher),
            *(
                at_length("alone", 2000, "tie"),
                at_length("alone", 4000),
                at_length("r1", 9, "below"),
            ),
        ]
        tests = (paired("alone", outcome), *also, paired("best"))
        return say(*tests, methods=SPARING, lengths=lengths)[0]

    assert first("above")[0] == "headline"
    assert first("above", 8000, 16384) == (
        "warning",
        "At about 8,000, 16,384 tokens the proxy is not needed: Local replay scores higher without "
        f"it. {COST}",
    )
    higher = paired("alone", "below", retention="0.1")
    both = "At ρ = 0.1 and at about 8,000 tokens the proxy is not needed: "
    assert first("above", 8000, also=(higher,))[1].startswith(both)
    assert " At about 8,000 tokens Local replay scores higher. " in first("tie", 8000)[1]


def test_what_is_needed_stands_after_the_headline():
    found = say(paired("alone"), paired("best"), methods=SPARING)
    assert found[0][0] == "headline"
    beaten = f"Ours beats Local replay at ρ ≤ 0.3, difference {INTERVALS['above']}. {COST}"
    assert ("good", f"The proxy is needed: {beaten}") in found
    assert sum("Local replay" in text for _, text in found) == 1


# --- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ("above", "significantly above Oracle."),
        ("below", "significantly below Oracle."),
        ("tie", f"no difference found from Oracle: a tie at this sample size. {POWER}"),
    ],
)
def test_the_headline(outcome: str, sentence: str):
    recovery = "Ours recovers 87.7 % of Oracle's score at ρ ≤ 0.3 (95 % CI 80.1 % to 99.9 %)"
    assert say(paired("best", outcome)) == [
        ("headline", f"{recovery}: {sentence}"),
        ("note", f"Paired score difference, Ours − Oracle: {INTERVALS[outcome]}."),
        SIZE,
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"recovery": NAN}, "Recovery at ρ ≤ 0.3 is undefined (Oracle's mean is 0): "),
        (
            {"recovery_low": NAN},
            "Ours recovers 87.7 % of Oracle's score at ρ ≤ 0.3 (no interval): ",
        ),
    ],
)
def test_a_recovery_that_is_unknown(changed: Line, sentence: str):
    found = say(paired("best"), summary=[low("best"), low("ours", **changed)])
    assert found[0] == ("headline", f"{sentence}significantly above Oracle.")


def test_a_comparison_needs_the_methods_where_it_is_made():
    elsewhere = paired("best", retention="0.5")
    assert say(elsewhere)[0] == NOT_COMPARED
    assert say(paired("best"), summary=[low("best")])[0] == NOT_COMPARED
    assert say(paired("best"), summary=[low("ours", pool="<1"), low("best")])[0] == NOT_COMPARED
    assert say(paired("best", metric="kl"))[0] == NOT_COMPARED


def test_a_run_without_oracle_or_subject():
    board = [point("all", 1.0, 0.9), point("ours", 0.3, 0.5)]
    found = say(paired("best"), board=board)
    assert found[0] == ("warning", "Oracle was not run: recovery is undefined.")
    assert not any(tone == "headline" for tone, _ in found)
    board = [point("all", 1.0, 0.9), point("best", 0.3, 0.5), point("r1", 0.3, 0.5)]
    nothing = ("warning", "There are no Ours rows: nothing to judge.")
    assert say(paired("best"), paired("r1"), board=board) == [nothing, SIZE]


@pytest.mark.parametrize(
    ("outcome", "tone", "claim"),
    [
        # A positive difference in KL is a larger distance.
        ("above", "bad", "Ours is farther from the full cache than Oracle"),
        ("below", "good", "Ours is closer to the full cache than Oracle"),
        ("tie", "tie", "no difference between Ours and Oracle was found"),
    ],
)
@pytest.mark.parametrize("by_score", list(OUTCOMES))
def test_kl_is_judged_by_its_own_test(by_score: str, outcome: str, tone: str, claim: str):
    found = say(paired("best", by_score), paired("best", outcome, metric="kl"))
    nats = "at ρ ≤ 0.3: 0.111 against 0.222 nats per token, difference"
    assert found[2] == (tone, f"By KL divergence {claim} {nats} {INTERVALS[outcome]}.")
    assert f": {INTERVALS[by_score]}." in found[1][1]


# --- rivals, controls, crossed controls -----------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "tone", "verb"),
    [
        ("above", "good", "beats"),
        ("below", "bad", "is worse than"),
        ("tie", "tie", "does not differ visibly from"),
    ],
)
@pytest.mark.parametrize(("rival", "label"), [("r1", "First rival"), ("r2", "Second rival")])
def test_each_rival(rival: str, label: str, outcome: str, tone: str, verb: str):
    others = [paired(rival, "above", retention="0.3"), paired(rival, "above", metric="kl")]
    sentence = f"Ours {verb} {label} at ρ ≤ 0.3: difference {INTERVALS[outcome]}."
    assert say(*others, paired(rival, outcome)) == [NOT_COMPARED, (tone, sentence), SIZE]


def test_rivals_in_the_order_of_the_config():
    found = say(paired("r2", "below"), paired("r1", "tie"))
    assert [tone for tone, _ in found] == ["warning", "tie", "bad", "note"]


@pytest.mark.parametrize(
    ("outcome", "tone", "verb", "power"),
    [
        ("above", "good", "beats", ""),
        ("below", "bad", "is worse than", ""),
        ("tie", "warning", "does not beat", f" {POWER}"),
    ],
)
def test_each_control(outcome: str, tone: str, verb: str, power: str):
    for control, label in (("c1", "First control"), ("c2", "Second control")):
        sentence = f"Ours {verb} “{label}” at ρ ≤ 0.3: difference {INTERVALS[outcome]}.{power}"
        assert say(paired(control, outcome)) == [NOT_COMPARED, (tone, sentence), SIZE]


def test_where_a_control_is_not_beaten():
    """Below and tied alike; retentions in order of size; the first group's test counts."""
    tests = [
        paired("c1", "below", retention="0.5"),
        paired("c1", "tie", retention="0.15"),
        paired("c1", "tie", retention="0.1"),
        paired("c1", "above", retention="0.2"),
        paired("c1", "tie", retention="0.2", group="more"),
        paired("c1", "above", retention="0.05", metric="kl"),
        paired("c2", "above", retention="0.1"),
    ]
    sentence = (
        "At ρ = 0.1, 0.15, 0.5 no advantage over a shuffled proxy was found: it proves nothing."
    )
    assert say(*tests) == [NOT_COMPARED, ("warning", sentence), SIZE]


def test_controls_that_were_not_run_are_named():
    board = [point(m, 0.3, 0.5) for m in ("best", "ours", "c1", "x2")] + [point("all", 1, 0.9)]
    absent = {"c3": Card("Third, absent", "control"), "r3": Card("Third rival", "rival")}
    sentence = (
        "Not run: Second control; Third, absent; First crossed. "
        "Without its controls a high recovery proves little."
    )
    methods = MethodCards(CARDS.cards, absent)
    assert say(board=board, methods=methods) == [NOT_COMPARED, ("warning", sentence), SIZE]


def test_crossed_controls_are_named_with_their_own_scores():
    means = {"best": 0.71, "ours": 0.62, "x1": 0.53, "x2": 0.44}
    summary = [low(method, mean) for method, mean in means.items()]
    sentence = (
        "Head allocation or token choice? At ρ ≤ 0.3 Oracle scores 0.71 and Ours 0.62; "
        "one's budgets score 0.53 (what tokens are worth), and "
        "the other's budgets score 0.44 (what a split costs)."
    )
    assert say(summary=summary) == [NOT_COMPARED, ("note", sentence), SIZE]
    for method in means:
        some = [line for line in summary if line["method"] != method]
        assert say(summary=some) == [NOT_COMPARED, SIZE]


# --- what limits the comparison -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "sentence"),
    [
        (0.1999, [("warning", "The full cache itself scores only 0.20.")]),
        (0.2, []),
    ],
)
def test_a_full_cache_that_fails_itself(full: float, sentence: list[tuple[str, str]]):
    board = [point("all", 1.0, full), *(point(m, 0.3, 0.1) for m in CARDS.cards if m != "all")]
    assert say(board=board) == [NOT_COMPARED, *sentence, SIZE]


def test_a_run_without_full_cache():
    board = [point(m, 0.3, 0.5) for m in CARDS.cards if m != "all"]
    sentence = "The full cache was not run: there is no ceiling."
    assert say(board=board) == [NOT_COMPARED, ("warning", sentence), SIZE]


def with_points(method: str, means: dict[float, float], full: float = 0.9) -> list[Line]:
    others = [point(m, 0.3, 0.01) for m in CARDS.cards if m not in ("all", "best", method)]
    if method != "best":
        others.append(point("best", 0.3, 0.5))
    return [point("all", 1.0, full), *others, *(point(method, r, m) for r, m in means.items())]


def test_an_oracle_at_the_floor():
    means = {0.2: 0.0499, 0.05: 0.0, 0.3: 0.05, 0.5: 0.6}
    sentence = (
        "Oracle is at the floor at ρ = 0.05, 0.2: recovery there divides by a value close to 0."
    )
    assert say(board=with_points("best", means)) == [NOT_COMPARED, ("warning", sentence), SIZE]


@pytest.mark.parametrize("full", [1.0, 0.4])
def test_tasks_that_random_pruning_solves(full: float):
    means = {0.5: full, 0.3: 0.951 * full, 0.2: 0.949 * full, 0.1: 0.0}
    sentence = (
        "“Noise” keeps 95 % of the full score at ρ = 0.3, 0.5: "
        "these retentions do not tell methods apart."
    )
    found = say(board=with_points("noise", means, full))
    assert found == [NOT_COMPARED, ("warning", sentence), SIZE]
    assert say(board=with_points("noise", {0.1: 0.5 * full}, full)) == [NOT_COMPARED, SIZE]


def test_nothing_is_easy_where_the_full_cache_scores_zero():
    found = say(board=with_points("noise", {0.1: 0.0}, full=0.0))
    assert found == [NOT_COMPARED, ("warning", "The full cache itself scores only 0.00."), SIZE]


def test_gaps_and_truncated_contexts():
    coverage = [covered("ours", 2, 3), covered("r1"), covered("best", 1), covered("ours", 4, 1)]
    missing = (
        "7 context results are missing (Ours; Oracle): means over different contexts or tasks do "
        "not compare; paired differences and recovery use shared contexts only."
    )
    cut = "4 answers come from contexts that were truncated to fit."
    found = say(coverage=coverage)
    assert found == [NOT_COMPARED, SIZE, ("warning", missing), ("note", cut)]


def test_the_size_of_the_sample():
    note = "Contexts, not questions, are resampled."
    single = say(tasks=[task("one", 1), task("two", 2), task("three", 1), task("one", 1)])
    sentence = (
        f"Sample: 12 contexts over 3 tasks. {note} A single context, so no interval: one, three."
    )
    assert single[-1] == ("note", sentence)
    # A method that lacks contexts of a task does not make the task one of a single context.
    assert say(tasks=[task("one", 1), task("one", 9)])[-1] == (
        "note",
        f"Sample: 12 contexts over 1 task. {note}",
    )


# --- numbers in sentences -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"p_holm": 0.0012}, "; p = 0.001;"),
        ({"p_holm": 0.001}, "; p = 0.001;"),
        ({"p_holm": 0.00099}, "; p < 0.001;"),
        ({"p_holm": NAN}, "; p undefined;"),
        ({"ci_low": NAN, "ci_high": NAN}, "+0.123 (no interval; p = 0.050; 21 contexts)"),
    ],
)
def test_how_p_and_intervals_are_written(changed: Line, sentence: str):
    (text,) = (text for _, text in say(paired("r1", **changed)) if "First rival" in text)
    assert sentence in text


def test_an_undefined_p_is_a_tie_and_an_unknown_power_is_said():
    (_, (tone, text), _) = say(paired("c1", p_holm=NAN, mde=NAN))
    assert tone == "warning"
    assert text.endswith("The sample is too small or too uniform to say what it could have found.")


# --- from rows ------------------------------------------------------------------------------------


def from_rows(*rivals: str) -> list[str]:
    """ProxyKV is better than KVzip by .5 in six contexts, and equal to the rivals."""
    one = make_rows(tasks=("single",), contexts=6, questions=1, methods=(), retentions=())
    scores = {"full": 1.0, "proxykv": 0.75, "kvzip": 0.25, **dict.fromkeys(rivals, 0.75)}
    rows = pd.concat(
        one.assign(
            method=method, score=score, kl=np.nan, retention=1.0 if method == "full" else 0.1
        )
        for method, score in scores.items()
    )
    cards = cards_of(rows)
    made = {name: table(rows, cards) for name, table in tables.TABLES.items()}
    (found,) = verdicts(made, cards).values()
    return [finding.text for finding in found]


def test_more_comparisons_cost_significance():
    """Six equal signs have p = 2/64; two comparisons double it."""
    alone, with_rival = from_rows()[0], from_rows("snapkv")[0]
    assert alone.endswith("significantly above KVzip.")
    assert "no difference found from KVzip" in with_rival
    assert any("p = 0.031; 6 contexts" in text for text in from_rows())
    assert any("p = 0.062; 6 contexts" in text for text in from_rows("snapkv"))
