"""Samples that are made: for each task its maker, and each sample as large as its length allows."""

from __future__ import annotations

import random
from functools import cache

from tokenizers import Tokenizer

from proxykv.benchmarks.ruler import qa
from proxykv.benchmarks.ruler.corpora import Corpora
from proxykv.benchmarks.ruler.cwe import CommonWords
from proxykv.benchmarks.ruler.fwe import FrequentWords
from proxykv.benchmarks.ruler.niah import SETTINGS, Filler
from proxykv.benchmarks.ruler.sample import Maker, Sample, largest_size
from proxykv.benchmarks.ruler.vt import Chain
from proxykv.runtime.errors import ConfigError


class Made:
    """Samples of one task; none has more than `most` tokens, whatever its length should be."""

    def __init__(
        self, task: str, texts: Corpora, tokenizer: Tokenizer, seed: int, most: int
    ) -> None:
        self._task, self._texts, self._tokenizer = task, texts, tokenizer
        self._key, self._most = f"{seed}/ruler/{task}", most
        self._maker = cache(self._new_maker)

    def take(self, length: int, index: int) -> Sample:
        """Sample number `index` of a length; ConfigError if it cannot be made."""

        def draw(size: int) -> Sample:
            return maker.draw(index, size, random.Random(f"{self._key}/{length}/{index}"))

        try:
            maker = self._maker(length)
            room = min(length, self._most)
            return draw(largest_size(draw, maker.sizes, self._tokenizer, room))
        except ConfigError as error:
            raise ConfigError(f"ruler/{self._task} of {length} tokens: {error}") from error

    def _new_maker(self, length: int) -> Maker:
        task, texts = self._task, self._texts
        if task in SETTINGS:
            in_essay = SETTINGS[task].haystack == "essay"
            return Filler(SETTINGS[task], texts.words, texts.essays if in_essay else None)
        makers = {
            "vt": lambda: Chain(self._tokenizer, f"{self._key}/shot"),
            "cwe": lambda: CommonWords(length, texts.words),
            "fwe": lambda: FrequentWords(length),
            "qa_1": lambda: qa.squad(texts.squad),
            "qa_2": lambda: qa.hotpotqa(texts.hotpotqa),
        }
        return makers[task]()
