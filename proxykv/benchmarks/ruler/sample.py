"""A RULER prompt in its parts, and the search for the size that fills a length."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from tokenizers import Tokenizer

from proxykv.benchmarks.haystack import count_tokens
from proxykv.benchmarks.ruler.corpora import Corpora
from proxykv.runtime.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """A prompt cut where the official template's `{context}` ends, and where the answer starts.

    Attributes:
        context: everything up to the end of `{context}`.
        question: what follows, up to the answer prefix.
        answer_start: the official answer prefix.
        outputs: the official list of references.
        max_new_tokens: tokens that are reserved for the answer.
    """

    context: str
    question: str
    answer_start: str
    outputs: tuple[str, ...]
    max_new_tokens: int = 0

    @property
    def prompt(self) -> str:
        """The official prompt."""
        return self.context + self.question + self.answer_start

    def length(self, tokenizer: Tokenizer) -> int:
        """Tokens of the prompt and of the longest answer, as RULER counts them."""
        return count_tokens(tokenizer, self.prompt) + self.max_new_tokens


@dataclass(frozen=True)
class Ingredients:
    """What prompts of one task and length are made of.

    Attributes:
        texts: words, essays and documents.
        tokenizer: measures prompts.
        length: tokens of prompt and answer together.
        room: tokens of the prompt.
        key: seeds what all samples share.
    """

    texts: Corpora
    tokenizer: Tokenizer
    length: int
    room: int
    key: str


class Maker(Protocol):
    """Draws the prompts of a task.

    Attributes:
        sizes: that a prompt may have, in the task's unit: words of essay, lines of noise, …
    """

    sizes: range

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """Draw a prompt.

        Args:
            index: number of the prompt; it selects the question where a data set has questions.
            size: of the prompt, one of `sizes`.
            rng: everything random comes from it.

        Raises:
            ConfigError: if there is no prompt of that number or size.
        """
        ...


UNITS_PER_TOKEN = 10
"""More units of size than any tokenizer encodes as one token: a unit is a word at least."""
SECANT_STEPS = 40
"""After so many steps the search halves its bounds."""


def largest_size(
    draw: Callable[[int], Sample], sizes: range, tokenizer: Tokenizer, length: int
) -> int:
    """Find the largest size whose sample fits, within one unit or a thousandth of `length`.

    Lengths grow with sizes nearly along a line, so a few secant steps within shrinking bounds do;
    each measures a whole prompt, since parts cost other tokens together than apart. The number of
    steps is bounded for every tokenizer.

    Args:
        draw: makes the sample of a size.
        sizes: that a sample may have.
        tokenizer: measures samples.
        length: most tokens of a sample.

    Returns:
        The size.

    Raises:
        ConfigError: if not even the least size fits, if even the largest leaves room (then it is
            what `draw` raises beyond it), or if lengths do not grow with sizes.
    """
    low, used = sizes[0], draw(sizes[0]).length(tokenizer)
    if used > length:
        raise ConfigError(f"the shortest prompt and its answer take {used} tokens")
    high, beyond = None, low + UNITS_PER_TOKEN * length
    guess = min(2 * low + 8, sizes[-1])
    for step in count():
        tokens = draw(guess).length(tokenizer)
        per_unit = max((tokens - used) / (guess - low), 1 / UNITS_PER_TOKEN)
        if tokens <= length:
            low, used = guess, tokens
            if length - used < max(per_unit, length / 1000):
                break
        else:
            high = guess
        if high is not None and high - low <= 1:
            break
        if low >= beyond:
            raise ConfigError(
                f"the tokenizer makes {used} tokens of {len(draw(low).prompt)} characters, so that "
                "no text fills the length; use another tokenizer"
            )
        aim = low + int((length - used) / per_unit)
        if step >= SECANT_STEPS:
            aim = (low + (high or beyond)) // 2
        guess = max(low + 1, min(aim, sizes[-1] if high is None else high - 1))
    return low
