"""What the mapper costs: parameters, FLOPs, time per token and peak memory, by family and length.

    python benchmarks/mapper_scale.py [--lengths 10000 40000 160000] [--families llama-3.1]

Every measurement is a process of its own with one thread, because a process' peak memory never
falls. Time is the process' CPU time, which other work on the machine hardly changes. The share of
FLOPs is the mapper's in (proxy's prefill + replay + mapper), counting the proxy's matrix products
with its weights only: its attention, which grows with length, would make the share smaller still.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from proxykv.mapper import build_mapper
from proxykv.stages import MapperConfig

GIB = 2**30
T = TypeVar("T")


@dataclass(frozen=True)
class Family:
    """Heads of a pair, and the proxy's weights outside its embeddings."""

    config: MapperConfig
    proxy_weights: float


FAMILIES = {
    "llama-3.1": Family(MapperConfig(16, 8, 32, 8), 0.97e9),
    "qwen-2.5": Family(MapperConfig(28, 2, 28, 4), 1.31e9),
    "qwen-3": Family(MapperConfig(36, 8, 64, 8), 3.63e9),
}


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_bytes: int


def measure(config: MapperConfig, tokens: int) -> Cost:
    """CPU seconds of scoring `tokens` tokens, and the peak memory of the whole process."""
    torch.set_num_threads(1)
    mapper = build_mapper(config).eval()
    scores = torch.rand(config.proxy_layers, config.proxy_heads, tokens)
    mapper.score(scores[..., :2048])  # first calls allocate and choose kernels
    start = time.process_time()
    mapper.score(scores)
    seconds = time.process_time() - start
    return Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` returns, run in a fresh process.

    All of them are: a process starts with the peak memory of the one that it comes from.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def flops_per_token(config: MapperConfig, tokens: int = 1024) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[10_000, 40_000, 160_000])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = parser.parse_args()
    print(
        "| family | heads | parameters | MFLOP/token | FLOP share | tokens | µs/token | peak GiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.families:
        family = FAMILIES[name]
        config = family.config
        parameters = sum(p.numel() for p in build_mapper(config).parameters())
        flops = apart(flops_per_token, config)
        # Two FLOPs per weight and token, in the prefill and again in the replay.
        share = flops / (flops + 4 * family.proxy_weights)
        for tokens in options.lengths:
            cost = apart(measure, config, tokens)
            print(
                f"| {name} | {config.proxy_channels} → {config.target_channels} "
                f"| {parameters / 1e3:.0f}k | {flops / 1e6:.1f} | {share:.2%} | {tokens} "
                f"| {1e6 * cost.seconds / tokens:.0f} | {cost.peak_bytes / GIB:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
