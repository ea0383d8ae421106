"""Predictions that try a metric: right, nearly right, wrong, and odd in every way."""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = (
    *("the", "a", "An", "answer", "is:", "option", "A", "B.", "C", "D)", "Paragraph", "12", "3.5"),
    *("-7", "1,000", "river", "Bank", "don't", "e.g.", "naïve", "#", "//", "```", "x", "=", "foo("),
    *(
        "答案",
        "是",
        "段落",
        "北京",
        "。",
        "，",
        "３",
        "\u200b",
        "İ",
        "ß",
        '"',
        "'",
        "{",
        "}",
        "?",
        "!",
    ),
)
BETWEEN = (" ", "  ", "\n", "\n\n", "\t", ", ", ". ", "")
STARTS = ("", "\n", "\n\n", " ", "The answer is: ", "answer is ", "Answer:", "(", "段落", "```\n")


def predictions(answers: Sequence[str], rng: random.Random, count: int) -> list[str]:
    """Texts around some answers.

    Args:
        answers: right answers, or labels.
        rng: draws.
        count: how many texts.
    """
    return [_text(answers, rng) for _ in range(count)]


def _text(answers: Sequence[str], rng: random.Random) -> str:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(("", " ", "\n", *STARTS))
    answer = rng.choice(answers) if answers else ""
    if kind == 1:
        return answer
    if kind == 2:
        return rng.choice((answer.upper(), answer.lower(), answer.swapcase(), answer[::-1]))
    if kind == 3:
        cut = rng.randrange(len(answer) + 1)
        return answer[:cut] + rng.choice(WORDS) + answer[cut:]
    parts = [rng.choice(WORDS) for _ in range(rng.randrange(1, 12))]
    if kind < 7:
        parts.insert(rng.randrange(len(parts) + 1), answer)
    return rng.choice(STARTS) + "".join(word + rng.choice(BETWEEN) for word in parts)


def words(rng: random.Random, most: int = 8) -> str:
    """A short text."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, most)))
