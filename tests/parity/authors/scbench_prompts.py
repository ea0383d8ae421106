"""SCBench's prompts in both modes, with a chat template and without."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from proxykv.benchmarks import scbench
from proxykv.benchmarks.contract import Example, Question
from proxykv.benchmarks.scbench import prompts
from proxykv.benchmarks.scbench.tasks import PREFIX

Pairs = Iterator[tuple[str, Any, Any, Any]]


class ChatTemplate:
    """Shows where every message begins and ends."""

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """Render messages in the form that the authors' code asks for."""
        assert not tokenize
        texts = [f"<{message['role']}>{message['content']}</>" for message in messages]
        return "".join(texts) + "<assistant>" * add_generation_prompt


def compare_prompts(task: str, records: Sequence[Mapping[str, Any]], texts: Any) -> Pairs:
    """Compare contexts and questions.

    Args:
        task: name of the task.
        records: its records.
        texts: the authors' module of prompts.

    Yields:
        What was compared, the index, the text here and the authors' text.
    """
    for mode in prompts.MODES:
        for record, example in zip(records, _examples(task, records, mode), strict=True):
            for chat in (False, True) if mode == prompts.MULTI_REQUEST else (True,):
                made = _theirs(texts, task, record, mode, chat)
                here = _requests(example, chat) if mode == prompts.MULTI_REQUEST else _talk(example)
                for index, (ours, theirs) in enumerate(zip(here, made, strict=True)):
                    yield f"{task} {mode}", index, ours, theirs


def _theirs(texts: Any, task: str, record: Mapping[str, Any], mode: str, chat: bool) -> list[str]:
    """The authors' prompts; in a conversation with all that stands before."""
    if mode == prompts.MULTI_REQUEST:
        make = texts.create_scdq_prompt
        return make(record, PREFIX + task, ChatTemplate(), use_chat_template=chat)["prompts"]
    make = texts.create_multiturn_prompt
    made = make(record, PREFIX + task, ChatTemplate(), use_chat_template=chat)["prompts"]
    return ["".join(made[: i + 1]) for i in range(len(made))]


def _requests(example: Example, chat: bool) -> list[str]:
    """The context, and each question after it."""
    before, after = ("<user>", "</><assistant>") if chat else ("", "")
    questions = [question.text + after + question.answer_start for question in example.questions]
    return [before + example.context, *questions]


def _talk(example: Example) -> list[str]:
    """The conversation up to each question's answer."""
    return [_conversation(example.context, question) for question in example.questions]


def _conversation(context: str, question: Question) -> str:
    texts = [text for turn in question.history for text in turn] + [question.text]
    texts[0] = context + texts[0]
    roles = [("user", "assistant")[i % 2] for i in range(len(texts))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    rendered = ChatTemplate().apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    return rendered + question.answer_start


def _examples(task: str, records: Sequence[Mapping[str, Any]], mode: Any) -> list[Example]:
    with TemporaryDirectory() as folder:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        Path(folder, f"{PREFIX}{task}.jsonl").write_text(lines, "utf-8")
        return scbench.build(
            task,
            tokenizer=Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")),
            max_context=sys.maxsize,
            source={"path": folder},
            mode=mode,
            max_turns=sys.maxsize,
            wording="official",
        )
