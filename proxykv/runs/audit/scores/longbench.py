"""LongBench's scores a second time."""

from __future__ import annotations

import string
from collections.abc import Sequence

from proxykv.benchmarks.examples import Question
from proxykv.runs.audit.scores.matching import MARKS, f1, in_word, path, similarity

LONGEST_PATH = {"rouge": 990, "rouge_zh": 989}
"""Steps through two sentences from which the official ROUGE-L gives up and counts 0."""

KINDS = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa"), "f1"),
    **dict.fromkeys(("musique", "triviaqa"), "f1"),
    **dict.fromkeys(("gov_report", "qmsum", "multi_news", "samsum"), "rouge"),
    **dict.fromkeys(("dureader", "vcsum"), "rouge_zh"),
    **dict.fromkeys(("trec", "lsht"), "labels"),
    **dict.fromkeys(("passage_count", "passage_retrieval_en", "passage_retrieval_zh"), "number"),
    **dict.fromkeys(("lcc", "repobench-p"), "code"),
    "multifieldqa_zh": "f1_zh",
}
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")


def scores(task: str, text: str, question: Question) -> dict[str, float]:
    """Score an answer.

    Args:
        task: name of the subset.
        text: the model's answer.
        question: the question.

    Returns:
        `score`, and `score_fixed` where the benchmark has it.
    """
    if task in FIRST_LINE:
        while text.startswith("\n"):
            text = text[1:]
        text = text.split("\n", 1)[0]
    kind = KINDS[task]
    pairs = []
    for answer in question.references:
        if kind == "f1":
            both = f1(_english(text), _english(answer)), None
        elif kind == "f1_zh":
            both = f1(_chinese(text), _chinese(answer)), None
        elif kind == "number":
            both = _share_of_numbers(text, answer), None
        elif kind == "code":
            both = similarity(_first_code_line(text), answer), None
        elif kind == "labels":
            both = _labels(text, answer, question.meta["all_classes"])
        else:
            both = _rouge(text, answer, kind)
        pairs.append(both)
    official = {"score": max((official for official, _ in pairs), default=0.0)}
    fixed = [fixed for _, fixed in pairs if fixed is not None]
    return {**official, "score_fixed": max(fixed)} if fixed else official


def _english(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    # An article is a word between characters that are no part of words; a blank takes its place.
    words = "".join(c if in_word(c) else f"\0{c}\0" for c in bare).split("\0")
    return "".join(" " if word in ("a", "an", "the") else word for word in words).split()


def _chinese(text: str) -> list[str]:
    bare = ["".join(c for c in w.lower() if c not in MARKS) for w in _cut(text)]
    return [word for word in ("".join(w.split()) for w in bare) if word]


def _cut(text: str) -> list[str]:
    import jieba  # noqa: PLC0415 (loads a dictionary)

    return list(jieba.cut(text))


def _digits(text: str) -> list[str]:
    return "".join(c if c.isdecimal() else " " for c in text).split()


def _share_of_numbers(text: str, answer: str) -> float:
    numbers, right = _digits(text), _digits(answer)[0] if _digits(answer) else answer
    return sum(number == right for number in numbers) / len(numbers) if numbers else 0.0


def _labels(text: str, answer: str, labels: Sequence[str]) -> tuple[float, float]:
    named = [label for label in labels if text.find(label) >= 0]
    kept = [label for label in named if label == answer or answer.find(label) < 0]
    stepped, i = list(named), 0
    while i < len(stepped):  # the official code steps over the label after one that it drops
        if stepped[i] != answer and answer.find(stepped[i]) >= 0:
            stepped.remove(stepped[i])
        i += 1
    first, second = (1 / len(each) if answer in each else 0.0 for each in (stepped, kept))
    return first, second


def _first_code_line(text: str) -> str:
    while text.startswith("\n"):
        text = text[1:]
    for line in text.split("\n"):
        if "`" not in line and "#" not in line and "//" not in line:
            return line
    return ""


def _rouge(text: str, answer: str, kind: str) -> tuple[float, float]:
    """ROUGE-L over sets of words, as the package `rouge` has it, with and without its limit."""
    if kind == "rouge_zh":
        text, answer = " ".join(_cut(text)), " ".join(_cut(answer))
    found, right = (
        [" ".join(part.split()).split(" ") for part in each.split(".") if part]
        for each in (text, answer)
    )
    if not found or not right:
        return 0.0, 0.0
    union: set[str] = set()
    longest = 0
    for reference in right:
        for sentence in found:
            shared, steps = path(reference, sentence, first=True)
            union |= {reference[i] for i in shared}
            longest = max(longest, steps)
    recall = len(union) / len({word for sentence in right for word in sentence})
    precision = len(union) / len({word for sentence in found for word in sentence})
    score = 2 * precision * recall / (precision + recall + 1e-8)
    return (0.0 if longest > LONGEST_PATH[kind] else score), score
