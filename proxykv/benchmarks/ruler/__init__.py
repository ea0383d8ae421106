"""RULER (arXiv 2404.06654): thirteen synthetic tasks of any length, made for any tokenizer.

Templates, worked examples, parameters and metrics are those of the authors' code
(github.com/NVIDIA/RULER, Apache-2.0); docs/benchmarks/ruler.md lists what differs.
"""

from __future__ import annotations

import re
import sys
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
    """Contexts with one question each, whose lengths are taken in turn.

    A length is that of prompt and answer together, in tokens, without a chat template; what is made
    leaves room for one where a length is all that the model may see, `max_context`.
    A context depends on the other arguments and its index, not on `contexts`.

    `sources` says where the texts are that contexts are made of, see `corpora.Corpora`; `samples`
    where ready samples are, which are then taken instead, see `ready.ReadySamples`.

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
    for number in range(contexts):
        length, index = lengths[number % len(lengths)], number // len(lengths)
        sample = supply.take(length, index)
        question = Question(
            sample.question,
            TASKS[task].references(sample),
            sample.max_new_tokens,
            sample.answer_start,
            meta={"outputs": list(sample.outputs)},
        )
        name = f"ruler-{task}-{length}-{index:04d}"
        examples.append(Example(name, task, sample.context, (question,), {"length": length}))
    return examples


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """The row's scores."""
    return {"score": score(task, prediction, question.meta["outputs"])}


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """RULER's metric: the share of the references that the prediction contains.

    Any one is enough for qa_1 and qa_2 (`string_match_part`), all count in the other tasks
    (`string_match_all`). Case does not matter.
    """
    said = UNPRINTABLE.sub("\n", prediction.strip()).strip().lower()
    found = [reference.lower() in said for reference in references]
    return float(any(found)) if TASKS[task].any_output else sum(found) / len(found)
