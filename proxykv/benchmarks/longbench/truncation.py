"""Fit a prompt into a model's window by cutting out its middle."""

from __future__ import annotations

from tokenizers import Tokenizer


def cut_middle(
    tokenizer: Tokenizer, context: str, question: str, limit: int
) -> tuple[str, str, bool]:
    """Fit a prompt into a number of tokens as the official code does.

    The first and the last half of the prompt's ids (with special tokens) are decoded to text. A
    character that a cut halves becomes U+FFFD. A question of more tokens than half the limit loses
    its beginning.

    Args:
        tokenizer: the target's.
        context: first part of the prompt.
        question: the rest.
        limit: most tokens of the prompt.

    Returns:
        Context, question, and whether the prompt was cut.
    """
    ids = tokenizer.encode(context + question).ids
    if len(ids) <= limit:
        return context, question, False
    half = limit // 2
    head, tail = tokenizer.decode(ids[:half]), tokenizer.decode(ids[-half:])
    # A tokenizer may normalize the question; the tail holds it in that form.
    written = tokenizer.decode(tokenizer.encode(question).ids)
    if tail.endswith(written):
        return head + tail.removesuffix(written), question, True
    end = min(len(head), len(context))
    return head[:end], head[end:] + tail, True
