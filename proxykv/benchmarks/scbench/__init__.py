"""SCBench (arXiv 2412.10319): twelve tasks of several questions about one long context.

In `multi_request` mode every question is answered from the context alone; in `multi_turn` mode it
follows the questions before it, with their golden answers. Prompts and metrics are those of the
authors' code; docs/benchmarks/scbench.md describes their peculiarities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tokenizers import Tokenizer

from proxykv.benchmarks.contract import Example, Question
from proxykv.benchmarks.records import read_records
from proxykv.benchmarks.scbench import prompts
from proxykv.benchmarks.scbench.tasks import PREFIX, REPOQA, TASKS
from proxykv.config.settings.bounds import Count
from proxykv.runtime.errors import ConfigError

SOURCE = {"hub": "microsoft/SCBench", "revision": "f43226eed3a026f927a67c60739c228390d959c2"}


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    max_context: int,
    contexts: int | None = None,
    source: Mapping[str, Any] = SOURCE,
    mode: Literal["multi_request", "multi_turn"] = prompts.MULTI_REQUEST,
    max_turns: Count = 5,
    wording: Literal["query_agnostic", "official"] = "query_agnostic",
) -> list[Example]:
    """Take the contexts of a task with their questions.

    Args:
        task: a key of `TASKS`.
        tokenizer: the target's.
        max_context: tokens that the target may see. A context that leaves too few of them for
            questions and answers loses its middle.
        contexts: how many, from the first on; all by default.
        source: where the table `scbench_<task>` is (see `read_records`).
        mode: "multi_request" or "multi_turn".
        max_turns: the most questions of a context.
        wording: "official" puts the first question of `mf` before its context, as the authors do;
            otherwise no context holds a question.

    Returns:
        The contexts with their questions.

    Raises:
        ConfigError: for an unknown task or mode, a source without the task, or a `max_context`
            that does not even hold the answers.
    """
    if task not in TASKS:
        raise ConfigError(f"scbench: no task {task!r}; choose from {', '.join(TASKS)}")
    if mode not in prompts.MODES:
        raise ConfigError(f"scbench: no mode {mode!r}; choose from {', '.join(prompts.MODES)}")
    records = read_records(source, f"{PREFIX}{task}", TASKS[task].schema, unique=["id"])
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
        _example(task, index, record, mode, wording, tokenizer, room)
        for index, record in enumerate(records[:contexts])
    ]


def _turn(task: str, turn: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with what its metric needs, of the record too; further fields may be no JSON."""
    known = {"task", *TASKS[task].kind_of(turn).turn["properties"]}
    found = {name: value for name, value in turn.items() if name in known and value is not None}
    return found | {"lang": record["lang"]} if TASKS[task].kind_of(turn) is REPOQA else found


def _add_needles(task: str, records: list[dict[str, Any]]) -> None:
    """Give RepoQA's turns the functions that are asked for in their repository, in any context."""
    needles: dict[str, list[dict[str, str]]] = {}
    for record in records:
        for turn in record["multi_turns"]:
            if TASKS[task].kind_of(turn) is REPOQA:
                turn["needles"] = needles.setdefault(record["repo"], [])
                turn["needles"].append({"name": turn["name"], "needle": turn["answer"]})


def _example(
    task: str,
    index: int,
    record: Mapping[str, Any],
    mode: str,
    wording: str,
    tokenizer: Tokenizer,
    room: int,
) -> Example:
    text = prompts.context(task, record, mode, official=wording == "official")
    context, truncated = _cut(text, tokenizer, room)
    turns = record["multi_turns"]
    texts = [prompts.question(task, turns, i, mode) for i in range(len(turns))]
    answers = [prompts.golden(task, turns, i) for i in range(len(turns))]
    earlier = tuple(zip(texts, answers, strict=True)) if mode == prompts.MULTI_TURN else ()
    questions = tuple(
        Question(
            text,
            (TASKS[task].kind_of(turn).reference(turn),),
            TASKS[task].limit(turn),
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
    """The official score, and the one without the metrics' plain mistakes (`score_fixed`).

    Args:
        task: name of the task.
        prediction: the model's answer.
        question: the question; `meta` holds the turn of the record.
    """
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
            `task` for the mixed tasks. RepoQA's turns also have `name`, and `lang` and `needles` of
            the record: `name` and source (`needle`) of all functions asked for in the repository.
        variant: the metric as published (`official`), or without its plain mistakes (`fixed`).
    """
    kind = TASKS[task.removeprefix(PREFIX)].kind_of(turn)
    return kind.metric(variant)(prediction, turn)
