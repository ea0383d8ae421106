"""What the mapper costs: parameters, FLOPs, time per token and peak memory, by family and length.

    python perf/mapper_scale.py [--lengths 10000 40000 170000] [--families llama-3.1]

Every measurement is a process of its own with one thread, because a process' peak memory never
falls. Time is the process' CPU time, which other work on the machine hardly changes. Shares are the
mapper's in (proxy's prefill + replay + mapper). That of FLOPs counts the proxy's matrix products
with its weights only: its attention, which grows with length, would make the share smaller still.
That of time is measured at `--share-tokens`, on a proxy of the family's shape with random weights
in float32, of which a quarter of the layers runs and counts four times, and a small vocabulary,
which neither pass multiplies with. (The replay leaves out half of the last layer, so it counts a
few per cent too little.)
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
PART = 4
"""One in so many of a proxy's layers runs when its time is taken."""
VOCABULARY = 4096
T = TypeVar("T")


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


def proxy_weights(config: PreTrainedConfig) -> int:
    """Weights of the proxy outside its embeddings."""
    with torch.device("meta"):
        body = AutoModelForCausalLM.from_config(config).base_model
    return sum(p.numel() for n, p in body.named_parameters() if "embed" not in n)


def time_share(family: Family, tokens: int) -> float:
    """The mapper's share of the CPU time of the proxy's side."""
    torch.set_num_threads(1)
    config = copy.deepcopy(family.proxy)
    config.num_hidden_layers //= PART
    config.vocab_size = VOCABULARY
    proxy = random_model(config, "float32", torch.device("cpu"))
    mapper = build_mapper(family.mapper).eval()
    ids = torch.randint(VOCABULARY, (tokens,))
    scores = torch.rand(family.mapper.proxy_layers, family.mapper.proxy_heads, tokens)

    def prefilled_and_scored(count: int) -> None:
        prefilled = prefill(proxy, ids[:count], 0)
        score_replays(prefilled, replays(proxy, prefilled.context))

    prefilled_and_scored(64)
    mapper.score(scores[..., :64])
    start = time.process_time()
    prefilled_and_scored(tokens)
    between = time.process_time()
    mapper.score(scores)
    mapping = time.process_time() - between
    return mapping / (mapping + PART * (between - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[10_000, 40_000, 160_000, 170_000]
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--share-tokens", type=int, default=1024)
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
        flops = apart(flops_per_token, config)
        # Two FLOPs per weight and token, in the prefill and again in the replay.
        share = flops / (flops + 4 * proxy_weights(family.proxy))
        measured = apart(time_share, family, options.share_tokens)
        for tokens in options.lengths:
            cost = apart(measure, config, tokens)
            print(
                f"| {name} | {config.proxy_channels} → {config.target_channels} "
                f"| {parameters / 1e3:.0f}k | {flops / 1e6:.1f} | {share:.2%} | {measured:.1%} "
                f"| {tokens} | {1e6 * cost.seconds / tokens:.0f} | {cost.peak_bytes / GIB:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
