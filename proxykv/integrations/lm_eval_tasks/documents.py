"""Documents and scores of this project's benchmarks, for lm-eval's task files beside this one."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer

from proxykv.benchmarks.examples import Question


def dataset(
    benchmark: str, task: str, target: str, max_context: int = 32768, **settings: Any
) -> dict[str, Dataset]:
    """A document for every question of a task.

    `target`, the model's folder, has the tokenizer that contexts are made for. `settings` are
    `--model_args` and `--metadata`; of these, a benchmark's `build` takes what it knows.
    """
    build = importlib.import_module(f"proxykv.benchmarks.{benchmark}").build
    known = {
        "tokenizer": Tokenizer.from_file(str(Path(target) / "tokenizer.json")),
        "seed": 0,
        "split": "eval",
        "max_context": max_context,
        **settings,
    }
    parameters = signature(build).parameters
    examples = build(task, **{name: v for name, v in known.items() if name in parameters})
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
    """The benchmark's own scores, in [0, 1]."""
    module = importlib.import_module(f"proxykv.benchmarks.{doc['benchmark']}")
    scores = module.grade(doc["task"], results[0], Question(**json.loads(doc["question"])))
    return {"score": scores["score"], "score_fixed": scores.get("score_fixed", scores["score"])}
