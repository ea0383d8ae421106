"""Whole requests by phase, for the paper's pairs with random weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes
from perf.gpu.timing import ids, kept, kernels, model, seconds
from perf.gpu.work import kvzip_flops, prefill_flops
from perf.shapes import Family
from proxykv.config.settings.signals import Signal
from proxykv.mapper.hybrid import build_mapper
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import answer_from
from proxykv.model.model import Model
from proxykv.model.tensors import Ids
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.proxy import ProxyMap, Request, prefill_and_score

LENGTHS = ("64k", "16k", "4k")
RETENTION = 0.3
PHASES = {
    "target_prefill": "the target's prefill",
    "proxy_prefill": "the proxy's prefill",
    "proxy_scoring": "the proxy's replay",
    "mapper": "the mapper",
}


def measure(sizes: Sizes, lengths: tuple[str, ...] = LENGTHS) -> Iterator[Row]:
    """Measure one request of each pair and length.

    Args:
        sizes: how large the cases are.
        lengths: names of the lengths, the most interesting one first.
    """
    for name, family in sizes.families.items():
        try:
            pair = _Pair(family, sizes)
            for label in lengths:
                yield from pair.request(f"{name}, {label}", sizes.lengths[label])
        except torch.OutOfMemoryError:
            yield Row(f"a request: {name}", "s", note="out of memory: the two models do not fit")
        pair = None
        gc.collect()


class _Pair:
    """Two models that have served a short request, so that kernels are compiled."""

    def __init__(self, family: Family, sizes: Sizes) -> None:
        self.target, self.proxy = model(family.target, sizes), model(family.proxy, sizes)
        self.sizes, self.kernels = sizes, kernels(family.target, sizes)
        self.mapper = build_mapper(family.mapper).eval().to(self.target.device)
        list(self.request("", sizes.lengths["4k"]))

    def request(self, case: str, tokens: int) -> Iterator[Row]:
        """One request; a row for each phase, or one that says what did not fit."""
        try:
            yield from self._phases(case, tokens)
        except torch.OutOfMemoryError:
            yield Row(f"a request: {case}", "s", kernels=self.kernels, note="out of memory")
        gc.collect()

    @torch.inference_mode()
    def _phases(self, case: str, tokens: int) -> Iterator[Row]:
        context = ids(tokens, self.target.net.config.vocab_size, self.target.device)
        maps = {"proxykv": ProxyMap(Signal(chunk=self.sizes.chunk), self.mapper.score)}
        request = prefill_and_score(
            self.target, self.proxy, context, 0, maps, schedule="sequential"
        )
        flops = {
            "target_prefill": prefill_flops(self.target, tokens),
            "proxy_prefill": prefill_flops(self.proxy, tokens),
            "proxy_scoring": self._replayed(self.proxy, context),
        }
        for span in request.timeline.spans:
            yield self._row(f"{PHASES[span.phase]}: {case}", span.seconds, flops.get(span.phase, 0))
        chunks = replays(self.target, context, self.sizes.chunk)
        took = seconds(self.target.device, lambda: score_replays(request.prefill, chunks))
        yield self._row(f"KVzip's replay: {case}", took, self._replayed(self.target, context))
        took = seconds(self.target.device, lambda: self._first_token(request))
        yield self._row(f"select, prune and answer with a token: {case}", took)

    def _first_token(self, request: Request) -> None:
        context = request.prefill
        cache = PrunedCache(context.cache, 0, kept(context, RETENTION))
        question = [1] * self.sizes.question
        answer_from(self.target, cache, len(context.input_ids), question, 1)

    def _replayed(self, model: Model, context: Ids) -> float:
        chunks = replays(self.target, context, self.sizes.chunk)
        return kvzip_flops(model, [(len(one), len(other)) for one, other in chunks], len(context))

    def _row(self, what: str, took: float, flops: float = 0) -> Row:
        return Row(what, "s", [took], self.kernels, flops=flops, note="one turn")
