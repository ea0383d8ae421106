"""Datasets: the contexts and questions of a task, made for a tokenizer and written as JSONL."""

from __future__ import annotations

from proxykv.benchmarks import contract
from proxykv.benchmarks.examples import write_jsonl
from proxykv.config.jobs import Dataset
from proxykv.config.run import Run
from proxykv.model.prompt.tokenizer import load_tokenizer


def prepare(run: Run, dataset: Dataset) -> None:
    """Make the examples of a dataset, check them, and write them to its path.

    Args:
        run: has the model whose tokenizer measures contexts.
        dataset: what to make.

    Raises:
        ConfigError: if a source, a record or an example cannot be used.
    """
    # The tokenizer that the target runs with, so that lengths are the model's.
    tokenizer = load_tokenizer(dataset.target.folder).backend_tokenizer
    sizes = {"contexts": dataset.contexts, "lengths": dataset.lengths}
    options = {name: value for name, value in sizes.items() if value is not None}
    offered = {
        "tokenizer": tokenizer,
        "seed": dataset.seed,
        "split": dataset.split,
        "max_context": dataset.max_context,
        "downloads": run.cache / "sources",
    }
    options |= dataset.options
    made = contract.make(dataset.benchmark, dataset.task, offered=offered, options=options)
    write_jsonl(dataset.path, made)
