"""SCBench: microsoft/MInference at commit fb56c91."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from proxykv.benchmarks import scbench
from proxykv.benchmarks.scbench.tasks import PREFIX, REPOQA, TASKS
from tests.parity.authors.loading import importable
from tests.parity.authors.predictions import predictions
from tests.parity.authors.repoqa import GRAMMARS, compare_functions
from tests.parity.authors.scbench_prompts import compare_prompts
from tests.scbench_corpus import corpus

FEWER = 4
"""RepoQA has six languages, each of which is drawn for."""
FIELDS = {"rich.console": ("Console",), "rich.table": ("Table",)}
PROGRESS = ("BarColumn", "MofNCompleteColumn", "Progress", "TextColumn", "TimeElapsedColumn")
STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "transformers": dict.fromkeys(("AutoConfig", "GenerationConfig", "SinkCache")),
    "args": dict.fromkeys(("parse_args",)),
    "tempdir": {},
    "rich": {},
    **{name: dict.fromkeys(fields) for name, fields in FIELDS.items()},
    "rich.progress": dict.fromkeys(PROGRESS),
    "tree_sitter_languages": GRAMMARS,
}


class _Rouge:
    """The `evaluate` metric, called with its own defaults, without the hub."""

    def compute(self, predictions: list[str], references: list[str], **_: Any) -> dict[str, Any]:
        from rouge_score.rouge_scorer import RougeScorer

        score = RougeScorer(["rougeLsum"]).score(references[0], predictions[0])
        return {"rougeLsum": [score["rougeLsum"].fmeasure]}


def compare(checkout: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Any, Any, Any]]:
    """What was compared, the input, the value here and the authors' value."""
    evaluate = import_module("evaluate")
    vars(evaluate)["load"] = lambda *_: _Rouge()
    with importable(checkout / "scbench", STAND_INS):
        metrics, texts = import_module("compute_scores"), import_module("eval_utils")
        functions = import_module("repo_qa_utils")
        for task, records in corpus().items():
            yield from compare_prompts(task, records, texts)
            for record in records:
                yield from _scores(task, record, metrics, texts, count, rng)
        yield from compare_functions(functions, max(1, count // FEWER), rng)


def _scores(
    task: str,
    record: Mapping[str, Any],
    metrics: Any,
    texts: Any,
    count: int,
    rng: random.Random,
) -> Iterator[tuple[str, Any, Any, Any]]:
    labels = texts.get_ground_truth(record, PREFIX + task)
    for turn, label in zip(record["multi_turns"], labels, strict=True):
        if TASKS[task].kind_of(turn) is REPOQA:
            continue
        named = turn.get("task", PREFIX + task)
        theirs = metrics.Multiturnbench_to_Infinitebench.get(named, named)
        answers = label if isinstance(label, list) else [str(label)]
        each = max(1, count // (len(labels) * 2))
        for prediction in predictions(answers, rng, each):
            given = prediction, label
            score = metrics.get_score_one(prediction, label, theirs, "a model")
            yield f"{task} score", given, scbench.score(task, prediction, turn), score
