"""Variable tracking: a chain of five assignments in noise; the question asks for all its names."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from itertools import pairwise
from string import ascii_uppercase

from tokenizers import Tokenizer

from proxykv.benchmarks.ruler.niah import NOISE
from proxykv.benchmarks.ruler.sample import Sample, largest_size

HOPS = 4
SHOT_TOKENS = 500
SHOT_LETTERS, LETTERS = 3, 5  # of variable names in the worked example and in the task
BEFORE = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
QUESTION = "\nQuestion: Find all variables that are assigned the value {query} in the text above."
ANSWER_START = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} "
    "variables are assigned the value {query}, they are: "
)


class ChainPrompts:
    """Draws prompts, each after a worked example of 500 tokens. Size: lines of noise."""

    sizes = range(HOPS + 1, sys.maxsize)

    def __init__(self, tokenizer: Tokenizer, key: str) -> None:
        """Find the size of the worked example.

        Args:
            tokenizer: measures it.
            key: seeds it.
        """

        def shot(size: int) -> Sample:
            return _solve(size, SHOT_LETTERS, random.Random(key))

        self._shot_size = largest_size(shot, self.sizes, tokenizer, SHOT_TOKENS)

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """See `Maker.draw`."""
        shot = _solve(self._shot_size, SHOT_LETTERS, rng)
        solved = f"{shot.prompt} {' '.join(shot.outputs)}\n\n"
        sample = _solve(size, LETTERS, rng)
        return replace(sample, context=solved + sample.context)


def _solve(size: int, letters: int, rng: random.Random) -> Sample:
    """A chain in `size` lines of noise, without a worked example."""
    names: dict[str, None] = {}
    while len(names) <= HOPS:
        names["".join(rng.choices(ascii_uppercase, k=letters))] = None
    number = str(rng.randrange(10000, 99999))
    links = [f"VAR {next(iter(names))} = {number}"]
    links += [f"VAR {name} = VAR {former} " for former, name in pairwise(names)]
    lines = [NOISE] * size
    for i, place in enumerate(sorted(rng.sample(range(size), len(links)))):
        lines.insert(place + i, links[i])
    fields = {"query": number, "count": HOPS + 1}
    return Sample(
        BEFORE + "\n".join(lines),
        QUESTION.format(**fields),
        ANSWER_START.format(**fields),
        tuple(names),
    )
