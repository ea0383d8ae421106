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
    """`contexts` contexts of real text of the style `task`, each from another document.

    `sources`, `downloads`: see `proxykv.benchmarks.sources.load`. Lengths in tokens, cycled over. A
    context joins `joined` stretches of equal length, each from a document of its own.
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
    """Nothing is asked of these contexts: raises ConfigError."""
    raise ConfigError(f"text/{task} has no questions: use it for training, not for evaluation")
