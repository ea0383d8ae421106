"""Training batches for the tiny family: contexts of the tiny language and what may follow them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from proxykv.benchmarks import tiny, tiny_language

IGNORE = -100  # label of a token that carries no loss
WHOLE = "Repeat the previous context exactly."
PART = "Repeat the part of the previous context exactly, starting with"
LEAD = 8  # tokens of the previous chunk that KVzip's chunk request ends with
MOST_QUESTIONS = 4  # of one task, so that no task crowds out the others
LAYOUTS = (("answer",), ("copy",), ("answer", "copy"), ("copy", "answer"))
LAYOUT_ODDS = (0.4, 0.3, 0.15, 0.15)


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences; `labels` are not shifted.

    ids long [B, T]; labels[name] long [B, T], IGNORE where `name` ("context", "answer", "copy") has
    no loss; asked bool [B, T] marks question, answer and replay tokens; the first `context` tokens
    of every row are its context.
    """

    ids: Tensor
    labels: dict[str, Tensor]
    asked: Tensor
    context: int


def make_batch(length: int, rows: int, rng: random.Random, tokenizer: Tokenizer) -> Batch:
    """`rows` contexts of `length` tokens, all followed by the same kinds of segments."""
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
    asked = torch.tensor([[k not in ("", "context") for k in row] for row in kinds])
    return Batch(ids, labels, asked, length)


def _sequence(
    length: int, layout: tuple[str, ...], rng: random.Random, tokenizer: Tokenizer
) -> tuple[list[int], list[str]]:
    """Token ids and, for each, its part: "context", "asked", "answer" or "copy"."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    names = tiny.Names(rng)
    tasks = rng.sample(list(tiny.TASKS), rng.randint(1, 2 if length < 96 else 4))
    facts = [tiny.make_facts(task, length, rng, names) for task in tasks]
    context = encode(tiny.make_context(length, [g for f in facts for g in f.groups], rng))
    ids, kinds = list(context), ["context"] * length

    def add(prompt: list[int], kind: str, told: list[int]) -> None:
        told = [*told, tokenizer.get_vocab()[tiny_language.EOS]]
        ids.extend([*prompt, *told])
        kinds.extend(["asked"] * len(prompt) + [kind] * len(told))

    asked = [
        q for f in facts for q in rng.sample(f.questions, min(MOST_QUESTIONS, len(f.questions)))
    ]
    for segment in layout:
        if segment == "answer":
            for question, answer in rng.sample(asked, len(asked)):
                add(encode(question), "answer", encode(answer))
        elif rng.random() < 0.5:
            add(encode(WHOLE), "copy", context)
        else:
            start = rng.randint(LEAD, length - LEAD)
            add(encode(PART) + context[start - LEAD : start], "copy", context[start:])
    return ids, kinds
