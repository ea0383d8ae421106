"""Shapes that latency is measured on are those of the families."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from proxykv.config import catalog

PAIRS = {"llama-3.1": "llama-3", "qwen-2.5": "qwen-2.5", "qwen-3": "qwen-3"}


@pytest.mark.parametrize("role", ["target", "proxy"])
@pytest.mark.parametrize("name", PAIRS)
def test_measured_shapes_are_the_families(
    name: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(catalog.ROOT / "perf")
    from shapes import FAMILIES  # pyright: ignore[reportMissingImports]

    config = getattr(FAMILIES[name], role)
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    assert {
        "layers": config.num_hidden_layers,
        "query_heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "parameters": sum(p.numel() for p in net.parameters()),
    } == catalog.families()[PAIRS[name]][role]["shape"]
