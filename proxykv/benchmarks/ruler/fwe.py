"""Frequent words extraction: the three most frequent coded words, without the dots (noise).

Frequencies follow a zeta distribution over the ranks of the words.
"""

from __future__ import annotations

import random
import sys
from math import pi
from string import ascii_lowercase

from proxykv.benchmarks.ruler.sample import Sample
from proxykv.runtime.errors import ConfigError

ALPHA = 2.0
ZETA = pi**2 / 6  # Riemann's zeta function at ALPHA
LETTERS = 6
TOKENS_PER_WORD = 50  # of the context, for each word of the vocabulary
ASKED = 3
NOISE = "..."
BEFORE = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. "
)
QUESTION = (
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
ANSWER_START = (
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)


class FrequentWords:
    """Draws prompts. Size: words of the text, before the share of each is rounded down."""

    sizes = range(64, sys.maxsize)  # from 64 on, the three words differ in frequency

    def __init__(self, room: int) -> None:
        """Choose the size of the vocabulary.

        Args:
            room: tokens of the prompt.

        Raises:
            ConfigError: if they are too few for the words that are asked for.
        """
        self._vocabulary = room // TOKENS_PER_WORD
        if self._vocabulary <= ASKED:
            raise ConfigError(f"vocabulary of {self._vocabulary} words, {ASKED + 1} are needed")

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """See `Maker.draw`."""
        coded: set[str] = set()
        while len(coded) < self._vocabulary:
            coded.add("".join(rng.choices(ascii_lowercase, k=LETTERS)))
        ranked = sorted(coded)
        rng.shuffle(ranked)
        ranked[0] = NOISE
        words = []
        for rank, word in enumerate(ranked, start=1):
            words += [word] * int(size * rank**-ALPHA / ZETA)
        rng.shuffle(words)
        outputs = tuple(ranked[1 : 1 + ASKED])
        return Sample(BEFORE + " ".join(words), QUESTION, ANSWER_START, outputs)
