"""SCBench's prompts, cut at the end of the context, as the authors' code writes them.

Misspellings, and questions that follow the context without a break, are the authors'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from proxykv.benchmarks.scbench.tasks import TASKS

MULTI_REQUEST: Literal["multi_request"] = "multi_request"
MULTI_TURN: Literal["multi_turn"] = "multi_turn"
MODES = (MULTI_REQUEST, MULTI_TURN)
_SUMMARY_START = "This paper"


def reserved_tokens(task: str, turns: int) -> int:
    """Tokens that questions and answers need when a context is cut to fit.

    A thousand of them are for the questions and the chat template.

    Args:
        task: name of the task. The answers of a mixed task count as the average of its two kinds.
        turns: questions of a context.
    """
    row = TASKS[task]
    limits = [limit for _, limit in row.mixed.values()] or [row.max_new_tokens]
    return sum(limits) * turns // len(limits) + 1000


def context(task: str, record: Mapping[str, Any], mode: str, official: bool = False) -> str:
    """The prompt up to the end of the context, with the instruction before it.

    Args:
        task: name of the task.
        record: its `context` and `multi_turns`. The numbers of `mf` come as a list.
        mode: one of `MODES`.
        official: put the first question of `mf` (or its quantity, in a conversation) before the
            context, as the authors do. Otherwise no context holds a question.
    """
    instruction = TASKS[task].instruction
    if task == "mf" and official:
        first = record["multi_turns"][0]["input"]
        instruction = first if mode == MULTI_REQUEST else _what_is(first)
    text = str(record["context"])
    return f"{instruction}\n\n{text}" if instruction else text


def question(task: str, turns: Sequence[Mapping[str, Any]], index: int, mode: str) -> str:
    """The prompt of a question, after the context or the answer to the last question.

    Args:
        task: name of the task.
        turns: all turns of the record.
        index: position of the question.
        mode: `MULTI_REQUEST` or `MULTI_TURN`.
    """
    turn = turns[index]
    text = TASKS[task].kind_of(turn).question(turn)
    if mode == MULTI_REQUEST:
        return f"{_what_is(text)}\n\n{text}" if task == "mf" else text
    if index == 0:
        return f"\n\n{text}"
    # In a conversation every question of mf but the first names the last one's quantity.
    return f"{_what_is(turns[-1]['input'])}\n\n{text}" if task == "mf" else text


def _what_is(question: str) -> str:
    """`What is the largest number?` of a question that holds `The largest number is`."""
    quantity = re.findall(r"The .+ is", question)[0].removesuffix(" is").lower()
    return f"What is {quantity}?"


def answer_start(task: str, index: int, mode: str) -> str:
    """Text that the prompt puts before the answer to a question.

    Args:
        task: name of the task.
        index: position of the question.
        mode: `MULTI_REQUEST` or `MULTI_TURN`.
    """
    return _SUMMARY_START if task == "summary" and mode == MULTI_TURN and index > 0 else ""


def golden(task: str, turns: Sequence[Mapping[str, Any]], index: int) -> str:
    """The answer to a question in the history of a conversation.

    Args:
        task: name of the task.
        turns: all turns of the record.
        index: position of the question.
    """
    return answer_start(task, index, MULTI_TURN) + str(turns[index]["answer"])
