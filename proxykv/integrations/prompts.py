"""lm-eval's prompts as token ids: the prompt is encoded whole, then cut after the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxykv.runtime.errors import ConfigError

MAX_NEW_TOKENS = 256
"""Of a task that sets no limit; lm-eval's own models have the same."""

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the most tokens of an answer, the first one given counts."""


@dataclass(frozen=True)
class PromptIds:
    """A prompt's ids in three parts.

    Attributes:
        prefix: special tokens and what the chat template puts before the user's text.
        context: what follows, up to the end of the context.
        question: the rest.
        clean_seam: whether the seam lies between two tokens. If it lies inside a token, context
            and question are encoded separately.
    """

    prefix: tuple[int, ...]
    context: tuple[int, ...]
    question: tuple[int, ...]
    clean_seam: bool


def prompt_ids(tokenizer: Any, prompt: str, opening: int, seam: int) -> PromptIds:
    """Encode a prompt as lm-eval's own model does, and cut it.

    Args:
        tokenizer: a fast tokenizer of transformers.
        prompt: the prompt, in which a chat template has been applied if one is.
        opening: characters that belong to the prefix.
        seam: characters up to the end of the context.
    """
    special = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
    encoded = tokenizer(prompt, add_special_tokens=special, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    prefix, cut = _until(spans, opening), _until(spans, seam)
    clean_seam = cut == len(ids) or spans[cut][0] >= seam
    context, question = ids[prefix:cut], ids[cut:]
    if not clean_seam:
        context = tokenizer(prompt[:seam], add_special_tokens=special)["input_ids"][prefix:]
        question = tokenizer(prompt[seam:], add_special_tokens=False)["input_ids"]
    return PromptIds(tuple(ids[:prefix]), tuple(context), tuple(question), clean_seam)


def context_seam(prompt: str, border: str | None, task: str | None) -> int:
    """Find where the context ends: after the last occurrence of the border.

    Earlier occurrences belong to few-shot examples.

    Args:
        prompt: text of the prompt.
        border: the text between context and question; None if it is unknown.
        task: name of the task, for the message.

    Returns:
        Position in the prompt, in characters.

    Raises:
        ConfigError: if the prompt has no border.
    """
    if not border or border not in prompt:
        raise ConfigError(
            f"task {task}: cannot separate context and question; its documents have no field "
            "`context`, so give model_args marker=<text between them>"
        )
    return prompt.rindex(border) + len(border)


def unmarked(prompt: str, marker: str, task: str | None) -> tuple[str, int]:
    """Remove a marker that separates context and question.

    Args:
        prompt: with the marker.
        marker: the text.
        task: name for errors.

    Returns:
        The prompt, and the number of characters up to the end of the context.

    Raises:
        ConfigError: if the prompt has no marker.
    """
    seam = context_seam(prompt, marker, task)
    before, after = prompt[: seam - len(marker)].replace(marker, ""), prompt[seam:]
    return before + after, len(before)


def answer_limit(settings: Mapping[str, Any]) -> int:
    """Read the most tokens of an answer from a request's generation settings.

    Raises:
        ConfigError: if the request wants to sample.
    """
    if settings.get("do_sample") or (
        settings.get("do_sample") is None and float(settings.get("temperature") or 0) > 0
    ):
        raise ConfigError("proxykv decodes greedily; set do_sample to false and no temperature")
    given = [settings[name] for name in LIMITS if settings.get(name) is not None]
    return int(given[0]) if given else MAX_NEW_TOKENS


def cut_at(text: str, until: str | Sequence[str] | None) -> str:
    """Cut a text at the first occurrence of any of the texts that end an answer.

    Args:
        text: the model's answer.
        until: texts that end an answer.
    """
    for end in [until] if isinstance(until, str) else until or ():
        text = text.split(end, maxsplit=1)[0] if end else text
    return text


def _until(spans: Sequence[tuple[int, int]], end: int) -> int:
    """How many tokens lie within the first `end` characters; special tokens have none."""
    return next((i for i, (_, stop) in enumerate(spans) if stop > end), len(spans))
