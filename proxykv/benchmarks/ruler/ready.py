"""Ready samples, as the hub data set simonjegou/ruler holds them: tables named by their length."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from proxykv.benchmarks.records import read_records
from proxykv.benchmarks.ruler.corpora import checked
from proxykv.benchmarks.ruler.sample import Sample
from proxykv.runtime.errors import ConfigError

FIELDS = ("context", "question", "answer_prefix", "answer", "task", "max_new_tokens")


class Ready:
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
        records = checked(read_records(self._source, str(length)), self._source, *FIELDS)
        return [_sample(record) for record in records if record["task"] == self._task]


def _sample(record: Mapping[str, Any]) -> Sample:
    return Sample(
        record["context"],
        record["question"],
        record["answer_prefix"],
        tuple(record["answer"]),
        record["max_new_tokens"],
    )
