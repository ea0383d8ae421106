"""Examples: a context and its questions, kept apart, and their JSONL files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError


@dataclass(frozen=True)
class Question:
    """What follows the context, up to the point where the model answers.

    Attributes:
        text: the question.
        references: accepted answers. NLL and KL are measured along the first one, so it must be
            what the model is expected to write.
        max_new_tokens: the most tokens of the answer.
        answer_start: text that the prompt puts before the answer, after the chat template's
            opening.
        stop: texts that end an answer, which has one token at least.
        meta: what the benchmark's metric needs further.
        history: earlier questions of the same conversation, each with the answer in the prompt.
    """

    text: str
    references: tuple[str, ...]
    max_new_tokens: int
    answer_start: str = ""
    stop: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Example:
    """One context and its questions.

    Attributes:
        id: unique among the examples of the task.
        task: name of the task.
        context: the text whose cache is pruned.
        questions: none if the context only trains a mapper.
        meta: `truncated` says that the context was cut to fit the model.
        chat: False for prompts without a chat template, even if the model has one.
    """

    id: str
    task: str
    context: str
    questions: tuple[Question, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    chat: bool = True


def write_jsonl(path: Path, examples: Iterable[Example]) -> None:
    """Write one example per line; the file appears whole or not at all.

    Args:
        path: the file; its folder is created.
        examples: the examples, in the order of the lines.
    """
    with files.atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
        for example in examples:
            out.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[Example]:
    """Read what `write_jsonl` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: if it is damaged.
    """
    try:
        # "\n" only: texts hold other separators (U+2028) at which str.splitlines would cut.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [_example(json.loads(line)) for line in lines if line]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: damaged ({error!r}); delete it, and the next run makes it again"
        ) from error


def _example(raw: dict[str, Any]) -> Example:
    return Example(**{**raw, "questions": tuple(map(_question, raw["questions"]))})


def _question(raw: dict[str, Any]) -> Question:
    lists = {name: tuple(raw[name]) for name in ("references", "stop")}
    history = tuple((text, answer) for text, answer in raw["history"])
    return Question(**{**raw, **lists, "history": history})
