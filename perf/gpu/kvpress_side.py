"""kvpress' KVzip on a random model; settings come on standard input, rows leave as JSON lines.

Runs with kvpress' own packages, so it imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from kvpress import KVzipPress  # pyright: ignore[reportMissingImports]
from kvpress.presses import kvzip_press  # pyright: ignore[reportMissingImports]
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

TOKENIZER = Path(__file__).parents[2] / "models" / "tiny" / "target"


def main() -> None:
    """Time the prefill alone, then the prefill with KVzip, for each length."""
    settings = json.load(sys.stdin)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = dict(settings["config"])
    made = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device(device):
        net = AutoModelForCausalLM.from_config(
            made, dtype=getattr(torch, settings["dtype"]), attn_implementation="sdpa"
        )
    net = net.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    kvzip_press.AutoTokenizer.from_pretrained = lambda *_, **__: tokenizer
    packages = " ".join(f"{name} {version(name)}" for name in ("kvpress", "transformers", "torch"))
    run(net, min(settings["lengths"].values()) // 4)  # warms up
    for case, tokens in settings["lengths"].items():
        prefill, kvzip = run(net, tokens)
        for what, took in (("prefill", prefill), ("KVzip's scoring", kvzip - prefill)):
            row = {"what": f"kvpress: {what}: {case}", "values": [took], "kernels": packages}
            print(json.dumps(row), flush=True)


@torch.inference_mode()
def run(net: Any, tokens: int) -> tuple[float, float]:
    """Seconds of a prefill, and of one with KVzip.

    Args:
        net: the model.
        tokens: of the context.
    """
    ids = torch.randint(1, net.config.vocab_size, (1, tokens), device=net.device)
    start = clock(net)
    net.model(input_ids=ids, past_key_values=DynamicCache())
    middle = clock(net)
    with KVzipPress(compression_ratio=0.7)(net):
        net.model(input_ids=ids, past_key_values=DynamicCache())
    end = clock(net)
    for layer in net.model.layers:
        layer.self_attn.masked_key_indices = None
    return middle - start, end - middle


def clock(net: Any) -> float:
    """Wait for the device; return the time in seconds."""
    if net.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
