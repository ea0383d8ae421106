"""A tokenizer's chat template: what it writes around the context and the question."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from proxykv.runtime.errors import ConfigError

MARK = "<<the user's text>>"
RENDERINGS = 8
"""A template that differs from one rendering to the next gives two texts in so many."""
RANDOM = ("random", "lipsum")
"""Jinja's filter and function that draw at random, perhaps so rarely that no rendering shows it."""
DRAWS = (
    "the chat template differs from one rendering to the next: it draws at random; use another "
    "template"
)
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
"""How Python writes an object that has no text of its own."""
NO_CLOCK = (
    "{% macro strftime_now() %}{{ varargs, kwargs, raise_exception('it writes today\\'s date; pin "
    "the date in the family file\\'s chat_options (Llama\\'s templates: date_string)') }}"
    "{% endmacro %}{{ '' }}"
)
"""Makes every reading of the clock fail. The empty text keeps a line break that follows."""
PROBES = ("Two  words\tand a <tag> & </think> 'quoted'.\n\n\n" * 100 + "END  ", "x")
"""User's texts, a long one and a short one, in which a template that changes a text shows it."""

Turns = Sequence[tuple[str, str]]
"""Earlier questions of a conversation, each with its answer."""


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template with its options.

    Attributes:
        tokenizer: a tokenizer of transformers.
        options: variables for the template.
        opening: text before the user's text.
        closing: text from the end of the user's text to the answer.
        trims: whether the template drops blanks at the start of the user's text.
    """

    tokenizer: Any
    options: Mapping[str, Any]
    opening: str
    closing: str
    trims: bool

    def context(self, text: str) -> str:
        """A prompt up to the end of the context."""
        return self.opening + (text.lstrip() if self.trims else text)

    def after_context(self, question: str, history: Turns = ()) -> str:
        """Text from the end of the context to the answer, as the template writes it.

        Args:
            question: what follows the context or, after a history, is asked next.
            history: earlier questions of the conversation, the first of which follows the
                context, with their answers.

        Raises:
            ConfigError: if the template writes something else before the context of a
                conversation than before that of a single question.
        """
        first, *later = [*(text for text, _ in history), question]
        turns = [MARK + first]
        for (_, answer), text in zip(history, later, strict=True):
            turns += [answer, text]
        opening, _, rest = _rendered(self.tokenizer, self.options, turns).partition(MARK)
        if opening != self.opening:
            raise ConfigError(
                f"{self.tokenizer.name_or_path}: the chat template begins a conversation in "
                "another way than one question, but contexts are read before questions are known"
            )
        return rest


def chat_template(tokenizer: Any, options: Mapping[str, Any]) -> Template:
    """Find out what a tokenizer's chat template puts around the user's text.

    Args:
        tokenizer: one that `load_tokenizer` returned.
        options: variables of the template, for example `enable_thinking`.

    Raises:
        ConfigError: if there is no template, it fails, leaves out or changes the user's text, or
            differs from one rendering to the next.
    """
    name = tokenizer.name_or_path
    renderings = {_rendered(tokenizer, options, [MARK]) for _ in range(RENDERINGS)}
    if any(map(ADDRESS.search, renderings)):
        raise ConfigError(
            f"{name}: the chat template writes a Python object with its address in memory, which "
            "differs from one process to the next; use another template"
        )
    if len(renderings) > 1 or _draws(tokenizer.get_chat_template()):
        raise ConfigError(f"{name}: {DRAWS}")
    opening, mark, closing = renderings.pop().partition(MARK)
    if not mark:
        raise ConfigError(f"{name}: the chat template leaves out the user's text, or changes it")
    indented, _, _ = _rendered(tokenizer, options, [f"\n {MARK}"]).partition(MARK)
    found = Template(tokenizer, options, opening, closing, trims=indented == opening)
    for text in PROBES:
        if found.context(text) + found.after_context(text) != _rendered(
            tokenizer, options, [text + text]
        ):
            raise ConfigError(
                f"{name}: the chat template changes, measures or repeats the user's text, but "
                "contexts are read before questions are known; use another template"
            )
    return found


def _draws(template: str) -> bool:
    """Whether a template names what draws at random, also in a text, as `map('random')` does."""
    tokens = Environment().lex(template)
    return any(kind != "data" and text.strip("'\"") in RANDOM for _, kind, text in tokens)


def _rendered(tokenizer: Any, options: Mapping[str, Any], turns: Sequence[str]) -> str:
    """A conversation, from the user's first text to the start of the next answer.

    Args:
        tokenizer: has the template, which may not read the clock.
        options: variables of the template.
        turns: texts of user and assistant, in turn.
    """
    roles = ("user", "assistant")
    before = random.getstate()
    try:
        text = tokenizer.apply_chat_template(
            [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)],
            chat_template=NO_CLOCK + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=True,
            **options,
        )
    except Exception as error:  # whatever the statements of a template may raise
        why = " ".join(str(error).split())
        raise ConfigError(f"{tokenizer.name_or_path}: the chat template fails: {why}") from error
    # Also where the filter's name is made by the template: map('ran' ~ 'dom').
    if random.getstate() != before:
        raise ConfigError(f"{tokenizer.name_or_path}: {DRAWS}")
    return text
