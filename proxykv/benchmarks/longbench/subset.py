"""What one of LongBench's subsets is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxykv.benchmarks.contract import Task
from proxykv.benchmarks.longbench import metrics
from proxykv.benchmarks.record_schema import ANY_TEXT, TEXT, list_of, record, unless_null

DESCRIBING = {
    "length": unless_null({"type": "integer", "minimum": 0, "description": "a number of words"}),
    "dataset": unless_null(ANY_TEXT),
    "language": unless_null(ANY_TEXT),
}
"""Fields of the published records that no prompt and no metric needs."""


@dataclass(frozen=True, kw_only=True)
class Subset(Task):
    """One subset as the official code runs it.

    Attributes:
        group: the official tables' name for tasks of this kind.
        metric: scores a prediction against one answer.
        template: the prompt, with slots {context} and {input}.
        language: of the official tables, where code counts as English.
        chat: whether a chat template is put around the prompt.
        first_line: whether only the answer's first line is scored.
        answer: what an answer in the records is, as a JSON schema.
    """

    group: str
    metric: Callable[..., float]
    template: str
    language: str = "en"
    chat: bool = True
    first_line: bool = False
    answer: Mapping[str, Any] = field(default_factory=lambda: TEXT)

    @property
    def classifies(self) -> bool:
        """Whether an answer is one of the record's labels, `all_classes`."""
        return self.metric is metrics.classification

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of the subset's records, as published."""
        labels = list_of(TEXT)
        if not self.classifies:
            labels = {"type": ["array", "null"], "description": "a list of labels, or null"}
        found = record(
            DESCRIBING,
            input=ANY_TEXT,
            context=TEXT,
            answers=list_of(self.answer),
            all_classes=labels,
            _id=TEXT,
        )
        return found | ({"memberOf": {"answers": "all_classes"}} if self.classifies else {})
