"""Needles in a haystack: eight tasks that differ in haystack, kind and number of needles."""

from __future__ import annotations

import random
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from proxykv.benchmarks.ruler.corpora import Corpora
from proxykv.benchmarks.ruler.sample import Sample

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = [round(100 * i / 39) for i in range(40)]  # percent of the sentences
BEFORE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n"
)
QUESTION = "\nWhat are all the special magic {kind} for {query} mentioned in the provided text?"
ANSWER_START = " The special magic {kind} for {query} mentioned in the provided text are"
# The same for a single value.
BEFORE_ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n"
)
QUESTION_ONE = "\nWhat is the special magic {kind} for {query} mentioned in the provided text?"
ANSWER_START_ONE = " The special magic {kind} for {query} mentioned in the provided text is"


@dataclass(frozen=True)
class NeedleSettings:
    """What a task hides, and in what.

    Attributes:
        haystack: "noise", "essay" or "needle" (other needles).
        key: kind of the keys: "words" or "uuids".
        value: kind of the values: "numbers" or "uuids".
        keys: number of keys.
        values: number of values of each key.
        queries: number of keys that are asked for.
    """

    haystack: str
    key: str
    value: str
    keys: int
    values: int
    queries: int


class NeedlePrompts:
    """Draws prompts of one task. Size: words of essay, lines of noise, or distractor needles."""

    def __init__(self, settings: NeedleSettings, texts: Corpora) -> None:
        """Prepare the texts.

        Args:
            settings: of the task.
            texts: words and essays.
        """
        self._settings = settings
        self._essays = texts.essays if settings.haystack == "essay" else None
        self.sizes = range(settings.keys * settings.values, sys.maxsize)
        self._random: dict[str, Callable[[random.Random], str]] = {
            "words": texts.words.compound,
            "numbers": lambda rng: str(rng.randint(10**6, 10**7 - 1)),
            "uuids": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        }

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """See `Maker.draw`."""
        facts = [self._fact(rng) for _ in range(self._settings.keys)]
        needles = [self._needle(key, value) for key, values in facts for value in values]
        rng.shuffle(needles)
        text = (self._in_essay if self._essays else self._in_lines)(needles, size, rng)
        queried = rng.sample(facts, self._settings.queries)
        return self._sample(text, queried)

    def _fact(self, rng: random.Random) -> tuple[str, list[str]]:
        key = self._random[self._settings.key](rng)
        return key, [self._random[self._settings.value](rng) for _ in range(self._settings.values)]

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self._settings.value, key=key, value=value)

    def _in_essay(self, needles: list[str], size: int, rng: random.Random) -> str:
        """The first `size` words with needles between sentences, at distinct depths."""
        assert self._essays is not None
        sentences = self._essays.sentences(size)
        depths = sorted(rng.sample(DEPTHS, len(needles)))
        cuts = [0, *(int(len(sentences) * (depth / 100)) for depth in depths)]
        parts = []
        for i, needle in enumerate(needles):
            parts += [" ".join(sentences[cuts[i] : cuts[i + 1]]), needle]
        return " ".join([*parts, " ".join(sentences[cuts[-1] :])])

    def _in_lines(self, needles: list[str], size: int, rng: random.Random) -> str:
        """`size` lines of noise or of other needles, with needles between any of them."""
        lines = [NOISE] * size
        if self._settings.haystack == "needle":
            key, value = self._random[self._settings.key], self._random[self._settings.value]
            lines = [self._needle(key(rng), value(rng)) for _ in range(size)]
        # From the last place to the first, so that none moves another.
        places = sorted(rng.sample(range(size), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)

    def _sample(self, text: str, queried: list[tuple[str, list[str]]]) -> Sample:
        outputs = tuple(value for _, values in queried for value in values)
        keys = [key for key, _ in queried]
        query = ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]
        kind, forms = self._settings.value, (BEFORE, QUESTION, ANSWER_START)
        if len(outputs) == 1:
            kind, forms = kind.removesuffix("s"), (BEFORE_ONE, QUESTION_ONE, ANSWER_START_ONE)
        before, question, start = (form.format(kind=kind, query=query) for form in forms)
        return Sample(before + text, question, start, outputs)
