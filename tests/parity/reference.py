"""kvpress' own scores of random models, written to a file. Runs in a separate process.

Importing kvpress wraps every attention function that transformers knows, so nothing of it may
enter the process that tests this package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from cases import ANSWERED, CASES, CONTEXT, PREFIX, QUESTIONS, RATIO, SNAPKV, TEMPLATE, Case
from kvpress import (  # pyright: ignore[reportMissingImports]
    KeyDiffPress,
    KVPressTextGenerationPipeline,
    KVzipPress,
    SnapKVPress,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


class Observed(KVzipPress):
    """The unchanged press; its replay inputs and scores are recorded."""

    def prepare(self, *args: Any, **kwargs: Any) -> list[tuple[Tensor, Tensor]]:
        self.pairs = super().prepare(*args, **kwargs)
        return self.pairs

    def compress_post(self, model: Any) -> None:
        self.scores: Tensor = self.score_val.clone()  # type: ignore[union-attr]
        super().compress_post(model)


def kvzip(net: Any, case: Case, plus: bool) -> dict[str, Any]:
    """Replay inputs, scores and kept set [layer, kv_head, token] of the context."""
    press = Observed(
        compression_ratio=RATIO,
        chunk_size=case.chunk,
        # Its "sinks" are the first tokens of any kind; here, exactly the prefix.
        n_sink=case.prefix_len,
        kvzip_plus_normalization=plus,
    )
    with press(net):
        net.model(input_ids=case.input_ids[None], past_key_values=DynamicCache())
    scores = press.scores[:, 0]
    kept = torch.ones_like(scores, dtype=torch.bool)
    for layer in net.model.layers:
        _, heads, tokens = layer.self_attn.masked_key_indices
        kept[layer.self_attn.layer_idx, heads, tokens] = False
        layer.self_attn.masked_key_indices = None
    return {
        "replays": [(chunk[0], ids[0]) for chunk, ids in press.pairs],
        "scores": scores[..., case.prefix_len :],
        "kept": kept[..., case.prefix_len :],
    }


def snapkv(net: Any, case: Case) -> Tensor:
    """Scores [layer, kv_head, token] of prefix and context; kvpress knows of no prefix."""
    press = SnapKVPress(window_size=SNAPKV["window"], kernel_size=SNAPKV["kernel"])
    layers: list[Tensor] = []

    def keep(module: Any, inputs: Any, kwargs: Any, output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        hidden = kwargs["hidden_states"]
        layers.append(press.score(module, hidden, layer.keys, layer.values, None, kwargs)[0])  # type: ignore[arg-type]

    hooks = [
        layer.self_attn.register_forward_hook(keep, with_kwargs=True) for layer in net.model.layers
    ]
    net.model(case.input_ids[None], past_key_values=DynamicCache())
    for hook in hooks:
        hook.remove()
    return torch.stack(layers)


def answers(net: Any, folder: Path) -> dict[str, list[str]]:
    """What kvpress' pipeline answers: with the full cache, and by two presses."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    pipeline = KVPressTextGenerationPipeline(model=net, tokenizer=tokenizer)
    presses = {
        "full": None,
        "snapkv": SnapKVPress(RATIO, window_size=SNAPKV["window"], kernel_size=SNAPKV["kernel"]),
        "keydiff": KeyDiffPress(compression_ratio=RATIO),
    }
    asked = {"questions": list(QUESTIONS), "answer_prefix": PREFIX, "max_new_tokens": 12}
    return {
        name: pipeline(CONTEXT, press=press, **asked)["answers"] for name, press in presses.items()
    }


def run(case: Case, folder: Path) -> dict[str, Any]:
    net = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return {
        "snapkv": snapkv(net, case),
        "kvzip": kvzip(net, case, plus=False),
        "kvzip_plus": kvzip(net, case, plus=True),
        "answers": answers(net, folder) if case in ANSWERED else {},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    with torch.inference_mode():
        found = {case.name: run(case, root / case.name) for case in CASES}
    torch.save(found, root / "reference.pt")
