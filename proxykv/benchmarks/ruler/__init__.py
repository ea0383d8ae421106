"""RULER (arXiv 2404.06654): thirteen synthetic tasks of any length, made for any tokenizer.

Templates, worked examples, parameters and metrics are those of the authors' code
(github.com/NVIDIA/RULER, Apache-2.0); docs/benchmarks/ruler.md lists what differs.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from proxykv.benchmarks.contract import Example, Question
from proxykv.benchmarks.ruler.corpora import Corpora, Texts
from proxykv.benchmarks.ruler.made import MadeSamples
from proxykv.benchmarks.ruler.ready import ReadySamples
from proxykv.benchmarks.ruler.tasks import TASKS
from proxykv.runtime.errors import ConfigError

TEMPLATE_TOKENS = 64
"""More than any chat template takes."""

UNPRINTABLE = re.compile(r"[\x00-\x1f]")


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    seed: int,
    split: Literal["eval"],
    max_context: int = sys.maxsize,
    contexts: int | None = None,
    downloads: str | Path = "cache/sources",
    sources: Texts | None = None,
    samples: Mapping[str, Any] | None = None,
) -> list[Example]:
    """Make contexts with one question each.

    A context depends on the other arguments and its index, not on `contexts`.

    Args:
        task: a key of `TASKS`.
        tokenizer: measures prompts.
        lengths: of prompt and answer together, in tokens, without a chat template; taken in turn.
            One may stand there several times.
        seed: of everything random.
        split: only "eval": there is no part to train on.
        max_context: tokens that the target may see. A length of so many leaves room for a chat
            template.
        contexts: how many in all; by default the authors' number for each length.
        downloads: folder of downloaded sources.
        sources: texts that contexts are made of (see `corpora.Corpora`).
        samples: a source of ready samples to take instead (see `ready.ReadySamples`).

    Returns:
        The contexts with their questions.

    Raises:
        ConfigError: if something that the task needs is missing or too little.
    """
    if split != "eval":
        raise ConfigError("RULER has no training split; name another benchmark in the corpus")
    if samples is None:
        texts = Corpora(sources or {}, downloads)
        supply = MadeSamples(task, texts, tokenizer, seed, max_context - TEMPLATE_TOKENS)
    else:
        supply = ReadySamples(task, samples)
    examples = []
    if contexts is None:
        contexts = (TASKS[task].contexts or 0) * len(lengths)
    taken = Counter[int]()
    for number in range(contexts):
        length = lengths[number % len(lengths)]
        index = taken[length]
        taken[length] += 1
        sample = supply.take(length, index)
        name = f"ruler-{task}-{length}-{index:04d}"
        try:
            references = TASKS[task].references(sample)
        except ConfigError as error:
            raise ConfigError(f"ruler/{task}: example {name}: {error}") from error
        question = Question(
            sample.question,
            references,
            sample.max_new_tokens,
            sample.answer_start,
            meta={"outputs": list(sample.outputs)},
        )
        examples.append(Example(name, task, sample.context, (question,), {"length": length}))
    return examples


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """Score an answer.

    Args:
        task: name of the task.
        prediction: the model's answer.
        question: the question; `meta["outputs"]` lists the right answers.
    """
    return {"score": score(task, prediction, question.meta["outputs"])}


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """Score an answer by RULER's metric (arXiv 2404.06654), in which case does not matter.

    Args:
        task: a key of `TASKS`.
        prediction: what the model wrote.
        references: the official list of references.

    Returns:
        Share of the references that the prediction contains (`string_match_all`); for qa_1 and qa_2
        1 if it contains any (`string_match_part`).
    """
    answer = UNPRINTABLE.sub("\n", prediction.strip()).strip().lower()
    found = [reference.lower() in answer for reference in references]
    return float(any(found)) if TASKS[task].any_output else sum(found) / len(found)
