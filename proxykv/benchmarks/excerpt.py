"""What the report shows of a context: where its answers are, and the tokens around them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from proxykv.benchmarks.examples import Example

LONGEST = 1024
"""Tokens of a context that are shown at most."""

AROUND = 48
"""Tokens that are shown before and after an answer, in a longer context."""


@dataclass(frozen=True)
class Excerpt:
    """Tokens of a context that are shown.

    Attributes:
        pieces: text of each token of the whole context.
        windows: the tokens that are shown, in the order of the text.
        questions: texts of the questions.
        answers: by question, the tokens of each place at which its reference stands in the context;
            also those that are not shown.
    """

    pieces: tuple[str, ...]
    windows: tuple[range, ...]
    questions: tuple[str, ...]
    answers: tuple[tuple[range, ...], ...]

    @property
    def shown(self) -> list[int]:
        """Numbers of the tokens that are shown."""
        return [token for window in self.windows for token in window]

    def record(self) -> dict[str, Any]:
        """The excerpt for a journal: its text, and where the answers are in it, as [first, end)."""
        shown = set(self.shown)
        return {
            "tokens": len(self.pieces),
            "windows": [[w.start, list(self.pieces[w.start : w.stop])] for w in self.windows],
            "questions": list(self.questions),
            "places": [len(places) for places in self.answers],
            "answers": [
                [[p.start, p.stop] for p in places if p.start in shown] for places in self.answers
            ],
        }


def excerpt(example: Example, pieces: Sequence[str]) -> Excerpt:
    """Choose what is shown of a context: all of a short one, else what is around its answers.

    Args:
        example: the context and its questions.
        pieces: text of each token of the context.
    """
    text = "".join(pieces)
    starts = list(accumulate(map(len, pieces), initial=0))[:-1]
    answers = tuple(
        tuple(_tokens(starts, place) for place in places(text, question.references))
        for question in example.questions
    )
    return Excerpt(
        tuple(pieces),
        tuple(_windows(len(pieces), answers)),
        tuple(question.text for question in example.questions),
        answers,
    )


def places(text: str, references: Sequence[str]) -> list[range]:
    """Characters at which an answer stands in a text, word for word but for the case.

    Where no reference stands there as a whole, its parts between commas are looked for.

    Args:
        text: the context.
        references: accepted answers.
    """
    parts = [part for reference in references for part in reference.split(",")]
    return _found(text, references) or _found(text, parts)


def depth(text: str, references: Sequence[str]) -> float | None:
    """Where the only place of an answer begins in a text, from 0 to 1; None for none or several.

    Args:
        text: the context.
        references: accepted answers.
    """
    found = _found(text, references)
    return round(found[0].start / len(text), 4) if len(found) == 1 else None


def _found(text: str, words: Iterable[str]) -> list[range]:
    alternatives = "|".join(re.escape(w.strip()) for w in words if w.strip())
    if not alternatives:
        return []
    pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)
    return [range(*match.span()) for match in pattern.finditer(text)]


def _tokens(starts: Sequence[int], place: range) -> range:
    """The tokens of some characters; the first may begin before them."""
    first = bisect_left(starts, place.start)
    if first == len(starts) or starts[first] > place.start:
        first -= 1
    return range(first, bisect_left(starts, place.stop))


def _windows(tokens: int, answers: Sequence[Sequence[range]]) -> Iterator[range]:
    """All tokens, or those around the answers: first one place of each question, then the next."""
    if tokens <= LONGEST:
        yield range(tokens)
        return
    chosen: set[int] = set()
    rounds = range(max((len(places) for places in answers), default=0))
    for place in (places[i] for i in rounds for places in answers if i < len(places)):
        around = range(max(0, place.start - AROUND), min(tokens, place.stop + AROUND))
        if len(chosen.union(around)) <= LONGEST:
            chosen.update(around)
    numbers = sorted(chosen) or range(LONGEST)
    cuts = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    for first, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
        yield range(numbers[first], numbers[end - 1] + 1)
