"""Datasets: the contexts and questions of a task, made for a tokenizer and written as JSONL."""

from __future__ import annotations

from typing import Any

from proxykv.benchmarks import contract
from proxykv.benchmarks.examples import Example, Question, write_jsonl
from proxykv.benchmarks.haystack import count_tokens
from proxykv.config.jobs import Dataset
from proxykv.config.run import Run
from proxykv.model.prompt.tokenizer import continuation, load_tokenizer
from proxykv.runtime.errors import ConfigError


def prepare(run: Run, dataset: Dataset) -> None:
    """Make the examples of a dataset, check them, and write them to its path.

    Args:
        run: has the model whose tokenizer measures contexts.
        dataset: what to make.

    Raises:
        ConfigError: if a source, a record or an example cannot be used.
    """
    # The tokenizer that the target runs with, so that lengths are the model's.
    tokenizer = load_tokenizer(dataset.target.folder)
    sizes = {"contexts": dataset.contexts, "lengths": dataset.lengths}
    options = {name: value for name, value in sizes.items() if value is not None}
    offered = {
        "tokenizer": tokenizer.backend_tokenizer,
        "seed": dataset.seed,
        "split": dataset.split,
        "max_context": dataset.max_context,
        "downloads": run.cache / "sources",
    }
    options |= dataset.options
    made = contract.make(dataset.benchmark, dataset.task, offered=offered, options=options)
    for example in made:
        where = f"{dataset.benchmark}/{dataset.task}: example {example.id}"
        _require_room(where, tokenizer.backend_tokenizer, example, dataset.max_context)
        _require_seams(where, tokenizer, example)
    write_jsonl(dataset.path, made)


def _require_room(where: str, tokenizer: Any, example: Example, most: int) -> None:
    """Raise ConfigError if a prompt and its answer are longer than the target may see."""
    needed = [
        count_tokens(tokenizer, _after_context(question)) + question.max_new_tokens
        for question in example.questions
    ]
    tokens = count_tokens(tokenizer, example.context) + max(needed, default=0)
    if tokens > most:
        raise ConfigError(
            f"{where}: prompt and answer take {tokens} tokens, and the family's max_context is "
            f"{most}; leave the example out, or raise max_context"
        )


def _after_context(question: Question) -> str:
    history = "".join(text + answer for text, answer in question.history)
    return history + question.text + question.answer_start


def _require_seams(where: str, tokenizer: Any, example: Example) -> None:
    """Raise ConfigError if the tokenizer cannot go on from a context with its question."""
    for number, question in enumerate(example.questions, start=1):
        first = question.history[0][0] if question.history else question.text
        try:
            continuation(tokenizer, first, example.context, exact=True)
        except ConfigError as error:
            raise ConfigError(f"{where}, question {number}: {error}") from None
