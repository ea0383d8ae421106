"""LongBench's metrics on predictions whose scores are worked out by hand."""

from __future__ import annotations

import pytest

from proxykv.benchmarks import longbench
from proxykv.benchmarks.examples import Question

SCORES = [
    # F1 of words, without case, punctuation and articles; the best answer counts.
    ("narrativeqa", "The Hunter River.", ["hunter river"], 1.0),
    ("hotpotqa", "the long Hunter", ["Hunter River"], 1 / 2),
    ("musique", "", ["Hunter River"], 0.0),
    ("qasper", "Yes", ["no", "yes"], 1.0),
    ("multifieldqa_zh", "归还利息。", ["归还、利息"], 1.0),
    ("multifieldqa_zh", "归还利息", ["支付利息"], 1 / 2),
    # Articles are whole words only, and both precision and recall count.
    ("qasper", "theanatomy", ["anatomy"], 0.0),
    ("narrativeqa", "one two three", ["one"], 1 / 2),
    ("narrativeqa", "one", ["one two three"], 1 / 2),
    ("multifieldqa_zh", "WTO", ["wto"], 1.0),
    # ROUGE-L: the package adds 1e-8 to the denominator.
    ("gov_report", "one two three", ["one two four"], 2 / 3),
    ("qmsum", "", ["anything"], 0.0),
    ("dureader", "归还利息", ["支付利息"], 1 / 2),
    # The first line only, after leading line breaks.
    ("triviaqa", "\n\nParis\nLondon", ["Paris"], 1.0),
    ("triviaqa", "It is\nParis", ["Paris"], 0.0),
    ("samsum", "\none two\nthree", ["one two"], 1.0),
    # Numbers.
    ("passage_count", "There are 7.", ["7"], 1.0),
    ("passage_count", "7 of 12", ["7"], 1 / 2),
    ("passage_count", "7 of 12, so 7", ["7"], 2 / 3),
    ("passage_count", "seven", ["7"], 0.0),
    ("passage_retrieval_en", "Paragraph 7, not 3 or 4", ["Paragraph 7"], 1 / 3),
    ("passage_retrieval_zh", "段落7", ["段落7"], 1.0),
    # The first line without a sign of comment or fence; whole percents.
    ("lcc", "\n```python\n# note\n    return value\nmore", ["    return value"], 1.0),
    ("lcc", "abcd", ["abxd"], 0.75),
    ("lcc", "1, " * 99, ["1, " * 99], 1.0),
    ("repobench-p", "abc", ["abd"], 0.67),
    ("repobench-p", "// nothing else", ["x"], 0.0),
    ("repobench-p", "// x = 1", ["x = 1"], 0.0),
]


@pytest.mark.parametrize(("task", "prediction", "answers", "expected"), SCORES)
def test_score_by_hand(task: str, prediction: str, answers: list[str], expected: float) -> None:
    assert longbench.score(task, prediction, answers) == pytest.approx(expected, abs=1e-7)


LABELS = ["Food", "Fast food", "Date"]
NESTED = ["Fast", "food", "Fast food", "Date"]


@pytest.mark.parametrize(
    ("labels", "prediction", "official", "fixed"),
    [
        (LABELS, "It is Fast food.", 1.0, 1.0),
        (LABELS, "Fast food, or Date", 1 / 2, 1 / 2),
        (LABELS, "Date", 0.0, 0.0),
        (LABELS, "\nDate\nFast food", 0.0, 0.0),
        # "Fast" is removed, and "food" after it stepped over.
        (NESTED, "Fast food", 1 / 2, 1.0),
        (NESTED, "Fast food, or Date", 1 / 3, 1 / 2),
    ],
)
def test_classification_by_hand(
    labels: list[str], prediction: str, official: float, fixed: float
) -> None:
    given = "trec", prediction, ["Fast food"], labels
    assert longbench.score(*given) == official
    assert longbench.score(*given, variant="fixed") == fixed


def deep(calls: int, task: str, prediction: str, answers: list[str]) -> float:
    if calls:
        return deep(calls - 1, task, prediction, answers)
    return longbench.score(task, prediction, answers)


def test_rouge_gives_up_on_long_sentences_and_the_row_says_what_they_score() -> None:
    short, long = ("end" + " x" * words for words in (900, 1100))
    reference = ("end",)
    assert longbench.score("gov_report", short, reference) > 0
    assert deep(500, "gov_report", short, list(reference)) > 0  # whoever calls
    graded = longbench.grade("gov_report", long, Question("", reference, 1))
    assert graded == {"score": 0.0, "score_fixed": pytest.approx(2 / 3)}
    assert longbench.grade("qmsum", "one", Question("", ("one",), 1)) == {
        "score": pytest.approx(1.0),
        "score_fixed": pytest.approx(1.0),
    }
    assert longbench.grade("qasper", "one", Question("", ("one",), 1)) == {"score": 1.0}
