"""What RULER's contexts are made of: words, essays, and questions with their documents."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypedDict

from proxykv.benchmarks import sources
from proxykv.benchmarks.record_schema import ANY_TEXT, TEXT, list_of, record
from proxykv.benchmarks.records import read_records
from proxykv.config.check import did_you_mean
from proxykv.runtime.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "essays": {
        "hub": "baber/paul_graham_essays",
        "revision": "792d672b77d1a67720f7e9820d646358fc18792e",
    },
    "words": None,
    "squad": {
        "hub": "rajpurkar/squad_v2",
        "revision": "3ffb306f725f7d2ce8394bc1873b24868140c412",
    },
    # Where the authors' download script turns to when HotpotQA's own server does not answer.
    "hotpotqa": {
        "hub": "namlh2004/hotpotqa",
        "revision": "7e54db4656209750ff487f6fdf8e39a66dba136b",
    },
}
NOUNS, ADJECTIVES, VERBS = "nounlist", "adjectivelist", "verblist"

ESSAY = record(text=TEXT)
WORDS = {
    "type": "object",
    "description": "one object {number: word}",
    "minProperties": 1,
    "additionalProperties": TEXT,
}
_ANSWERED = record(
    {"is_impossible": {"type": "boolean", "description": "true or false"}},
    question=TEXT,
    answers=list_of(record(text=TEXT), least=0),
)
_PARAGRAPH = record(context=TEXT, qas=list_of(_ANSWERED, least=0))
SQUAD = {
    "if": {"required": ["data"]},
    "then": record(data=list_of(record(paragraphs=list_of(_PARAGRAPH)))),
    "else": record(
        title=ANY_TEXT,
        context=TEXT,
        question=TEXT,
        answers=record(text=list_of(TEXT, least=0)),
    ),
}
"""SQuAD's own JSON, or a record per question. Questions without an answer have none there."""
HOTPOTQA = record(
    question=TEXT,
    answer=TEXT,
    context=list_of(
        {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "prefixItems": [ANY_TEXT, list_of(ANY_TEXT)],
            "description": "[title, sentences]",
        }
    ),
)


class Texts(TypedDict, total=False):
    """Sources of texts that a config states; `DEFAULTS` has the others.

    Attributes:
        essays: of the essays; may also be a list of `proxykv.benchmarks.sources`.
        words: of the words.
        squad: of SQuAD's questions and documents.
        hotpotqa: of HotpotQA's questions and documents.
    """

    essays: Any
    words: Any
    squad: Any
    hotpotqa: Any


class Corpora:
    """The texts that a config names, or the defaults; each is read when a task needs it."""

    def __init__(self, given: Mapping[str, Any], downloads: str | Path) -> None:
        """Read nothing yet.

        Args:
            given: sources of `essays`, `words`, `squad` and `hotpotqa` (see `read_records`). Essays
                may also be a list of `proxykv.benchmarks.sources`; its eval split is taken.
            downloads: folder of downloaded sources.

        Raises:
            ConfigError: if another text is named.
        """
        for name in given.keys() - DEFAULTS.keys():
            raise ConfigError(f"ruler sources: unknown {name!r}; {did_you_mean(name, DEFAULTS)}")
        self._sources = DEFAULTS | dict(given)
        self._downloads = downloads

    @cached_property
    def words(self) -> Words:
        """Words of the package wonderwords, and many more if there is a source of them."""
        source = self._sources["words"]
        if source is None:
            return Words(())
        tables = read_records(source, "english_words", WORDS)
        return Words(word for table in tables for word in table.values())

    @cached_property
    def essays(self) -> Essays:
        """All essays, one after another."""
        source = self._sources["essays"]
        if isinstance(source, Mapping):
            records = read_records(source, "essays", ESSAY)
            return Essays([record["text"] for record in records])
        documents = sources.load(source, "eval", self._downloads)
        return Essays([document.text for document in documents])

    @cached_property
    def squad(self) -> list[dict[str, Any]]:
        """SQuAD's development set: its own JSON file as one record, or a record per question."""
        return read_records(self._sources["squad"], "squad_v2/validation", SQUAD, ["id"])

    @cached_property
    def hotpotqa(self) -> list[dict[str, Any]]:
        """HotpotQA's development set with distractors."""
        return read_records(
            self._sources["hotpotqa"], "hotpot_dev_distractor_v1", HOTPOTQA, ["_id"]
        )


class Words:
    """English words: those of the package wonderwords, and `many` for contexts that need more."""

    def __init__(self, many: Iterable[str]) -> None:
        self._nouns, self._adjectives, verbs = map(_listed, (NOUNS, ADJECTIVES, VERBS))
        self._few = sorted({*self._nouns, *self._adjectives, *verbs})
        self._many = sorted(set(many))

    @property
    def most(self) -> int:
        """The most different words that there are."""
        return max(len(self._few), len(self._many))

    def compound(self, rng: random.Random) -> str:
        """`adjective-noun`."""
        return f"{rng.choice(self._adjectives)}-{rng.choice(self._nouns)}"

    def draw(self, count: int, rng: random.Random) -> list[str]:
        """Draw different words, from wonderwords if it has enough.

        Args:
            count: how many.
            rng: everything random comes from it.

        Raises:
            ConfigError: if there are too few words.
        """
        if count > self.most:
            raise ConfigError(
                f"{count} different words are needed, there are {self.most}; name the folder of "
                "RULER's english_words.json under `sources`: words: {path: …}"
            )
        return rng.sample(self._few if count <= len(self._few) else self._many, count)


class Essays:
    """Running text, cut to any number of words and split into sentences."""

    def __init__(self, texts: Sequence[str]) -> None:
        import nupunkt  # noqa: PLC0415 (loads a model; grading never needs it)

        text = " ".join(word for text in texts for word in text.split())
        starts = [start for start, _ in nupunkt.load("default").span_tokenize(text)]
        # Never within a word ("2010What"): nor does NLTK's Punkt, which RULER uses.
        starts = [start for start in starts if start == 0 or text[start - 1] == " "]
        cuts = pairwise([*starts, len(text)])
        self._sentences = [text[start:end].strip() for start, end in cuts]
        self._ends = list(accumulate(len(s.split(" ")) for s in self._sentences))

    def sentences(self, words: int) -> list[str]:
        """The sentences of the first `words` words; a text that is too short is repeated."""
        times, rest = divmod(words, self._ends[-1])
        complete = bisect_right(self._ends, rest)
        found = self._sentences * times + self._sentences[:complete]
        started = rest - (self._ends[complete - 1] if complete else 0)
        if started:
            found.append(" ".join(self._sentences[complete].split(" ")[:started]))
        return found


def _listed(name: str) -> list[str]:
    """A word list of wonderwords; several of its lines end in a space."""
    text = (files("wonderwords.assets") / f"{name}.txt").read_text("utf-8")
    return sorted({line.rstrip() for line in text.split("\n") if line.strip()})
