"""LongBench (arXiv 2308.14508): 21 subsets in English, Chinese and code, as its authors run them.

Prompts, limits, truncation and metrics are those of THUDM/LongBench. A context starts with the
subset's own instruction and ends where the record's context does; the question is the rest of the
prompt. The records are those of the official `data.zip` or of its JSONL files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

from tokenizers import Tokenizer

from proxykv.benchmarks.contract import Example, Question
from proxykv.benchmarks.longbench import metrics
from proxykv.benchmarks.longbench.subset import Subset
from proxykv.benchmarks.longbench.subsets import TASKS
from proxykv.benchmarks.longbench.truncation import cut_middle
from proxykv.benchmarks.records import read_records
from proxykv.runtime.errors import ConfigError

TEMPLATE_TOKENS = 64
"""Tokens left for a chat template, which is put around the prompt once that is cut to fit."""

FIXABLE = (metrics.rouge_l, metrics.rouge_l_zh, metrics.classification)
"""Metrics whose official form has a mistake."""


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    split: Literal["eval"],
    max_context: int,
    source: Mapping[str, Any],
    contexts: int | None = None,
    longest: int | None = None,
) -> list[Example]:
    """The samples of a subset, one question each, in the order of the file.

    Args:
        task: name of the subset.
        tokenizer: the target's.
        split: only "eval": there is no part to train on.
        max_context: tokens of prompt and answer that the target may see. A longer prompt loses its
            middle, as officially, and the example says so (`meta["truncated"]`).
        source: where the records are (see `read_records`).
        contexts: the number of samples, from the first on; all by default.
        longest: most tokens of a context; longer samples are left out.

    Raises:
        ConfigError: for another split, a source or record that cannot be used, or if no sample is
            short enough.
    """
    if split != "eval":
        raise ConfigError("longbench has no training split; take other texts for the corpus")
    subset = TASKS[task]
    samples = islice(_samples(task, subset, tokenizer, source, longest), contexts)
    limit = max_context - subset.max_new_tokens - TEMPLATE_TOKENS
    examples = []
    for record, context, rest in samples:
        context, rest, truncated = cut_middle(tokenizer, context, rest, limit)
        question = Question(
            text=rest,
            references=tuple(record["answers"]),
            max_new_tokens=subset.max_new_tokens,
            stop=subset.stop,
            meta={"all_classes": record["all_classes"]} if subset.classifies else {},
        )
        identity, meta = f"{task}-{record['_id']}", {"truncated": truncated}
        examples.append(Example(identity, task, context, (question,), meta, subset.chat))
    if not examples:
        short = f" with a context of at most {longest} tokens" if longest else ""
        raise ConfigError(f"longbench {task}: the source holds no sample{short}")
    return examples


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """The official score and, for the metrics of `FIXABLE`, the corrected one (`score_fixed`).

    Args:
        task: name of the subset.
        prediction: the model's answer.
        question: the question, with its references.
    """
    given = prediction, question.references, question.meta.get("all_classes")
    scores = {"score": score(task, *given)}
    if TASKS[task].metric in FIXABLE:
        scores["score_fixed"] = score(task, *given, variant="fixed")
    return scores


def score(
    task: str,
    prediction: str,
    answers: Sequence[str],
    all_classes: Sequence[str] | None = None,
    variant: Literal["official", "fixed"] = "official",
) -> float:
    """Score an answer by the subset's metric (arXiv 2308.14508).

    Args:
        task: name of the subset.
        prediction: what the model wrote.
        answers: accepted answers; the best one counts.
        all_classes: labels of a classification (trec, lsht).
        variant: "fixed" corrects the mistakes of the metrics in `FIXABLE`.

    Returns:
        The score in [0, 1].
    """
    subset = TASKS[task]
    if subset.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric = subset.metric
    if subset.classifies:
        metric = partial(metric, all_classes=all_classes)
    if subset.metric in FIXABLE:
        metric = partial(metric, fixed=variant == "fixed")
    return max((metric(prediction, answer) for answer in answers), default=0.0)


def _samples(
    task: str,
    subset: Subset,
    tokenizer: Tokenizer,
    source: Mapping[str, Any],
    longest: int | None,
) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Records that are short enough, with the two parts of their prompts."""
    before, _, after = subset.template.partition("{context}")
    for record in read_records(source, task, subset.schema, unique=["_id"]):
        context = before + record["context"]
        tokens = len(tokenizer.encode(context, add_special_tokens=False)) if longest else 0
        if longest is None or tokens <= longest:
            yield record, context, after.replace("{input}", record["input"])
