"""What both sides of the comparison with kvpress score: folders with a model and a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from random_models import byte_tokenizer, prefix_text, random_net
from torch import Tensor

SNAPKV = {"window": 64, "kernel": 5}
"""kvpress' defaults."""
RATIO = 0.5
"""Share of the pairs that kvpress removes."""
BYTES = 256
CONTEXT = "The red key is 481. A blue door leads to the hall, and 22 lamps burn in it. " * 3
QUESTIONS = ("Which key is red?", "How many lamps?")
PREFIX = "It is"
"""Of an answer."""
TEMPLATE = "{% for turn in messages %}{{ turn['content'] }}</{{ turn['role'] }}>\n{% endfor %}"
"""Puts nothing before the context, since kvpress would prune that as well."""


@dataclass(frozen=True)
class Case:
    """A context of a random model, replayed in chunks."""

    architecture: str
    prefix_len: int
    context: int
    chunk: int

    @property
    def name(self) -> str:
        return f"{self.architecture}-{self.prefix_len}-{self.context}-{self.chunk}"

    @property
    def input_ids(self) -> Tensor:
        """The template's prefix, then the context."""
        generator = torch.Generator().manual_seed(self.context)
        context = torch.randint(1, BYTES, (self.context,), generator=generator)
        prefix = byte_tokenizer(self.prefix_len).encode(prefix_text(self.prefix_len))
        return torch.cat([torch.tensor(prefix, dtype=torch.long), context])

    def write(self, folder: Path) -> None:
        """Save the model and its tokenizer, as both sides load them."""
        random_net(self.architecture, "eager", vocab_size=BYTES).save_pretrained(folder)
        byte_tokenizer(self.prefix_len).save_pretrained(folder)


CASES = [
    Case(architecture, *sizes)
    for architecture in ("llama", "qwen2", "qwen3")
    for sizes in (
        (0, 90, 100),  # shorter than a chunk
        (0, 120, 40),  # chunks of equal length
        (1, 81, 40),  # a last chunk of one token
        (40, 107, 40),  # a shorter last chunk, and more prefix than kvpress' four sinks
        (1, 700, 600),  # a replay longer than the tile that scores are computed in
    )
]
ANSWERED = [case for case in CASES if case.context == 90]
"""Those whose model also answers questions; one for each architecture."""
