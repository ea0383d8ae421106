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
    coded = tokenizer.encode(context + question)
    ids, half = coded.ids, limit // 2
    if len(ids) <= limit:
        return context, question, False
    head, tail = tokenizer.decode(ids[:half]), len(ids) - half
    # The first token of the question; special tokens have an empty span at 0.
    ends = enumerate(end for _, end in coded.offsets)
    seam = next((i for i, end in ends if end > len(context)), len(ids))
    if seam >= tail:
        # A token may begin in the context and end in the question.
        start = coded.offsets[seam][0] if seam < len(ids) else len(context)
        return head + tokenizer.decode(ids[tail:seam]) + context[start:], question, True
    end = min(len(head), len(context))
    return head[:end], head[end:] + tokenizer.decode(ids[tail:]), True
