"""What a benchmark is, and how its examples are made and checked.

A benchmark is one module or folder of `proxykv/benchmarks/`, found by its name:

    TASKS   a dict, written out in the module or imported from another module, with a row for
            every task: `Task(max_new_tokens=…)` or a class that derives from `Task`;
    build   makes the examples of a task;
    grade   scores one answer.

`proxykv check` and every run verify this before any job starts (`proxykv.config.benchmarks`), and
the data step verifies what `build` returns (`make`). So nothing is found after model work.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Protocol, cast

from proxykv.benchmarks.examples import Example, Question
from proxykv.config.benchmarks import Task
from proxykv.runtime.errors import ConfigError

__all__ = ["Benchmark", "Example", "Question", "Task", "load", "make"]


class Benchmark(Protocol):
    """The contract that a benchmark's module satisfies."""

    TASKS: Mapping[str, Task]

    def build(self, task: str, **options: Any) -> list[Example]:
        """Make the examples of a task.

        A `build` names the keywords that it needs. It may name what a run offers: `tokenizer` (the
        target's), `seed`, `split` ("eval" or "train"), `max_context` (tokens that the target may
        see) and `downloads` (a folder). A config gives `contexts`, `lengths` and the benchmark's
        own `options`, which are checked against the annotations.

        Args:
            task: a key of `TASKS`.
            options: see above.

        Returns:
            Contexts and, apart from them, their questions. Each context has another id.

        Raises:
            ConfigError: if a source or a record cannot be used.
        """
        ...

    def grade(self, task: str, prediction: str, question: Question) -> dict[str, float]:
        """Score one answer.

        Args:
            task: a key of `TASKS`.
            prediction: what the model wrote.
            question: the question that it answers.

        Returns:
            `score` in [0, 1], and `score_fixed` where the published metric has mistakes.
        """
        ...


def load(name: str) -> Benchmark:
    """The benchmark of a name that a checked config holds."""
    return cast(Benchmark, importlib.import_module(f"proxykv.benchmarks.{name}"))


def make(
    name: str, task: str, *, offered: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Example]:
    """Build the examples of a task and check them.

    Args:
        name: of the benchmark.
        task: one of its tasks.
        offered: arguments that are passed if the benchmark's `build` names them.
        options: arguments that are always passed.

    Returns:
        The examples.

    Raises:
        ConfigError: if a context is empty, a question is incomplete or cannot be graded, or two
            examples have the same id.
    """
    benchmark = load(name)
    taken = {k: v for k, v in offered.items() if k in signature(benchmark.build).parameters}
    examples = benchmark.build(task, **taken, **options)
    _check_ids(f"{name}/{task}", examples)
    for example in examples:
        if not example.context.strip():
            raise ConfigError(
                f"{name}/{task}: example {example.id} has an empty context, of which nothing can "
                "be pruned; correct the record, or raise `max_context`"
            )
        for number, question in enumerate(example.questions, start=1):
            where = f"{name}/{task}: example {example.id}, question {number}"
            _check_question(where, question)
            _check_grade(where, benchmark, task, question)
    return examples


def _check_ids(where: str, examples: Sequence[Example]) -> None:
    """Refuse an id that two examples share: rows are matched to their references by id."""
    if not examples:
        raise ConfigError(f"{where}: the benchmark made no example; see its sources and `contexts`")
    first: dict[str, int] = {}
    for number, example in enumerate(examples, start=1):
        if (other := first.setdefault(example.id, number)) != number:
            raise ConfigError(
                f"{where}: examples {other} and {number} have the same id {example.id!r}; "
                "give each another id"
            )


def _check_question(where: str, question: Question) -> None:
    references = question.references
    if not isinstance(references, tuple) or not references:
        raise ConfigError(f"{where}: `references` must be a tuple of at least one text")
    for reference in references:
        if not isinstance(reference, str) or not reference.strip():
            raise ConfigError(f"{where}: reference {reference!r} must be a text that is not empty")
    if question.max_new_tokens < 1:
        raise ConfigError(f"{where}: `max_new_tokens` is {question.max_new_tokens}; give 1 or more")


def _check_grade(where: str, benchmark: Benchmark, task: str, question: Question) -> None:
    """Grade the first reference, so that a question that cannot be graded is found here."""
    try:
        scores = dict(benchmark.grade(task, question.references[0], question))
        right = all(0 <= scores[name] <= 1 for name in {"score", *scores})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except Exception as error:
        raise ConfigError(
            f"{where}: its reference cannot be graded ({type(error).__name__}: {error}); "
            "correct the record, or `grade`"
        ) from error
    if not right or not scores.keys() <= {"score", "score_fixed"}:
        raise ConfigError(
            f"{where}: `grade` gave {scores}; give `score`, and `score_fixed` if there is one, "
            "in [0, 1]"
        )
