"""A RULER prompt in its parts, and the search for the size that fills a length."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
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
    """Draws the prompts of a task, of any of these sizes.

    The unit of size is the task's: words of essay, lines of noise, documents, …
    """

    sizes: range

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """Prompt number `index` of the task; all that is random comes from `rng`.

        Raises ConfigError if there is no prompt of that number, or of a size beyond `sizes`.
        """
        ...


def largest_size(
    draw: Callable[[int], Sample], sizes: range, tokenizer: Tokenizer, length: int
) -> int:
    """The size whose sample leaves less of `length` than one more unit takes, or a thousandth.

    Lengths grow with sizes nearly along a line, so a few secant steps within shrinking bounds do;
    each measures a whole prompt, since parts cost other tokens together than apart.
    Raises ConfigError if not even the least size fits; if even the largest leaves room, what `draw`
    raises beyond it.
    """
    low, used = sizes[0], draw(sizes[0]).length(tokenizer)
    if used > length:
        raise ConfigError(f"the shortest prompt and its answer take {used} tokens")
    high = None
    guess = min(2 * low + 8, sizes[-1])
    while high is None or high - low > 1:
        tokens = draw(guess).length(tokenizer)
        per_unit = max((tokens - used) / (guess - low), 0.1)
        if tokens <= length:
            low, used = guess, tokens
            if length - used < max(per_unit, length / 1000):
                break
        else:
            high = guess
        aim = low + int((length - used) / per_unit)
        guess = max(low + 1, min(aim, sizes[-1] if high is None else high - 1))
    return low
