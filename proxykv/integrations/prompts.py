"""lm-eval's prompts as token ids: the prompt is encoded whole, then cut after the context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxykv.config.check import did_you_mean
from proxykv.runtime.errors import ConfigError

MAX_NEW_TOKENS = 256
"""Of a task that sets no limit; lm-eval's own models have the same."""

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the most tokens of an answer, the first one given counts."""

UNUSED = {
    **dict.fromkeys(("num_beams", "num_return_sequences", "repetition_penalty"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "min_length", "min_new_tokens"), 0),
}
"""Settings of transformers that change what greedy decoding gives, unless they have this value."""

WITHOUT_EFFECT = (
    *("top_k", "top_p", "min_p", "typical_p", "length_penalty", "early_stopping"),
    *("use_cache", "pad_token_id"),
)
"""Settings of sampling, of beams and of padding, which greedy decoding of one row does not have."""


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


def context_seam(prompt: str, border: Any, task: str | None) -> int:
    """Find where the context ends: after the last occurrence of the border.

    Earlier occurrences belong to few-shot examples.

    Args:
        prompt: text of the prompt.
        border: the text at whose end the context ends; None if it is unknown.
        task: name of the task, for the message.

    Returns:
        Position in the prompt, in characters.

    Raises:
        ConfigError: if the prompt has no border, or it is no text.
    """
    if border is not None and not isinstance(border, str):
        raise ConfigError(
            f"task {task}: the end of the context is {border!r}, which is no text; correct the "
            "documents' field `context`, or give model_args marker=<text>"
        )
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
        ConfigError: if the request wants something else than greedy decoding, has a setting that
            is unknown here, or a limit that is no count.
    """
    known = ("do_sample", "temperature", "until", *LIMITS, *UNUSED, *WITHOUT_EFFECT)
    for name in settings:
        if name == "max_length":
            raise ConfigError("generation_kwargs: max_length counts the prompt; set max_new_tokens")
        if name not in known:
            raise ConfigError(f"generation_kwargs: unknown {name!r}; {did_you_mean(name, known)}")
    sampled = settings.get("do_sample")
    if sampled is None:
        sampled = _number(settings, "temperature", 0) > 0
    if sampled:
        raise ConfigError("proxykv decodes greedily; set do_sample to false and no temperature")
    for name, neutral in UNUSED.items():
        if _number(settings, name, neutral) != neutral:
            raise ConfigError(f"proxykv decodes greedily; remove {name} from generation_kwargs")
    for name in LIMITS:
        if settings.get(name) is not None:
            limit = _number(settings, name, MAX_NEW_TOKENS)
            if limit < 1 or limit % 1:
                raise ConfigError(f"generation_kwargs: {name} is {limit:g}; give 1 or more tokens")
            return int(limit)
    return MAX_NEW_TOKENS


def answer_ends(settings: Mapping[str, Any]) -> list[str]:
    """Read the texts that end an answer from a request's generation settings.

    Raises:
        ConfigError: if `until` is neither a text nor a list of texts.
    """
    until = settings.get("until")
    ends = [until] if isinstance(until, str) else [] if until is None else until
    if not isinstance(ends, list | tuple) or not all(isinstance(end, str) for end in ends):
        raise ConfigError(f"generation_kwargs: until is {until!r}; give a text or a list of texts")
    return [end for end in ends if end]


def cut_at(text: str, ends: Sequence[str]) -> str:
    """Cut a text at the first occurrence of any of the texts that end an answer.

    Args:
        text: the model's answer.
        ends: texts that end an answer.
    """
    for end in ends:
        text = text.split(end, maxsplit=1)[0]
    return text


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    """A generation setting that is a finite number; a command line may pass it as a text."""
    value = settings.get(name)
    try:
        number = float(default if value is None else value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"generation_kwargs: {name} is {value!r}, which is no number")
    return number


def _until(spans: Sequence[tuple[int, int]], end: int) -> int:
    """How many tokens lie within the first `end` characters; special tokens have none."""
    return next((i for i, (_, stop) in enumerate(spans) if stop > end), len(spans))
