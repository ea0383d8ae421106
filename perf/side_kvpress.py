"""kvpress' side of the comparison: `side_kvpress.py <model folder> <dtype> <threads>`."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from kvpress import KVzipPress, SnapKVPress  # pyright: ignore[reportMissingImports]
from kvpress.presses import kvzip_press  # pyright: ignore[reportMissingImports]
from side import QUESTION, RETENTION, RETENTIONS, STEPS, Watch, serve
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

# The press loads the tokenizer at each call, which is not compared.
kvzip_press.AutoTokenizer.from_pretrained = functools.cache(AutoTokenizer.from_pretrained)


class Timed(KVzipPress):
    """The press, with a clock around scoring and selection."""

    watch: Watch
    name: str

    def _perform_kvzip_compression(self, *args: Any) -> None:
        with self.watch.time(self.name):
            super()._perform_kvzip_compression(*args)


class KVPressSide:
    """Measurements of kvpress on one model."""

    def __init__(self, net: Any) -> None:
        """Keep the model."""
        self.net = net

    def kvzip(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time prefill, scoring with selection, and decoding from the masked cache.

        Args:
            context: ids of the context (1-D).
            question: ids of the question (1-D).
            watch: receives the seconds.
        """
        with watch.time("both"):
            cache = self._pruned(context, RETENTION, watch, "scoring")
        watch.seconds["prefill"] = watch.seconds.pop("both") - watch.seconds["scoring"]
        token = self._step(question, len(context), cache)
        for step in range(STEPS):
            with watch.time("decode"):
                token = self._step(token, len(context) + QUESTION + step, cache)
        self._unmask()

    def snapkv(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time prefill, scoring and selection with SnapKV.

        Args:
            context: ids of the context (1-D).
            question: not used.
            watch: receives the seconds.
        """
        with watch.time("snapkv"), SnapKVPress(compression_ratio=1 - RETENTION)(self.net):
            self.net.model(input_ids=context[None], past_key_values=DynamicCache())

    def full(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time prefill and decoding with the full cache.

        Args:
            context: ids of the context (1-D).
            question: ids of the question (1-D).
            watch: receives the seconds.
        """
        with watch.time("full"):
            cache = DynamicCache()
            self.net.model(input_ids=context[None], past_key_values=cache)
            self._decode(question, len(context), cache)

    def sweep(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time all retentions, one after the other.

        Args:
            context: ids of the context (1-D).
            question: ids of the question (1-D).
            watch: receives the seconds.
        """
        with watch.time("sweep"):
            for retention in RETENTIONS:
                cache = self._pruned(context, retention, watch, "sweep_scoring")
                with watch.time("sweep_decode"):
                    self._decode(question, len(context), cache)
                self._unmask()

    def _pruned(self, context: Tensor, retention: float, watch: Watch, name: str) -> DynamicCache:
        press = Timed(compression_ratio=1 - retention)
        press.watch, press.name = watch, name
        cache = DynamicCache()
        with press(self.net):
            self.net.model(input_ids=context[None], past_key_values=cache)
        return cache

    def _decode(self, question: Tensor, first: int, cache: DynamicCache) -> None:
        token = self._step(question, first, cache)
        for step in range(STEPS):
            token = self._step(token, first + QUESTION + step, cache)

    def _step(self, ids: Tensor, first: int, cache: DynamicCache) -> Tensor:
        positions = torch.arange(first, first + len(ids))[None]
        out = self.net(ids[None], past_key_values=cache, position_ids=positions, logits_to_keep=1)
        return out.logits[0].argmax(dim=-1)

    def _unmask(self) -> None:
        for layer in self.net.model.layers:
            layer.self_attn.masked_key_indices = None


if __name__ == "__main__":
    folder, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    side = KVPressSide(net.eval().requires_grad_(False))
    measures = {"kvzip": side.kvzip, "snapkv": side.snapkv, "full": side.full, "sweep": side.sweep}
    serve(measures, len(AutoTokenizer.from_pretrained(folder)))
