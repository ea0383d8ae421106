"""This project's benchmarks as lm-eval tasks: task files, documents and scores.

Tasks of lm-eval's own read their documents through the `datasets` client (`reading`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.utils import httpx  # another package in its version 2

from proxykv.benchmarks import contract
from proxykv.benchmarks.contract import Question
from proxykv.config.benchmarks import tasks
from proxykv.model.prompt.tokenizer import load_tokenizer
from proxykv.runtime import hub
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import write_text

SHARED = Path(__file__).with_name("lm_eval_task.yaml")
"""What the files of all tasks include."""


@contextmanager
def reading() -> Iterator[None]:
    """Turn what the `datasets` client raises into one line, which comes without retries.

    Raises:
        ConfigError: if a data set cannot be had.
    """
    hub.give_up_at_once()
    try:
        yield
    except (DatasetsError, httpx.HTTPError, ConnectionError) as error:
        network = isinstance(error, (httpx.TransportError, ConnectionError))
        remedy = "the network and HF_ENDPOINT" if network else "the task's `dataset_path`, HF_TOKEN"
        raise ConfigError(f"{' '.join(str(error).split())}; check {remedy}") from error


def write_task_files(folder: Path) -> None:
    """Write a lm-eval task file for every task that asks questions, called `<benchmark>_<task>`.

    Args:
        folder: where the files go.
    """
    for benchmark in tasks():
        for content in _task_files(benchmark):
            path = folder / f"{content['task']}.yaml"
            write_text(path, yaml.safe_dump(content))


def _task_files(benchmark: str) -> Iterator[dict[str, Any]]:
    for name, task in contract.load(benchmark).TASKS.items():
        if task.questions:
            yield {
                "include": str(SHARED),
                "tag": [benchmark],
                "task": f"{benchmark}_{name}",
                "dataset_kwargs": {"benchmark": benchmark, "task": name},
                "generation_kwargs": {
                    "do_sample": False,
                    "until": list(task.stop),
                    "max_gen_toks": task.longest_answer,
                },
            }


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
        ConfigError: if a source, a record or an example cannot be used.
    """
    offered = {
        "tokenizer": load_tokenizer(Path(target)).backend_tokenizer,
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
    """Score a model's answer to a document with the benchmark's own metric, in [0, 1].

    Args:
        doc: a document of a task.
        results: the model's answer, as a list of one text.

    Returns:
        `score` and `score_fixed`.
    """
    question = Question(**json.loads(doc["question"]))
    scores = contract.load(doc["benchmark"]).grade(doc["task"], results[0], question)
    return {"score": scores["score"], "score_fixed": scores.get("score_fixed", scores["score"])}
