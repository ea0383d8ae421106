"""Datasets: the contexts and questions of a task, made for a tokenizer and written as JSONL."""

from __future__ import annotations

import importlib

from tokenizers import Tokenizer

from proxykv.examples import write_jsonl
from proxykv.spec import ConfigError, Dataset, Run


def make_dataset(run: Run, dataset: Dataset) -> None:
    """Build a dataset with its benchmark's `build` and write it to its path.

    Raises:
        ConfigError: if the benchmark does not take the options that the config gives.
    """
    benchmark = importlib.import_module(f"proxykv.tasks.{dataset.benchmark}")
    tokenizer = Tokenizer.from_file(str(run.model_dir(dataset.family, "target") / "tokenizer.json"))
    try:
        examples = benchmark.build(
            dataset.task,
            tokenizer=tokenizer,
            contexts=dataset.contexts,
            lengths=dataset.lengths,
            seed=dataset.seed,
            split=dataset.split,
            **dataset.options,
        )
    except TypeError as error:
        raise ConfigError(f"options of benchmark {dataset.benchmark!r}: {error}") from error
    write_jsonl(dataset.path, examples)
