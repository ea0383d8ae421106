"""Training batches for the tiny family: contexts of the tiny language, questions and replays."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from proxykv.benchmarks import tiny, tiny_language

IGNORE = -100
"""Label of a token without loss."""
WHOLE = "Repeat the previous context exactly."
PART = "Repeat the part of the previous context exactly, starting with"
LEAD = 8
"""Tokens of the previous chunk that end KVzip's request to repeat a chunk."""
MOST_QUESTIONS = 4
"""Most questions about one task's facts in a sequence, so that no task dominates."""
LAYOUTS = (("answer",), ("copy",), ("answer", "copy"), ("copy", "answer"))
LAYOUT_ODDS = (0.4, 0.3, 0.15, 0.15)


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences.

    Attributes:
        ids: token ids, long [B, T].
        labels: by kind of token (`context`, `answer`, `copy`), long [B, T]: the ids of these
            tokens, `IGNORE` elsewhere; not shifted.
        after_context: marks tokens of questions, answers and replays, bool [B, T].
        context: number of tokens at the start of each row that are its context.
    """

    ids: Tensor
    labels: dict[str, Tensor]
    after_context: Tensor
    context: int


def make_batch(length: int, rows: int, rng: random.Random, tokenizer: Tokenizer) -> Batch:
    """Make a batch whose contexts are all followed by the same kinds of segments.

    Args:
        length: tokens of each context.
        rows: number of contexts.
        rng: draws contexts, questions and segments.
        tokenizer: of the tiny language.
    """
    layout = rng.choices(LAYOUTS, LAYOUT_ODDS)[0]
    sequences = [_sequence(length, layout, rng, tokenizer) for _ in range(rows)]
    longest = max(len(ids) for ids, _ in sequences)
    ids = torch.full((rows, longest), tokenizer.get_vocab()[tiny_language.PAD])
    kinds = [[""] * longest for _ in range(rows)]
    for row, (tokens, kind) in enumerate(sequences):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        kinds[row][: len(kind)] = kind
    labels = {
        name: torch.where(torch.tensor([[k == name for k in row] for row in kinds]), ids, IGNORE)
        for name in ("context", "answer", "copy")
    }
    after_context = torch.tensor([[k not in ("", "context") for k in row] for row in kinds])
    return Batch(ids, labels, after_context, length)


def _sequence(
    length: int, layout: tuple[str, ...], rng: random.Random, tokenizer: Tokenizer
) -> tuple[list[int], list[str]]:
    """Draw one sequence.

    Returns:
        Token ids, and the kind of each token: "context", "request", "answer" or "copy".
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    names = tiny.Names(rng)
    tasks = rng.sample(list(tiny.TASKS), rng.randint(1, 2 if length < 96 else 4))
    facts = [tiny.make_facts(task, length, rng, names) for task in tasks]
    context = encode(tiny.make_context(length, [g for f in facts for g in f.groups], rng))
    ids, kinds = list(context), ["context"] * length

    def add(request: list[int], kind: str, reply: list[int]) -> None:
        reply = [*reply, tokenizer.get_vocab()[tiny_language.EOS]]
        ids.extend([*request, *reply])
        kinds.extend(["request"] * len(request) + [kind] * len(reply))

    questions = [
        q for f in facts for q in rng.sample(f.questions, min(MOST_QUESTIONS, len(f.questions)))
    ]
    for segment in layout:
        if segment == "answer":
            for question, answer in rng.sample(questions, len(questions)):
                add(encode(question), "answer", encode(answer))
        elif rng.random() < 0.5:
            add(encode(WHOLE), "copy", context)
        else:
            start = rng.randint(LEAD, length - LEAD)
            add(encode(PART) + context[start - LEAD : start], "copy", context[start:])
    return ids, kinds
