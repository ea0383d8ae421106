"""Plain contexts of real prose and code, without questions: what a mapper is trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from proxykv.examples import Example, Question
from proxykv.spec import ConfigError
from proxykv.tasks import sources as text_sources
from proxykv.tasks.haystack import Haystacks, fill

TASKS = ("prose", "code")


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
) -> list[Example]:
    """`contexts` stretches of real text of the style `task`, each from another document.

    `sources`, `downloads`: see `proxykv.tasks.sources.load`. Lengths in tokens, cycled over.
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
        haystack = haystacks.draw(task, i, length, rng)
        meta = {"split": split, "style": task, "length": length, "documents": list(haystack.names)}
        context = fill(haystack, (), tokenizer, length, rng)
        examples.append(Example(f"text-{split}-{task}-{i:04d}", task, context, (), meta))
    return examples


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """Nothing is asked of these contexts: raises ConfigError."""
    raise ConfigError(f"text/{task} has no questions: use it for training, not for evaluation")
