"""The corpus in parts: which contexts a method is fitted on, and which none is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proxykv.benchmarks.examples import Example, read_jsonl
from proxykv.config.catalog import Method
from proxykv.config.run import Run
from proxykv.runtime.digest import digest


@dataclass(frozen=True)
class CorpusContext:
    """A context of the corpus, by its name.

    `length` is what the config asks for, None where the benchmark decides; nothing is fitted on it
    if it is `held_out`.
    """

    name: str
    part: str
    length: int | None
    held_out: bool


def contexts(run: Run, family: str) -> Iterator[CorpusContext]:
    """The corpus of a family, in the order of the config."""
    for data in run.datasets(family, "train"):
        examples = read_jsonl(data.path)
        for i, example in enumerate(examples):
            # Lengths are taken in turn, whatever the benchmark.
            length = data.lengths[i % len(data.lengths)] if data.lengths else None
            held_out = i >= len(examples) - data.held_out
            yield CorpusContext(context_name(example), data.part, length, held_out)


def fitted_on(run: Run, family: str, method: Method) -> set[str]:
    """Names of the contexts that a method may be fitted on."""
    known = list(contexts(run, family))
    held_out = {context.name for context in known if context.held_out}
    return {
        context.name
        for context in known
        if (not method.corpus or context.part in method.corpus)
        and (not method.lengths or context.length in method.lengths)
    } - held_out


def context_name(example: Example) -> str:
    """What a context is called where those of many data sets meet: by its id and its text."""
    return f"{example.id}-{digest(example.context)}"
