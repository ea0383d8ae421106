"""Answer questions from prunings of one context: kept sets x questions are rows of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from proxykv.config.settings import CPU_ROWS
from proxykv.kernels.likelihood import TILE_COPIES, likelihoods, tile_bytes
from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.caches.sweep import SweepCache
from proxykv.model.devices import clock, free_bytes
from proxykv.model.finite import not_finite, require_finite
from proxykv.model.greedy import decode
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep

FREE_SHARE = 0.8
"""Part of the free memory that a batch may take by estimate."""


@dataclass(frozen=True)
class TokenizedQuestion:
    """A tokenized question.

    Attributes:
        prompt: ids up to where the answer starts.
        reference: ids of the reference answer.
        max_new_tokens: the most tokens of the answer.
        stop: ids that end the answer, in addition to the model's own. They do not end it before it
            has a token.
    """

    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    max_new_tokens: int
    stop: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What a pruned cache answers to a question, and how it sees the reference answer.

    Attributes:
        ids: of the answer.
        nll: mean negative log-likelihood per reference token, in nats; None without a reference.
        kl: mean KL(full cache || this cache) of the next-token distributions along the reference,
            in nats; None without a reference.
        seconds: wall time of the batch in which the answer was decoded.
        rows: rows of that batch.
    """

    ids: tuple[int, ...]
    nll: float | None
    kl: float | None
    seconds: float
    rows: int


@torch.inference_mode()
def answer(
    prefill: Prefill,
    keeps: Sequence[Keep],
    questions: Sequence[TokenizedQuestion],
    batch_rows: int | None = None,
) -> list[list[Answer]]:
    """Answer every question from the full cache and from every kept set, greedily.

    Args:
        prefill: the context.
        keeps: kept sets of it.
        questions: what is asked.
        batch_rows: rows (kept sets x questions) that decode together; by default as many as fit.

    Returns:
        A list per question: the full cache's answer, then each kept set's, in order.

    Raises:
        ConfigError: if the model's numbers are not finite.
    """
    shown = [torch.ones_like(keeps[0]), *keeps]
    grid = [(question, keep) for question in range(len(questions)) for keep in range(len(shown))]
    full: dict[int, Tensor] = {}  # the full cache's hidden states along each question's reference
    answers: list[Answer] = []
    if batch_rows is None:
        batch_rows = _most_rows(prefill, questions)
    for start in range(0, len(grid), batch_rows):
        batch = _Batch(prefill, shown, questions, grid[start : start + batch_rows])
        answers += batch.run(full)
    width = len(shown)
    return [answers[i : i + width] for i in range(0, len(answers), width)]


def _most_rows(prefill: Prefill, questions: Sequence[TokenizedQuestion]) -> int:
    """Rows that fit on every device that holds layers; a fixed number where none tells."""
    held = Counter(prefill.model.layer_devices)
    free = {device: free_bytes(device) for device in held}
    return min(
        CPU_ROWS if room is None else rows_that_fit(prefill, questions, room, held[device])
        for device, room in free.items()
    )


def rows_that_fit(
    prefill: Prefill, questions: Sequence[TokenizedQuestion], free: int, layers: int
) -> int:
    """How many rows can decode together in a device's free memory, at least one.

    A row takes its own keys and values, a bit for each entry of the context, and, of the forward
    that reads its question, the activations of a layer and the widest of logits or MLP. The logits
    along references exist in tiles.

    Args:
        prefill: the prefilled context.
        questions: questions to answer.
        free: free memory in bytes.
        layers: layers of the model on this device.
    """
    config = prefill.model.net.config
    _, heads, n = prefill.shape
    size = prefill.cache.layers[0].keys.element_size()
    dim = prefill.cache.layers[0].keys.shape[3]
    read = max(len(question.prompt) + len(question.reference) for question in questions)
    slots = read + max(question.max_new_tokens for question in questions)
    slot_bytes = 2 * layers * heads * slots * dim * size
    bits = layers * heads * n // 8
    forward = read * (8 * config.hidden_size + 3 * config.intermediate_size) * size
    float32 = 4 * config.vocab_size
    reference = max(len(question.reference) for question in questions)
    along = TILE_COPIES * tile_bytes(reference, config.vocab_size, prefill.model.device)
    return max(1, int(FREE_SHARE * free - along) // (slot_bytes + bits + forward + 2 * float32))


@torch.inference_mode()
def answer_from(
    model: Model, cache: SlottedCache, position: int, prompt: Sequence[int], max_new_tokens: int
) -> list[int]:
    """Answer one question from a cache of one row, greedily; nothing of it stays in the cache.

    Args:
        model: the model that filled the cache.
        cache: the context, pruned or full.
        position: position of the question's first token: the length of the unpruned text.
        prompt: ids of the question, up to where the answer starts.
        max_new_tokens: most tokens of the answer.

    Returns:
        Ids of the answer, without the token that ended it.

    Raises:
        ConfigError: if the model's numbers are not finite.
    """
    if max_new_tokens < 1:
        return []
    cache.reset()
    cache.reserve(len(prompt) + max_new_tokens)
    ids = torch.tensor([list(prompt)], device=model.device)
    positions = torch.arange(position, position + len(prompt), device=model.device)
    hidden = model.hidden(ids, positions[None], cache)
    logits = model.logits(hidden[:, -1])
    require_finite(logits, model.net.dtype, "after the question")
    tokens = logits.argmax(dim=-1)
    (written,) = decode(
        model, cache, tokens, positions[-1:] + 1, [max_new_tokens], [model.stop_ids]
    )
    return written


class _Batch:
    """Rows (question, kept set) that run together."""

    def __init__(
        self,
        prefill: Prefill,
        keeps: Sequence[Keep],
        questions: Sequence[TokenizedQuestion],
        grid: Sequence[tuple[int, int]],
    ) -> None:
        self.model: Model = prefill.model
        self.device = prefill.model.device
        self.vocabulary: int = prefill.model.net.config.vocab_size
        self.first = len(prefill.input_ids)
        self.indices = [q for q, _ in grid]
        self.rows = [questions[q] for q in self.indices]
        self.stops = [self.model.stop_ids | question.stop for question in self.rows]
        row_keep = [k for _, k in grid]
        self.cache = SweepCache(prefill.cache, prefill.prefix_len, keeps, row_keep)
        self.prompts = self._tensor([len(question.prompt) for question in self.rows])

    def run(self, full: dict[int, Tensor]) -> list[Answer]:
        """Read questions and references, then decode from the questions' ends."""
        start = clock(self.device)
        hidden = self._read()
        nll, kl = self._along_reference(hidden, full)
        first_tokens = self._first_tokens(hidden)
        self.cache.truncate(self.prompts)
        limits = [question.max_new_tokens for question in self.rows]
        positions = self.first + self.prompts
        written = decode(self.model, self.cache, first_tokens, positions, limits, self.stops)
        seconds = clock(self.device) - start
        return [
            Answer(tuple(ids), n, k, seconds, len(written))
            for ids, n, k in zip(written, nll, kl, strict=True)
        ]

    def _read(self) -> Float[Tensor, "row token width"]:
        texts = [self._tensor([*question.prompt, *question.reference]) for question in self.rows]
        longest = max(len(text) for text in texts)
        ids = torch.stack([pad(text, (0, longest - len(text))) for text in texts])
        lengths = self._tensor([len(text) for text in texts])
        steps = torch.arange(longest, device=self.device)
        self.cache.reserve(longest + max(question.max_new_tokens for question in self.rows))
        self.cache.admit(steps < lengths[:, None])
        return self.model.hidden(ids, (self.first + steps).expand_as(ids), self.cache)

    def _along_reference(
        self, hidden: Tensor, full: dict[int, Tensor]
    ) -> tuple[list[float | None], list[float | None]]:
        """NLL and KL along the reference; the rows of a question stand side by side."""
        nll: dict[int, Tensor] = {}
        kl: dict[int, Tensor] = {}
        for index, group in groupby(range(len(self.rows)), key=self.indices.__getitem__):
            rows = [*group]
            question = self.rows[rows[0]]
            if not question.reference:
                continue
            first = len(question.prompt) - 1
            along = hidden[rows, first : first + len(question.reference) + 1]
            reference = self._tensor(question.reference)
            found = likelihoods(
                self.model.logits, reference, along, self.vocabulary, full.get(index)
            )
            full.setdefault(index, along[0].clone())
            nll |= zip(rows, found.nll, strict=True)
            kl |= zip(rows, found.kl, strict=True)
        found = _read(nll, len(self.rows)), _read(kl, len(self.rows))
        if not all(isfinite(value) for values in found for value in values if value is not None):
            raise not_finite(self.model.net.dtype, "along the reference answer")
        # Rounding may leave a full cache just below 0.
        return found[0], [None if value is None else max(0.0, value) for value in found[1]]

    def _first_tokens(self, hidden: Tensor) -> Int[Tensor, " row"]:
        """The first token of each row's own answer, which does not end it where it may not."""
        rows = torch.arange(len(self.rows), device=self.device)
        logits = self.model.logits(hidden[rows, self.prompts - 1])
        require_finite(logits, self.model.net.dtype, "after the question")
        for row, question in enumerate(self.rows):
            if question.stop:
                logits[row, self._tensor(sorted(self.stops[row]))] = -torch.inf
        return logits.argmax(dim=-1)

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.device)


def _read(values: dict[int, Tensor], rows: int) -> list[float | None]:
    """Values of all rows, fetched from the device at once; None for rows without one."""
    numbers = torch.stack(list(values.values())).tolist() if values else []
    found = dict(zip(values, numbers, strict=True))
    return [found.get(row) for row in range(rows)]
