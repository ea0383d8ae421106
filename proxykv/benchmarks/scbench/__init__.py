"""SCBench (arXiv 2412.10319): twelve tasks of several questions about one long context.

In `multi_request` mode every question is answered from the context alone; in `multi_turn` mode it
follows the questions before it, with their golden answers. Prompts and metrics are those of the
authors' code; docs/benchmarks/scbench.md lists what is particular about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tokenizers import Tokenizer

from proxykv.benchmarks.examples import Example, Question
from proxykv.benchmarks.records import read_records
from proxykv.benchmarks.scbench import metrics, prompts
from proxykv.runtime.errors import ConfigError

TASKS = (
    "kv",
    "prefix_suffix",
    "vt",
    "repoqa",
    "qa_eng",
    "qa_chn",
    "choice_eng",
    "many_shot",
    "summary",
    "mf",
    "summary_with_needles",
    "repoqa_and_kv",
)
# Published counts and mean lengths, and questions of a context, of which five are asked at most. An
# answer of a mixed task counts as the average of its two kinds. For estimates only.
SIZES = {
    "kv": (100, 125_000, 5, 150),
    "prefix_suffix": (100, 112_000, 5, 150),
    "vt": (90, 124_000, 5, 30),
    "repoqa": (88, 65_000, 5, 1024),
    "qa_eng": (69, 198_000, 5, 40),
    "qa_chn": (35, 1_500_000, 5, 40),
    "choice_eng": (58, 188_000, 5, 40),
    "many_shot": (54, 22_000, 5, 10),
    "summary": (70, 104_000, 5, 200),
    "mf": (100, 120_000, 2, 5),
    "summary_with_needles": (70, 105_000, 5, 408),
    "repoqa_and_kv": (88, 68_000, 5, 552),
}
SOURCE = {"hub": "microsoft/SCBench", "revision": "f43226eed3a026f927a67c60739c228390d959c2"}
VARIANTS = {"official": metrics.OFFICIAL, "fixed": metrics.FIXED}


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    max_context: int,
    contexts: int | None = None,
    source: Mapping[str, Any] = SOURCE,
    mode: str = prompts.MULTI_REQUEST,
    max_turns: int = 5,
) -> list[Example]:
    """The first `contexts` contexts of a task, or all, each with its first `max_turns` questions.

    A context that leaves too little of `max_context` for questions and answers is cut in the
    middle. `source` is read by `read_records`, as the table `scbench_<task>`.

    Raises:
        ConfigError: for an unknown task or mode, a source without the task, or a `max_context`
            that does not even hold the answers.
    """
    if task not in TASKS:
        raise ConfigError(f"scbench: no task {task!r}; choose from {', '.join(TASKS)}")
    if mode not in prompts.MODES:
        raise ConfigError(f"scbench: no mode {mode!r}; choose from {', '.join(prompts.MODES)}")
    records = read_records(source, f"scbench_{task}")
    for record in records:
        record["multi_turns"] = [_turn(task, t, record) for t in record["multi_turns"][:max_turns]]
    _add_needles(task, records)
    room = max_context - prompts.reserved_tokens(task, len(records[0]["multi_turns"]))
    if room < 2:
        raise ConfigError(
            f"scbench: {task} takes {max_context - room} tokens for questions and answers alone; "
            f"the family's max_context is {max_context}"
        )
    return [
        _example(task, index, record, mode, tokenizer, room)
        for index, record in enumerate(records[:contexts])
    ]


def _turn(task: str, turn: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with what its metric needs of the record. Parquet fills absent fields with None."""
    found = {name: value for name, value in turn.items() if value is not None}
    return found | {"lang": record["lang"]} if prompts.kind(task, turn) == "repoqa" else found


def _add_needles(task: str, records: list[dict[str, Any]]) -> None:
    """Give RepoQA's turns the functions that are asked for in their repository, in any context."""
    needles: dict[str, list[dict[str, str]]] = {}
    for record in records:
        for turn in record["multi_turns"]:
            if prompts.kind(task, turn) == "repoqa":
                turn["needles"] = needles.setdefault(record["repo"], [])
                turn["needles"].append({"name": turn["name"], "needle": turn["answer"]})


def _example(
    task: str, index: int, record: Mapping[str, Any], mode: str, tokenizer: Tokenizer, room: int
) -> Example:
    context, truncated = _cut(prompts.context(task, record, mode), tokenizer, room)
    turns = record["multi_turns"]
    texts = [prompts.question(task, turns, i, mode) for i in range(len(turns))]
    answers = [prompts.golden(task, turns, i) for i in range(len(turns))]
    earlier = tuple(zip(texts, answers, strict=True)) if mode == prompts.MULTI_TURN else ()
    questions = tuple(
        Question(
            text,
            (prompts.reference(task, turn),),
            prompts.max_new_tokens(task, turn),
            answer_start=prompts.answer_start(task, i, mode),
            meta=turn,
            history=earlier[:i],
        )
        for i, (text, turn) in enumerate(zip(texts, turns, strict=True))
    )
    identity = f"scbench-{task}-{mode}-{index:04d}"
    return Example(identity, task, context, questions, {"truncated": truncated})


def _cut(text: str, tokenizer: Tokenizer, most: int) -> tuple[str, bool]:
    """The text without its middle, so that `most` tokens are left; and whether it was cut."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    if len(offsets) <= most:
        return text, False
    half = most // 2
    # From the end of the token before: some tokenizers leave a token's own space out of its span.
    return text[: offsets[half - 1][1]] + text[offsets[-half - 1][1] :], True


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """The row's scores: the authors', and with the plain mistakes of their metrics mended."""
    return {
        "score": score(task, prediction, question.meta),
        "score_fixed": score(task, prediction, question.meta, "fixed"),
    }


def score(
    task: str,
    prediction: str,
    turn: Mapping[str, Any],
    variant: Literal["official", "fixed"] = "official",
) -> float:
    """Score of one answer in [0, 1].

    Args:
        task: one of `TASKS`, with or without the prefix `scbench_`.
        prediction: what a model wrote.
        turn: the entry of `multi_turns`: `input` and `answer`, with `options` for choice_eng and
            `task` for the mixed tasks. RepoQA's needs `name` too, and of its record `lang` and
            `needles`: `name` and source (`needle`) of all functions asked for in the repository.
        variant: the metric as published (`official`), or with its plain mistakes mended (`fixed`).
    """
    return VARIANTS[variant][prompts.kind(task.removeprefix("scbench_"), turn)](prediction, turn)
