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
    """Samples of one task."""

    def __init__(self, task: str, source: Mapping[str, Any]) -> None:
        """Read nothing yet.

        Args:
            task: its name.
            source: where the tables are (see `read_records`).
        """
        self._task, self._source = task, source
        self._samples = cache(self._read)

    def take(self, length: int, index: int) -> Sample:
        """Take a sample.

        Args:
            length: name of the table.
            index: of the sample among those of the task.

        Raises:
            ConfigError: if the table has no such sample.
        """
        samples = self._samples(length)
        if index >= len(samples):
            raise ConfigError(
                f"samples {dict(self._source)}: {len(samples)} of task {self._task!r} in {length}; "
                "set `contexts` to what there is"
            )
        return samples[index]

    def _read(self, length: int) -> list[Sample]:
        records = read_records(self._source, str(length), SAMPLE, IDENTITY)
        return [_sample(one) for one in records if one["task"] == self._task]


def _sample(one: Mapping[str, Any]) -> Sample:
    return Sample(
        one["context"],
        one["question"],
        one["answer_prefix"],
        tuple(one["answer"]),
        one["max_new_tokens"],
    )
