"""SCBench's prompts, cut at the end of the context, as the authors' code writes them.

Misspellings, and questions that follow the context without a break, are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MULTI_REQUEST, MULTI_TURN = "multi_request", "multi_turn"
MODES = (MULTI_REQUEST, MULTI_TURN)
OPTIONS = "ABCD"

MAX_NEW_TOKENS: Mapping[str, int | Mapping[str, int]] = {
    "kv": 150,
    "prefix_suffix": 150,
    "vt": 30,
    "repoqa": 1024,
    "qa_eng": 40,
    "qa_chn": 40,
    "choice_eng": 40,
    "many_shot": 10,
    "summary": 200,
    "mf": 5,
    "summary_with_needles": {"summary": 800, "passkey": 15},
    "repoqa_and_kv": {"repoqa": 1024, "kv": 80},
}
"""Tokens of an answer; for a mixed task, by the kind of question."""

_INSTRUCTIONS = {
    "kv": "Extract the value corresponding to the specified key in the JSON object below.",
    "repoqa": (
        "Based on the function description and code context, please retrieve and repeat the exact "
        "described function from the code context in a code block wrapped by ```:"
    ),
    "qa_eng": "Read the book and answer the question. Be very concise in your answer.",
    "qa_chn": "阅读以下书籍然后回答问题。",
    "choice_eng": "Read the book and answer the question.",
}
_SUMMARY_START = "This paper"


def kind(task: str, turn: Mapping[str, Any]) -> str:
    """The task that a question belongs to: its own of the two that a mixed task is made of."""
    mixed = isinstance(MAX_NEW_TOKENS[task], Mapping)
    return turn["task"].removeprefix("scbench_") if mixed else task


def max_new_tokens(task: str, turn: Mapping[str, Any]) -> int:
    """Tokens that a question's answer may have."""
    most = MAX_NEW_TOKENS[task]
    return most if isinstance(most, int) else most[kind(task, turn)]


def reserved_tokens(task: str, turns: int) -> int:
    """Tokens that are left for `turns` questions and answers when a context is cut to fit.

    For a mixed task the answers of all questions count as the average of its two kinds. The last
    thousand are for the questions and the chat template.
    """
    most = MAX_NEW_TOKENS[task]
    answers = most * turns if isinstance(most, int) else sum(most.values()) * turns // 2
    return answers + 1000


def context(task: str, record: Mapping[str, Any], mode: str) -> str:
    """The prompt up to the end of the context, with the instruction that stands before it.

    The numbers of `mf` come as a list. Its instruction is the first question, which in
    multi-request mode puts one question before the shared context.
    """
    instruction = _INSTRUCTIONS.get(task, "")
    if task == "mf":
        first = record["multi_turns"][0]["input"]
        instruction = first if mode == MULTI_REQUEST else _what_is(first)
    text = str(record["context"])
    return f"{instruction}\n\n{text}" if instruction else text


def question(task: str, turns: Sequence[Mapping[str, Any]], index: int, mode: str) -> str:
    """The prompt after the context, or after the answer before, for question `index`."""
    turn = turns[index]
    text = turn["input"]
    if task == "qa_eng":
        text = f"Question: {text}\nAnswer:"
    elif task == "qa_chn":
        text = f"问题：{text}\n答案："
    elif task == "choice_eng":
        options = "".join(f"{a}. {b}\n" for a, b in zip(OPTIONS, turn["options"], strict=True))
        text = f"Question: {text}\n{options}\nThe the correct answer is"
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
    """What the answer to question `index` is made to begin with."""
    return _SUMMARY_START if task == "summary" and mode == MULTI_TURN and index > 0 else ""


def golden(task: str, turns: Sequence[Mapping[str, Any]], index: int) -> str:
    """The answer that stands in the history for question `index` of a conversation."""
    return answer_start(task, index, MULTI_TURN) + str(turns[index]["answer"])


def reference(task: str, turn: Mapping[str, Any]) -> str:
    """What a model that answers right is expected to write."""
    answer = turn["answer"]
    match kind(task, turn):
        case "vt":
            return ", ".join(answer)
        case "choice_eng":
            return f"{letter(turn)}. {answer}"
        case "repoqa":
            return f"```{turn['lang']}\n{answer}\n```"
        case _:
            return str(answer)


def letter(turn: Mapping[str, Any]) -> str:
    """Letter of the right option."""
    return OPTIONS[list(turn["options"]).index(turn["answer"])]
