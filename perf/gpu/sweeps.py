"""Sweeps: many rows over one shared context. Reading their questions, and a step of decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from perf.gpu.rows import Row
from perf.gpu.sizes import Sizes
from perf.gpu.timing import filled, ids, kept, kernels, model, seconds
from perf.gpu.work import reading_flops, token_bytes
from proxykv.model.decode import TokenizedQuestion, answer
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep

SWEEPS = {("16k", 10): (9, 1), ("64k", 10): (9, 1), ("16k", 150): (29, 5), ("16k", 64): (15, 4)}
"""Length and rows of a sweep: kept sets (the full cache is one more) and questions."""


@torch.inference_mode()
def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure the first pair's target.

    Args:
        sizes: how large the cases are.
    """
    config = next(iter(sizes.families.values())).target
    target = model(config, sizes)
    for (label, rows), (sets, questions) in SWEEPS.items():
        context = filled(target, sizes.lengths[label])
        keeps = [kept(context, (i + 1) / (sets + 1)) for i in range(sets)]
        yield from _sweep(f"{rows} rows, {label}", context, keeps, questions, sizes)


def _sweep(
    case: str, context: Prefill, keeps: Sequence[Keep], questions: int, sizes: Sizes
) -> Iterator[Row]:
    """Reading is an answer of one token; a step is what every further token takes."""
    target, rows = context.model, (1 + len(keeps)) * questions
    config, read = target.net.config, sizes.question + sizes.reference
    words = ids(read, config.vocab_size, target.device).tolist()
    prompt, reference = tuple(words[: sizes.question]), tuple(words[sizes.question :])

    def took(tokens: int) -> float:
        asked = [TokenizedQuestion(prompt, reference, tokens)] * questions
        return seconds(target.device, lambda: answer(context, keeps, asked, batch_rows=rows))

    took(1 + sizes.tokens)  # captures the step
    reading = [took(1) for _ in range(sizes.repeats)]
    whole = [took(1 + sizes.tokens) for _ in range(sizes.repeats)]
    steps = [1e3 * (one - other) / sizes.tokens for one, other in zip(whole, reading, strict=True)]
    tokens, ran = len(context.input_ids), kernels(config, sizes)
    heads = config.num_hidden_layers * config.num_key_value_heads
    least = token_bytes(target, heads * (tokens + rows * (read + sizes.tokens // 2)))
    yield Row(f"a step of {case}", "ms", steps, ran, bytes=least)
    flops = reading_flops(target, rows * read, tokens)
    what = f"reading the questions of {case}"
    yield Row(what, "s", reading, ran, flops=flops, note="with masks, NLL and KL")
