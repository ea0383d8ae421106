"""kvpress' own scores of random models, written to a file. Runs in a process of its own.

Importing kvpress wraps every attention function that transformers knows, so nothing of it may
enter the process that tests this package.
"""

# The press is driven from inside, through attributes that it declares as None.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import sys
from typing import Any

import torch
from cases import CASES, SNAPKV, Case
from kvpress import KVzipPress, SnapKVPress
from random_models import random_net
from torch import Tensor
from transformers import DynamicCache


def kvzip(net: Any, case: Case) -> Tensor:
    """Scores [layer, kv_head, token] of the context, from given replay inputs."""
    # Its "sinks" are the first tokens whatever they are; here, the prefix and nothing else.
    press = KVzipPress(compression_ratio=0.5, n_sink=case.prefix_len)
    press.prefix_length = case.prefix_len
    press.context_length = len(case.ids)
    press._context_ids, press._cache = case.ids[None], DynamicCache()
    net.model(case.ids[None], past_key_values=press._cache)
    heads = net.config.num_key_value_heads
    press.score_val = torch.zeros(net.config.num_hidden_layers, 1, heads, len(case.ids))
    # Chunks and requests are an input of the comparison; pruning is not part of it.
    press.prepare = lambda model, tokenizer: [(c[None], r[None]) for c, r in case.replays]
    press.compress_post = lambda model: None
    for layer in net.model.layers:
        layer.self_attn.rotary_emb = net.model.rotary_emb
    press._perform_kvzip_compression(net, None)
    return press.score_val[:, 0, :, case.prefix_len :].clone()


def snapkv(net: Any, case: Case) -> Tensor:
    """Scores [layer, kv_head, token] of prefix and context; kvpress knows of no prefix."""
    press = SnapKVPress(window_size=SNAPKV["window"], kernel_size=SNAPKV["kernel"])
    layers: list[Tensor] = []

    def keep(module: Any, inputs: Any, kwargs: Any, output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        hidden = kwargs["hidden_states"]
        layers.append(press.score(module, hidden, layer.keys, layer.values, None, kwargs)[0])

    hooks = [
        layer.self_attn.register_forward_hook(keep, with_kwargs=True) for layer in net.model.layers
    ]
    net.model(case.ids[None], past_key_values=DynamicCache())
    for hook in hooks:
        hook.remove()
    return torch.stack(layers)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {}
        for name, case in CASES.items():
            net = random_net(case.architecture, "sdpa")
            found[name] = {"snapkv": snapkv(net, case), "kvzip": kvzip(net, case)}
    torch.save(found, sys.argv[1])
