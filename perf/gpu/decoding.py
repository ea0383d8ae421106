"""A decoded token from full and from pruned caches, compared with the bytes that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import torch

from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes
from perf.gpu.timing import filled, kept, kernels, model, seconds
from perf.gpu.work import token_bytes
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.caches.sweep import SweepCache
from proxykv.model.decode import answer_from
from proxykv.model.prefill import Prefill

RETENTIONS = (0.1, 0.3)


@torch.inference_mode()
def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure the first pair's target.

    Args:
        sizes: how large the cases are.
    """
    config = next(iter(sizes.families.values())).target
    target = model(config, sizes)
    for label in ("64k", "128k"):
        context = filled(target, sizes.lengths[label])
        case = _Case(context, sizes, kernels(config, sizes))
        full = [case.row(f"full, {kind}, {label}", cache) for kind, cache in _full(context)]
        yield from full
        best = min(median(row.values) for row in full)
        for retention in RETENTIONS:
            cache = PrunedCache(context.cache, 0, kept(context, retention))
            row = case.row(f"pruned, {label}, ρ {retention}", cache)
            yield row
            gain = best / median(row.values)
            yield Row(f"best full / pruned: {label}, ρ {retention}", "×", [gain], row.kernels)


class _Case:
    """How a token is measured."""

    def __init__(self, context: Prefill, sizes: Sizes, kernels: str) -> None:
        self.model, self.position = context.model, len(context.input_ids)
        self.sizes, self.kernels = sizes, kernels

    def row(self, what: str, cache: SlottedCache) -> Row:
        """Time many tokens minus one, after a first answer, which captures the step."""
        question = [1] * self.sizes.question

        def answer(tokens: int) -> float:
            return seconds(
                self.model.device,
                lambda: answer_from(self.model, cache, self.position, question, tokens),
            )

        many = self.sizes.tokens
        answer(1 + many)
        spent = [1e3 * (answer(1 + many) - answer(1)) / many for _ in range(self.sizes.repeats)]
        pairs = sum(sum(entries.counts) for entries in cache.entries)
        own = len(cache.layers) * len(cache.entries[0].counts) * (len(question) + many // 2)
        least = token_bytes(self.model, pairs + own)
        return Row(f"a token: {what}", "ms", spent, self.kernels, bytes=least)


def _full(context: Prefill) -> Sequence[tuple[str, SlottedCache]]:
    """The full cache, as a sweep reads it and packed."""
    everything = torch.ones(context.shape, dtype=torch.bool, device=context.model.device)
    return [
        ("shared", SweepCache(context.cache, 0, [everything], [0])),
        ("packed", PrunedCache(context.cache, 0, everything)),
    ]
