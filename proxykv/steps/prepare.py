"""Datasets: the contexts and questions of a task, made for a tokenizer and written as JSONL."""

from __future__ import annotations

import importlib
from inspect import signature

from tokenizers import Tokenizer

from proxykv.benchmarks.examples import write_jsonl
from proxykv.config.jobs import Dataset
from proxykv.config.run import Run


def prepare(run: Run, dataset: Dataset) -> None:
    """Build a dataset with its benchmark's `build` and write it to its path."""
    build = importlib.import_module(f"proxykv.benchmarks.{dataset.benchmark}").build
    tokenizer = Tokenizer.from_file(str(run.model_dir(dataset.family, "target") / "tokenizer.json"))
    given = {"contexts": dataset.contexts, "lengths": dataset.lengths, **dataset.options}
    known = {
        "tokenizer": tokenizer,
        "seed": dataset.seed,
        "split": dataset.split,
        "max_context": dataset.max_context,
        "downloads": run.cache / "sources",
    }
    # A benchmark's `build` names what it needs of what the run knows.
    asked = {name: known[name] for name in known.keys() & signature(build).parameters.keys()}
    given = {name: value for name, value in given.items() if value is not None}
    write_jsonl(dataset.path, build(dataset.task, **asked, **given))
