"""Samples that are made here, each as large as its length allows."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from tokenizers import Tokenizer

from proxykv.benchmarks.ruler.corpora import Corpora
from proxykv.benchmarks.ruler.sample import Ingredients, Maker, Sample, largest_size
from proxykv.benchmarks.ruler.tasks import TASKS
from proxykv.runtime.errors import ConfigError


class MadeSamples:
    """Makes the samples of one task."""

    def __init__(
        self, task: str, texts: Corpora, tokenizer: Tokenizer, seed: int, most: int
    ) -> None:
        """Store what all samples share.

        Args:
            task: its name.
            texts: what contexts are made of.
            tokenizer: measures prompts.
            seed: of everything random.
            most: the most tokens of a prompt and its answer, at any length.
        """
        self._task, self._texts, self._tokenizer = task, texts, tokenizer
        self._key, self._most = f"{seed}/ruler/{task}", most
        self._maker = cache(self._new_maker)

    def take(self, length: int, index: int) -> Sample:
        """Make sample number `index` of a length.

        Args:
            length: tokens of the prompt and its answer.
            index: of the sample among those of this length.

        Returns:
            The largest sample that fits.

        Raises:
            ConfigError: if none fits, or the sources hold too little.
        """
        answer = TASKS[self._task].max_new_tokens

        def draw(size: int) -> Sample:
            rng = random.Random(f"{self._key}/{length}/{index}")
            return replace(maker.draw(index, size, rng), max_new_tokens=answer)

        try:
            maker = self._maker(length)
            room = min(length, self._most)
            return draw(largest_size(draw, maker.sizes, self._tokenizer, room))
        except ConfigError as error:
            raise ConfigError(f"ruler/{self._task} of {length} tokens: {error}") from error

    def _new_maker(self, length: int) -> Maker:
        row = TASKS[self._task]
        room = length - row.max_new_tokens
        return row.maker(Ingredients(self._texts, self._tokenizer, length, room, self._key))
