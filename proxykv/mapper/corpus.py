"""Contexts of the corpus: which ones a method is fitted on, and which ones are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proxykv.benchmarks.examples import Example, read_jsonl
from proxykv.config.catalog import Method
from proxykv.config.run import Run
from proxykv.runtime.digest import digest


@dataclass(frozen=True)
class CorpusContext:
    """A context of the corpus.

    Attributes:
        name: see `context_name`.
        part: the part of the corpus that it belongs to.
        length: tokens that the config asks for; None if the benchmark decides.
        held_out: whether no method is fitted on it.
    """

    name: str
    part: str
    length: int | None
    held_out: bool


def contexts(run: Run, family: str) -> Iterator[CorpusContext]:
    """Read the corpus of a family, in the order of the config.

    Args:
        run: the run.
        family: name of the family, whose tokenizer measured the contexts.
    """
    for data in run.datasets(family, "train"):
        examples = read_jsonl(data.path)
        for i, example in enumerate(examples):
            # Every benchmark takes the lengths in turn.
            length = data.lengths[i % len(data.lengths)] if data.lengths else None
            held_out = i >= len(examples) - data.held_out
            yield CorpusContext(context_name(example), data.part, length, held_out)


def fitted_on(run: Run, family: str, method: Method) -> set[str]:
    """Names of the contexts that a method may be fitted on: its parts and lengths, not held out.

    Args:
        run: the run.
        family: name of the family.
        method: a method that is fitted.
    """
    corpus = list(contexts(run, family))
    held_out = {context.name for context in corpus if context.held_out}
    return {
        context.name
        for context in corpus
        if (not method.corpus or context.part in method.corpus)
        and (not method.lengths or context.length in method.lengths)
    } - held_out


def context_name(example: Example) -> str:
    """Name of a context that is unique among all data sets: its id and a digest of its text."""
    return f"{example.id}-{digest(example.context)}"
