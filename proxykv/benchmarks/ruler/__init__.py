"""RULER (arXiv 2404.06654): thirteen synthetic tasks of any length, made for any tokenizer.

Templates, worked examples, parameters and metrics are those of the authors' code
(github.com/NVIDIA/RULER, Apache-2.0); docs/benchmarks/ruler.md lists what differs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from proxykv.benchmarks.examples import Example, Question
from proxykv.benchmarks.ruler.corpora import Corpora
from proxykv.benchmarks.ruler.cwe import numbered
from proxykv.benchmarks.ruler.make import Made
from proxykv.benchmarks.ruler.ready import Ready
from proxykv.benchmarks.ruler.sample import Sample
from proxykv.runtime.errors import ConfigError

TASKS = (
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
)
# For estimates only.
SIZES = {
    "niah_single_1": (500, None, 1, 128),
    "niah_single_2": (500, None, 1, 128),
    "niah_single_3": (500, None, 1, 128),
    "niah_multikey_1": (500, None, 1, 128),
    "niah_multikey_2": (500, None, 1, 128),
    "niah_multikey_3": (500, None, 1, 128),
    "niah_multivalue": (500, None, 1, 128),
    "niah_multiquery": (500, None, 1, 128),
    "vt": (500, None, 1, 30),
    "cwe": (500, None, 1, 120),
    "fwe": (500, None, 1, 50),
    "qa_1": (500, None, 1, 32),
    "qa_2": (500, None, 1, 32),
}
CONTEXTS = 500
"""Contexts of each length, unless a config says how many there are together."""

TEMPLATE_TOKENS = 64
"""More than any chat template takes."""

UNPRINTABLE = re.compile(r"[\x00-\x1f]")


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    seed: int,
    split: str,
    max_context: int = sys.maxsize,
    contexts: int | None = None,
    downloads: str | Path = "cache/sources",
    sources: Mapping[str, Any] = MappingProxyType({}),
    samples: Mapping[str, Any] | None = None,
) -> list[Example]:
    """Contexts with one question each, whose lengths are taken in turn.

    A length is that of prompt and answer together, in tokens, without a chat template; what is made
    leaves room for one where a length is all that the model may see, `max_context`.
    A context depends on the other arguments and its index, not on `contexts`.

    `sources` says where the texts are that contexts are made of, see `corpora.Corpora`; `samples`
    where ready samples are, which are then taken instead, see `ready.Ready`.

    Raises:
        ConfigError: if something that the task needs is missing or too little.
    """
    if split != "eval":
        raise ConfigError("RULER has no training split; name another benchmark in the corpus")
    if samples is None:
        texts = Corpora(sources, downloads)
        supply = Made(task, texts, tokenizer, seed, max_context - TEMPLATE_TOKENS)
    else:
        supply = Ready(task, samples)
    examples = []
    for number in range(CONTEXTS * len(lengths) if contexts is None else contexts):
        length, index = lengths[number % len(lengths)], number // len(lengths)
        sample = supply.take(length, index)
        question = Question(
            sample.question,
            _references(task, sample),
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
    return float(any(found)) if task.startswith("qa") else sum(found) / len(found)


def _references(task: str, sample: Sample) -> tuple[str, ...]:
    """Accepted answers: the one that names all outputs as the model would, or those of qa."""
    outputs = sample.outputs
    if task.startswith("qa"):
        return outputs
    if task == "cwe":
        return (numbered(outputs),)
    if task == "vt":  # as in the worked example
        return (" ".join(outputs),)
    if task == "niah_multivalue":
        outputs = sorted(outputs, key=sample.context.index)
    return (", ".join(outputs),)
