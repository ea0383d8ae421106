"""Ready samples, as the hub data set simonjegou/ruler holds them: tables named by their length."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from proxykv.benchmarks.record_schema import ANY_TEXT, TEXT, list_of, record
from proxykv.benchmarks.records import read_records
from proxykv.benchmarks.ruler.sample import Sample
from proxykv.runtime.errors import ConfigError

SAMPLE = record(
    context=TEXT,
    question=TEXT,
    answer_prefix=ANY_TEXT,
    answer=list_of(TEXT),
    task=TEXT,
    max_new_tokens={"type": "integer", "minimum": 1, "description": "a number of tokens"},
)

IDENTITY = ("task", "context", "question")
"""The published records have no ids."""


class ReadySamples:
    """Samples of one task, read from `source` (see `read_records`)."""

    def __init__(self, task: str, source: Mapping[str, Any]) -> None:
        self._task, self._source = task, source
        self._of = cache(self._read)

    def take(self, length: int, index: int) -> Sample:
        """Sample number `index` of the table called `length`; ConfigError if there is none."""
        found = self._of(length)
        if index >= len(found):
            raise ConfigError(
                f"samples {dict(self._source)}: {len(found)} of task {self._task!r} in {length}; "
                "set `contexts` to what there is"
            )
        return found[index]

    def _read(self, length: int) -> list[Sample]:
        records = read_records(self._source, str(length), SAMPLE, IDENTITY)
        return [_sample(one) for one in records if one["task"] == self._task]


def _sample(found: Mapping[str, Any]) -> Sample:
    return Sample(
        found["context"],
        found["question"],
        found["answer_prefix"],
        tuple(found["answer"]),
        found["max_new_tokens"],
    )
