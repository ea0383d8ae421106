"""One request: contexts become pruned caches, and a question is answered from each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from proxykv.config.efficiency import Case
from proxykv.efficiency.memory import Course, free_unused, watched
from proxykv.efficiency.pair import MeasuredPair
from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.caches.sweep import SweepCache
from proxykv.model.decode import answer_from
from proxykv.model.devices import clock
from proxykv.model.parallel import out_of_memory
from proxykv.model.tensors import Ids
from proxykv.scoring.engine import ContextAtWork
from proxykv.scoring.timeline import Span


@dataclass(frozen=True)
class RequestInputs:
    """What a request reads and writes.

    Attributes:
        contexts: ids of prefix + context, one for each context of the batch.
        donor: another context's ids, for controls.
        question: ids of the question.
        new_tokens: tokens of an answer.
    """

    contexts: Sequence[Ids]
    donor: Ids
    question: Sequence[int]
    new_tokens: int


def measured(pair: MeasuredPair, case: Case, inputs: RequestInputs, watch: bool) -> dict[str, Any]:
    """Run a request; return its entries of a row.

    Args:
        pair: the models.
        case: what kind of request it is.
        inputs: what it reads and writes.
        watch: whether memory is sampled, which may slow the request down.

    Returns:
        `status`; if it is `ok`, times and, where watched, memory.
    """
    devices = pair.devices
    free_unused(devices)
    try:
        if not watch:
            return {"status": "ok", **timed(pair, case, inputs), **_memory(None, pair, case)}
        with watched(devices) as course:
            times = timed(pair, case, inputs)
        return {"status": "ok", **times, **_memory(course, pair, case)}
    except (RuntimeError, MemoryError) as error:  # an accelerator's, a thread's, the CPU's
        if not out_of_memory(error):
            raise
    # Here the failed request's tensors are no longer referenced.
    free_unused(devices)
    return {
        "status": "out of memory",
        **dict.fromkeys(TIMES),
        "spans": [],
        **_memory(None, pair, case),
    }


TIMES = ("cache_seconds", "first_token_seconds", "decode_seconds", "request_seconds", "kv_bytes")
"""What a request that ran out of memory has no value of."""


@torch.inference_mode()
def timed(pair: MeasuredPair, case: Case, inputs: RequestInputs) -> dict[str, Any]:
    """Run a request.

    Contexts are read one after the other; all pruned caches stay, then each is asked.

    Args:
        pair: the models.
        case: what kind of request it is.
        inputs: what it reads and writes.

    Returns:
        Spans of all phases, and seconds: until all caches are pruned (`cache_seconds`), until the
        first token of the first answer, of one decoded token, and of the whole request, without
        capturing decoding steps on a GPU, which is done once for each shape.
    """
    device, target = pair.target.device, pair.target
    engine = pair.engine(case.schedule)
    start = clock(device)
    spans: list[Span] = []
    caches: list[SlottedCache] = []
    for ids in inputs.contexts:
        work = engine.read(target, ids, [case.method], donor=inputs.donor)
        caches.append(_cache(work, case))
        spans += _since(work, start)
        del work  # with it goes the full cache
    cached = clock(device) - start
    lengths = [len(ids) for ids in inputs.contexts]
    first = _answering(pair, caches[:1], lengths, inputs, 1)
    if device.type != "cpu":
        _answering(pair, caches, lengths, inputs, inputs.new_tokens)  # captures what decodes
    all_answers = _answering(pair, caches, lengths, inputs, inputs.new_tokens)
    engine.proxy.forget()
    return {
        "spans": [asdict(span) for span in sorted(spans, key=lambda span: span.start)],
        "cache_seconds": cached,
        "first_token_seconds": cached + first,
        "decode_seconds": max(0.0, all_answers / len(caches) - first) / (inputs.new_tokens - 1),
        "request_seconds": cached + all_answers,
        "kv_bytes": sum(_kept_bytes(cache) for cache in caches),
    }


def _cache(work: ContextAtWork, case: Case) -> SlottedCache:
    """The pruned cache; the full one is the context's own, which is not copied."""
    if case.scope == "none":
        everything = torch.ones(
            work.prefill.shape, dtype=torch.bool, device=work.prefill.model.device
        )
        return SweepCache(work.prefill.cache, work.prefill.prefix_len, [everything], [0])
    return work.prune(case.method, case.retention, case.scope)[0]


def _since(work: ContextAtWork, start: float) -> Iterator[Span]:
    """The context's spans, in seconds since the request came in."""
    late = work.timeline.origin - start
    for span in work.timeline.spans:
        yield replace(span, start=span.start + late, end=span.end + late)


def _answering(
    pair: MeasuredPair,
    caches: Sequence[SlottedCache],
    lengths: Sequence[int],
    inputs: RequestInputs,
    new_tokens: int,
) -> float:
    """Seconds in which the question is answered from each of the caches."""
    start = clock(pair.target.device)
    for cache, length in zip(caches, lengths, strict=False):
        answer_from(pair.target, cache, length, inputs.question, new_tokens)
    return clock(pair.target.device) - start


def _kept_bytes(cache: SlottedCache) -> int:
    return sum(t.nbytes for entry in cache.entries for t in (entry.keys, entry.values))


def _memory(course: Course | None, pair: MeasuredPair, case: Case) -> dict[str, Any]:
    """Peaks and course, summed over the target's devices; without the proxy's weights where the
    method needs none of them.
    """
    if course is None:
        empty: dict[str, Any] = {"memory_seconds": [], "target_bytes": [], "proxy_bytes": []}
        return {**empty, "target_peak_bytes": None, "proxy_peak_bytes": None}
    parts = len(pair.target.devices)
    shared = len(course.devices) == parts
    unneeded = 0 if case.proxy or not shared else pair.proxy_weights
    peaks, thin = course.peaks(), course.thinned()
    apart = case.proxy and not shared
    return {
        "memory_seconds": thin.seconds,
        "target_bytes": [sum(sample[:parts]) - unneeded for sample in thin.bytes],
        "proxy_bytes": [sample[-1] for sample in thin.bytes] if apart else [],
        "target_peak_bytes": sum(peaks[:parts]) - unneeded,
        "proxy_peak_bytes": peaks[-1] if apart else None,
    }
