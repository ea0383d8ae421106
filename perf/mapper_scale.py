"""Cost of the mapper: parameters, FLOPs, time per token and peak memory, by family and length.

    python perf/mapper_scale.py [--lengths 10000 40000 170000] [--families llama-3.1]

Each measurement runs in a separate process with one thread, because the peak memory of a process
never falls. Time is CPU time of the process, which other work on the machine hardly changes. Shares
are those of the mapper in proxy prefill + replay + mapper. The share of FLOPs counts only the
products with the proxy's weights; its attention, which grows with length, would make the share
smaller. The share of time is measured with 1024 tokens, on a proxy of the family's shape
with random weights in float32. A quarter of its layers runs and counts four times; its vocabulary
is small, since neither pass multiplies with it. (The replay skips half of the last layer, so it
counts a few per cent too little.)
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import torch
from shapes import FAMILIES, Family, random_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedConfig

from proxykv.mapper.hybrid import build_mapper
from proxykv.mapper.stages import MapperConfig
from proxykv.model.prefill import prefill
from proxykv.scoring.kvzip import replays, score_replays

GIB = 2**30
LAYER_FRACTION = 4
"""The proxy's time is measured with its layers divided by this number."""
VOCABULARY = 4096
SHARE_TOKENS = 1024
"""Tokens of the context with which the share of time is measured."""
T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Cost of scoring a context.

    Attributes:
        seconds: CPU seconds.
        peak_bytes: peak memory of the process.
    """

    seconds: float
    peak_bytes: int


def measure(config: MapperConfig, tokens: int) -> Cost:
    """Score a random context with an untrained mapper.

    Args:
        config: sizes of the mapper.
        tokens: length of the context.
    """
    torch.set_num_threads(1)
    mapper = build_mapper(config).eval()
    scores = torch.rand(config.proxy_layers, config.proxy_heads, tokens)
    mapper.score(scores[..., :2048])  # first calls allocate and choose kernels
    start = time.process_time()
    mapper.score(scores)
    seconds = time.process_time() - start
    return Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a fresh process and return its result.

    The process is spawned: a forked one would start with the peak memory of its parent.

    Args:
        function: a function of a module.
        *arguments: its arguments.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def flops_per_token(config: MapperConfig, tokens: int = 1024) -> float:
    """Operations of the mapper for each token of a context.

    Args:
        config: sizes of the mapper.
        tokens: length of the context.
    """
    mapper = build_mapper(config).eval()
    scores = torch.rand(config.proxy_layers, config.proxy_heads, tokens)
    # The counter knows plain matrix products, not the CPU's fused attention.
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        mapper(scores)
    return counter.get_total_flops() / tokens


def proxy_weights(config: PreTrainedConfig) -> int:
    """Number of the proxy's weights outside its embeddings."""
    with torch.device("meta"):
        body = AutoModelForCausalLM.from_config(config).base_model
    return sum(p.numel() for n, p in body.named_parameters() if "embed" not in n)


def time_share(family: Family, tokens: int) -> float:
    """Share of the mapper in the CPU time of the proxy's side.

    Args:
        family: shapes of a pair and its mapper.
        tokens: length of the context.
    """
    torch.set_num_threads(1)
    config = copy.deepcopy(family.proxy)
    config.num_hidden_layers //= LAYER_FRACTION
    config.vocab_size = VOCABULARY
    proxy = random_model(config, "float32", torch.device("cpu"))
    mapper = build_mapper(family.mapper).eval()
    ids = torch.randint(VOCABULARY, (tokens,))
    scores = torch.rand(family.mapper.proxy_layers, family.mapper.proxy_heads, tokens)

    def prefill_and_score(count: int) -> None:
        prefilled = prefill(proxy, ids[:count], 0)
        score_replays(prefilled, replays(proxy, prefilled.context))

    prefill_and_score(64)
    mapper.score(scores[..., :64])
    start = time.process_time()
    prefill_and_score(tokens)
    between = time.process_time()
    mapper.score(scores)
    mapping = time.process_time() - between
    return mapping / (mapping + LAYER_FRACTION * (between - start))


def main() -> None:
    """Measure all families and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[10_000, 40_000, 160_000, 170_000]
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = parser.parse_args()
    print(
        "| family | heads | parameters | MFLOP/token | FLOP share | time share "
        "| tokens | µs/token | peak GiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.families:
        family = FAMILIES[name]
        config = family.mapper
        parameters = sum(p.numel() for p in build_mapper(config).parameters())
        flops = in_fresh_process(flops_per_token, config)
        # Two FLOPs per weight and token, in the prefill and again in the replay.
        share = flops / (flops + 4 * proxy_weights(family.proxy))
        measured = in_fresh_process(time_share, family, SHARE_TOKENS)
        for tokens in options.lengths:
            cost = in_fresh_process(measure, config, tokens)
            print(
                f"| {name} | {config.proxy_channels} → {config.target_channels} "
                f"| {parameters / 1e3:.0f}k | {flops / 1e6:.1f} | {share:.2%} | {measured:.1%} "
                f"| {tokens} | {1e6 * cost.seconds / tokens:.0f} | {cost.peak_bytes / GIB:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
