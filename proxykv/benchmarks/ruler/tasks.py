"""RULER's thirteen tasks: how prompts are made, and what counts as an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxykv.benchmarks.contract import Task
from proxykv.benchmarks.record_schema import short
from proxykv.benchmarks.ruler import qa
from proxykv.benchmarks.ruler.cwe import CommonWords, numbered
from proxykv.benchmarks.ruler.fwe import FrequentWords
from proxykv.benchmarks.ruler.niah import NeedlePrompts, NeedleSettings
from proxykv.benchmarks.ruler.sample import Ingredients, Maker, Sample
from proxykv.benchmarks.ruler.vt import ChainPrompts
from proxykv.runtime.errors import ConfigError


def _joined(sample: Sample) -> tuple[str, ...]:
    return (", ".join(sample.outputs),)


def _in_order_of_the_text(sample: Sample) -> tuple[str, ...]:
    for output in sample.outputs:
        if output not in sample.context:
            raise ConfigError(f"its context does not hold the answer {short(output)}; correct it")
    return (", ".join(sorted(sample.outputs, key=sample.context.index)),)


def _as_in_the_worked_example(sample: Sample) -> tuple[str, ...]:
    return (" ".join(sample.outputs),)


def _numbered(sample: Sample) -> tuple[str, ...]:
    return (numbered(sample.outputs),)


def _any_output(sample: Sample) -> tuple[str, ...]:
    return sample.outputs


def _needles(
    haystack: str,
    *,
    key: str = "words",
    value: str = "numbers",
    keys: int = 1,
    values: int = 1,
    queries: int = 1,
) -> Callable[[Ingredients], Maker]:
    settings = NeedleSettings(haystack, key, value, keys, values, queries)
    return lambda given: NeedlePrompts(settings, given.texts)


@dataclass(frozen=True, kw_only=True)
class RulerTask(Task):
    """A task of RULER.

    Attributes:
        maker: draws the task's prompts.
        references: the answers of a sample as a model would write them.
        any_output: whether one output is enough (`string_match_part`), or the share of all outputs
            counts (`string_match_all`).
    """

    maker: Callable[[Ingredients], Maker]
    references: Callable[[Sample], tuple[str, ...]] = _joined
    any_output: bool = False


TASKS = {
    "niah_single_1": RulerTask(
        contexts=500, max_new_tokens=128, shortest=200, maker=_needles("noise")
    ),
    "niah_single_2": RulerTask(
        contexts=500, max_new_tokens=128, shortest=180, maker=_needles("essay")
    ),
    "niah_single_3": RulerTask(
        contexts=500, max_new_tokens=128, shortest=180, maker=_needles("essay", value="uuids")
    ),
    "niah_multikey_1": RulerTask(
        contexts=500, max_new_tokens=128, shortest=210, maker=_needles("essay", keys=4)
    ),
    "niah_multikey_2": RulerTask(
        contexts=500, max_new_tokens=128, shortest=190, maker=_needles("needle")
    ),
    "niah_multikey_3": RulerTask(
        contexts=500,
        max_new_tokens=128,
        shortest=190,
        maker=_needles("needle", key="uuids", value="uuids"),
    ),
    "niah_multivalue": RulerTask(
        contexts=500,
        max_new_tokens=128,
        shortest=210,
        maker=_needles("essay", values=4),
        references=_in_order_of_the_text,
    ),
    "niah_multiquery": RulerTask(
        contexts=500, max_new_tokens=128, shortest=220, maker=_needles("essay", keys=4, queries=4)
    ),
    "vt": RulerTask(
        contexts=500,
        max_new_tokens=30,
        shortest=600,
        maker=lambda given: ChainPrompts(given.tokenizer, f"{given.key}/shot"),
        references=_as_in_the_worked_example,
    ),
    "cwe": RulerTask(
        contexts=500,
        max_new_tokens=120,
        shortest=400,
        maker=lambda given: CommonWords(given.length, given.texts.words),
        references=_numbered,
    ),
    "fwe": RulerTask(
        contexts=500,
        max_new_tokens=50,
        shortest=250,  # four words of the vocabulary, each for 50 tokens
        maker=lambda given: FrequentWords(given.room),
    ),
    "qa_1": RulerTask(
        contexts=500,
        max_new_tokens=32,
        shortest=90,
        maker=lambda given: qa.squad(given.texts.squad),
        references=_any_output,
        any_output=True,
    ),
    "qa_2": RulerTask(
        contexts=500,
        max_new_tokens=32,
        shortest=90,
        maker=lambda given: qa.hotpotqa(given.texts.hotpotqa),
        references=_any_output,
        any_output=True,
    ),
}
