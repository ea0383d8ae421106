"""Documents and scores of this project's benchmarks, for lm-eval's task files beside this one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer

from proxykv.benchmarks import contract
from proxykv.benchmarks.contract import Question


def dataset(
    benchmark: str, task: str, target: str, max_context: int = 32768, **settings: Any
) -> dict[str, Dataset]:
    """Make a document for every question of a task.

    Args:
        benchmark: its name.
        task: one of its tasks.
        target: the model's folder, whose tokenizer measures contexts.
        max_context: tokens that the model may see.
        settings: `--model_args` and `--metadata`; a benchmark's `build` takes those that it names.

    Returns:
        The documents as lm-eval's split "test".

    Raises:
        ConfigError: if a source, a record or an example is not as it should be.
    """
    offered = {
        "tokenizer": Tokenizer.from_file(str(Path(target) / "tokenizer.json")),
        "seed": 0,
        "split": "eval",
        "max_context": max_context,
        **settings,
    }
    examples = contract.make(benchmark, task, offered=offered, options={})
    documents = [
        {
            "benchmark": benchmark,
            "task": task,
            "context": example.context,
            "text": question.text,
            "answer_start": question.answer_start,
            "reference": question.references[0],
            # As text: what metrics need differs from question to question.
            "question": json.dumps(asdict(question)),
        }
        for example in examples
        for question in example.questions
    ]
    return {"test": Dataset.from_list(documents)}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a model's answer to a document with the benchmark's own metric, in [0, 1]."""
    question = Question(**json.loads(doc["question"]))
    scores = contract.load(doc["benchmark"]).grade(doc["task"], results[0], question)
    return {"score": scores["score"], "score_fixed": scores.get("score_fixed", scores["score"])}
