"""Common words extraction: the ten most frequent words of a numbered list."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from proxykv.benchmarks.ruler.corpora import Words
from proxykv.benchmarks.ruler.sample import Sample

COMMON = 10
SHORT = 4096  # tokens; shorter prompts repeat words less often
BEFORE = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)
QUESTION = "\nQuestion: What are the 10 most common words in the above list?"
ANSWER_START = " Answer: The top 10 words that appear most often in the list are:"


@dataclass(frozen=True)
class Repeats:
    """How many times the list holds a word.

    Attributes:
        common: times for each common word.
        other: times for each other word.
    """

    common: int
    other: int


class CommonWords:
    """Draws prompts, each after a worked example. Size: different words of the list."""

    def __init__(self, length: int, words: Words) -> None:
        """Choose the numbers of repetitions.

        Args:
            length: tokens of prompt and answer.
            words: what lists are drawn from.
        """
        self.sizes = range(COMMON, words.most + 1)
        self._words = words
        short = length < SHORT
        self._repeats = Repeats(6, 1) if short else Repeats(30, 3)
        self._shot_repeats = Repeats(3, 1) if short else Repeats(10, 3)
        self._shot_size = 20 if short else 40

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """See `Maker.draw`."""
        listed, common = self._list(self._shot_size, self._shot_repeats, rng)
        shot = f"{BEFORE}{listed}{QUESTION}{ANSWER_START} {numbered(common)}\n"
        listed, common = self._list(size, self._repeats, rng)
        return Sample(shot + BEFORE + listed, QUESTION, ANSWER_START, tuple(common))

    def _list(self, size: int, repeats: Repeats, rng: random.Random) -> tuple[str, list[str]]:
        drawn = self._words.draw(size, rng)
        common, others = drawn[:COMMON], drawn[COMMON:]
        words = common * repeats.common + others * repeats.other
        rng.shuffle(words)
        return numbered(words), common


def numbered(words: Iterable[str]) -> str:
    """The words as a numbered list: `1. first 2. second …`."""
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))
