"""Datasets: the contexts and questions of a task, made for a tokenizer and written as JSONL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxykv.benchmarks import contract
from proxykv.benchmarks.examples import Example, write_jsonl
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
    _require_seams(f"{dataset.benchmark}/{dataset.task}", tokenizer, made)
    write_jsonl(dataset.path, made)


def _require_seams(where: str, tokenizer: Any, examples: Iterable[Example]) -> None:
    """Raise ConfigError if a special token begins in a context and ends in its question."""
    for example in examples:
        for number, question in enumerate(example.questions, start=1):
            first = question.history[0][0] if question.history else question.text
            try:
                continuation(tokenizer, first, example.context)
            except ConfigError as error:
                raise ConfigError(
                    f"{where}: example {example.id}, question {number}: {error}"
                ) from None
