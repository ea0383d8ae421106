"""LongBench: THUDM/LongBench at commit 2e00731f. Needs `pip install fuzzywuzzy`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from proxykv.benchmarks import longbench
from proxykv.benchmarks.longbench.subsets import TASKS
from tests.parity.authors.loading import importable
from tests.parity.authors.predictions import predictions, words

ANSWERS_OF_A_RECORD = 3
PREDICTIONS_OF_A_RECORD = 10


def compare(checkout: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Any, Any, Any]]:
    """What was compared, the input, the value here and the authors' value."""
    folder = checkout / "LongBench"
    with importable(folder, {}):
        authors = import_module("eval")
        templates = json.loads((folder / "config" / "dataset2prompt.json").read_text("utf-8"))
        limits = json.loads((folder / "config" / "dataset2maxlen.json").read_text("utf-8"))
        for task in sorted(TASKS):
            yield f"{task} limit", task, TASKS[task].max_new_tokens, limits[task]
            for _ in range(max(1, count // PREDICTIONS_OF_A_RECORD)):
                record = _record(task, rng)
                yield f"{task} prompt", record, _prompt(task, record), _theirs(templates, record)
                for prediction in predictions(record["answers"], rng, PREDICTIONS_OF_A_RECORD):
                    given = [prediction], [record["answers"]], record["all_classes"]
                    score = longbench.score(
                        task, prediction, record["answers"], record["all_classes"]
                    )
                    # Theirs is rounded, and of one prediction.
                    theirs = authors.scorer(task, *given)
                    yield f"{task} score", given, round(100 * score, 2), theirs


def _theirs(templates: dict[str, str], record: dict[str, Any]) -> str:
    return templates[record["task"]].format(**record)


def _prompt(task: str, record: dict[str, Any]) -> str:
    before, _, after = TASKS[task].template.partition("{context}")
    return before + record["context"] + after.replace("{input}", record["input"])


def _record(task: str, rng: random.Random) -> dict[str, Any]:
    """A record of the subset's kind."""
    classes = None
    answers = [words(rng) for _ in range(rng.randrange(1, ANSWERS_OF_A_RECORD + 1))]
    if TASKS[task].classifies:
        # Labels that are parts of others, as in the data: "Date" and "Other number, Date".
        classes = sorted({words(rng, 3) for _ in range(5)})
        classes += [f"{label} {rng.choice(classes)}" for label in classes[:2]]
        answers = [rng.choice(classes)]
    elif task.startswith("passage_retrieval"):
        form = "段落{}" if task.endswith("zh") else "Paragraph {}"
        answers = [form.format(rng.randrange(1, 31))]
    elif task == "passage_count":
        answers = [str(rng.randrange(1, 31))]
    return {
        "task": task,
        "context": words(rng, 60),
        "input": words(rng, 20),
        "answers": answers,
        "all_classes": classes,
    }
