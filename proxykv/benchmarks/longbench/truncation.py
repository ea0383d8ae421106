"""Fit a prompt into a model's window by cutting out its middle."""

from __future__ import annotations

from tokenizers import Tokenizer


def cut_middle(
    tokenizer: Tokenizer, context: str, question: str, limit: int
) -> tuple[str, str, bool]:
    """Context and question of a prompt of at most `limit` tokens, and whether it was cut.

    As the official code does it: the first and the last half of the prompt's ids (with special
    tokens), decoded to text. A character that a cut halves becomes U+FFFD. A question of more
    tokens than half the limit loses its beginning.
    """
    ids = tokenizer.encode(context + question).ids
    if len(ids) <= limit:
        return context, question, False
    half = limit // 2
    head, tail = tokenizer.decode(ids[:half]), tokenizer.decode(ids[-half:])
    # As the tokenizer writes it, which may normalize: so the tail holds it, if the cut is before.
    written = tokenizer.decode(tokenizer.encode(question).ids)
    if tail.endswith(written):
        return head + tail.removesuffix(written), question, True
    end = min(len(head), len(context))
    return head[:end], head[end:] + tail, True
