"""Plain contexts of real prose and code, without questions: what a mapper is trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from proxykv.benchmarks import sources as text_sources
from proxykv.benchmarks.contract import Example, Question, Task
from proxykv.benchmarks.haystack import Haystacks, fill
from proxykv.runtime.errors import ConfigError

TASKS = {
    "prose": Task(questions=0, max_new_tokens=0, shortest=16),
    "code": Task(questions=0, max_new_tokens=0, shortest=16),
}
BETWEEN = "\n\n"


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    contexts: int,
    lengths: Sequence[int],
    seed: int,
    split: str,
    sources: Sequence[Mapping[str, Any]],
    downloads: str = "cache/sources",
    joined: int = 1,
) -> list[Example]:
    """Make contexts of real text, each from another document.

    Args:
        task: style of the text, "prose" or "code".
        tokenizer: measures contexts.
        contexts: how many.
        lengths: of contexts in tokens, taken in turn.
        seed: of everything random.
        split: "train" or "eval".
        sources: where text comes from (see `proxykv.benchmarks.sources.load`).
        downloads: folder of downloaded sources.
        joined: documents of a context; each gives a stretch of the same length.

    Returns:
        The contexts, without questions.

    Raises:
        ConfigError: if a source cannot be read, or holds too little text of the style.
    """
    documents = text_sources.load(sources, split, downloads)
    key = f"{seed}/text/{task}/{split}"
    haystacks = Haystacks(documents, tokenizer, random.Random(key))
    if task not in haystacks.styles:
        raise ConfigError(f"task text/{task}: no source of the {split} split holds {task}")
    examples = []
    for i in range(contexts):
        rng = random.Random(f"{key}/{i}")
        length = lengths[i % len(lengths)]
        share = length // joined - len(BETWEEN) * (joined > 1)
        drawn = [haystacks.draw(task, i * joined + j, share, rng) for j in range(joined)]
        context = BETWEEN.join(fill(h, (), tokenizer, share, rng) for h in drawn)
        names = [name for haystack in drawn for name in haystack.names]
        meta = {"split": split, "style": task, "length": length, "documents": names}
        examples.append(Example(f"text-{split}-{task}-{i:04d}", task, context, (), meta))
    return examples


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """Refuse: these contexts have no questions.

    Args:
        task: name of the task.
        prediction: an answer.
        question: a question.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"text/{task} has no questions: use it for training, not for evaluation")
