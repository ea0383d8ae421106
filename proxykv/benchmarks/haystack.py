"""Contexts of a given length: real text, with needles between its sentences or statements."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from proxykv.benchmarks import sources
from proxykv.benchmarks.sources import Document, Piece
from proxykv.runtime.errors import ConfigError

STYLES = ("prose", "code")
MIN_PIECES = 12  # a document with fewer sentences or statements is a stub, not a text


@dataclass(frozen=True)
class Haystack:
    """Consecutive pieces of text: of one document, then of the next where the first is too short.

    Attributes:
        style: "prose" or "code".
        names: names of the documents.
        pieces: the text.
    """

    style: str
    names: tuple[str, ...]
    pieces: tuple[Piece, ...]


class Haystacks:
    """Draws haystacks from documents, each from another document."""

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer, rng: random.Random):
        """Shuffle the documents.

        Args:
            documents: the text.
            tokenizer: measures it.
            rng: decides the order.
        """
        self._tokenizer = tokenizer
        self._cut: dict[str, tuple[Piece, ...]] = {}
        self._order: dict[str, list[Document]] = {}
        for style in STYLES:
            styled = [document for document in documents if document.style == style]
            if styled:
                self._order[style] = rng.sample(styled, len(styled))

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles of which there are documents."""
        return tuple(self._order)

    def draw(self, style: str, index: int, tokens: int, rng: random.Random) -> Haystack:
        """Draw a haystack that starts at a random piece of its first document.

        Args:
            style: of its documents.
            index: selects the first document.
            tokens: the least number of tokens.
            rng: selects the first piece.

        Raises:
            ConfigError: if all documents of the style together are shorter.
        """
        names: list[str] = []
        drawn: list[Piece] = []
        drawn_tokens = 0
        for document, document_pieces in self._from(style, index):
            # The first document starts anywhere but near its end, the next ones at their start.
            first = rng.randrange(max(1, len(document_pieces) * 2 // 3)) if not drawn else 0
            names.append(document.name)
            for piece in document_pieces[first:]:
                drawn.append(piece)
                drawn_tokens += count_tokens(self._tokenizer, piece.text)
                # Counted piece by piece, text takes a few tokens more than as a whole.
                if drawn_tokens >= 1.1 * tokens + 16:
                    return Haystack(style, tuple(names), tuple(drawn))
        raise ConfigError(
            f"sources hold {drawn_tokens} tokens of {style}, {tokens} are needed; name more sources"
        )

    def _from(self, style: str, index: int) -> Iterator[tuple[Document, tuple[Piece, ...]]]:
        order = self._order[style]
        for step in range(len(order)):
            document = order[(index + step) % len(order)]
            if document.name not in self._cut:
                self._cut[document.name] = tuple(sources.pieces(document))
            if len(self._cut[document.name]) >= MIN_PIECES:
                yield document, self._cut[document.name]


def count_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of `text`, without special ones.

    Args:
        tokenizer: a tokenizer of the `tokenizers` library.
        text: the text.
    """
    # The batch form can leave out the offsets, a quarter of the time of a long text.
    return len(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


def fill(
    haystack: Haystack,
    needles: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    rng: random.Random,
) -> str:
    """Cut a haystack to a length and spread needles over all depths of it.

    Args:
        haystack: longer than the context.
        needles: in the order in which they are to come.
        tokenizer: measures the text.
        length: most tokens of the context, needles included.
        rng: places the needles.

    Returns:
        The context. It ends at white space, a few tokens below `length` at most.

    Raises:
        ConfigError: if the needles leave less than half of the context to the haystack, or the
            tokenizer counts too few tokens in the haystack.
    """
    needle_tokens = count_tokens(tokenizer, "\n".join(needles))
    if 2 * needle_tokens > length:
        raise ConfigError(
            f"{len(needles)} needles take {needle_tokens} of {length} tokens; use longer contexts"
        )
    depths = [(i + rng.random()) / len(needles) for i in range(len(needles))]
    budget = length - needle_tokens
    while True:
        kept = _cut(haystack.pieces, tokenizer, budget)
        # The last piece is cut short: nothing follows it.
        places = [int(depth * len(kept)) for depth in depths]
        text = _assemble(kept, needles, places, haystack.style)
        excess = count_tokens(tokenizer, text) - length
        if excess <= 0:
            return text
        budget -= excess


def _cut(pieces: Sequence[Piece], tokenizer: Tokenizer, budget: int) -> list[Piece]:
    """The pieces of the first `budget` tokens; the last one is cut at white space."""
    text = "".join(piece.text for piece in pieces)
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    if not 0 <= budget < len(offsets):
        raise ConfigError(
            f"the tokenizer makes {len(offsets)} tokens of {len(text)} characters, of which "
            f"{budget} are to be taken; use another tokenizer"
        )
    end = offsets[budget][0]
    while end > 0 and not text[end].isspace():
        end -= 1
    kept, start = [], 0
    for piece in pieces:
        if start >= end:
            break
        kept.append(Piece(piece.text[: end - start], piece.indent))
        start += len(piece.text)
    return kept


def _assemble(
    kept: Sequence[Piece], needles: Sequence[str], places: Sequence[int], style: str
) -> str:
    """The text with each needle before the piece of its place, on its own line in code."""
    parts = []
    for i, piece in enumerate(kept):
        for needle, place in zip(needles, places, strict=True):
            if place == i:
                parts.append(f"{piece.indent}{needle}\n" if style == "code" else f"{needle} ")
        parts.append(piece.text)
    return "".join(parts)
