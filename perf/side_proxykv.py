"""This package's side of the comparison: `side_proxykv.py <model folder> <dtype> <threads>`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from side import QUESTION, RETENTION, RETENTIONS, STEPS, Watch, serve
from torch import Tensor
from transformers import DynamicCache

from baselines.snapkv import PRESETS
from proxykv.config.catalog import methods_of
from proxykv.model.caches.context import ATTENTION
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import TokenizedQuestion
from proxykv.model.loading import load_model
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import ContextAtWork, Engine
from proxykv.scoring.kvzip import replays
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy

CHUNK = 2048
"""Chunk size of kvpress, so that both sides replay the same."""


METHODS = {
    "kvzip": {"id": "kvzip_kvpress", "base": "kvzip", "params": {"chunk": CHUNK}},
    "snapkv": {"id": "snapkv_kvpress", "base": "snapkv", "params": {"preset": "kvpress"}},
    "full": "full",
}


class ProxyKVSide:
    """Measurements of this package on one model."""

    def __init__(self, model: Model) -> None:
        """Prepare KVzip and SnapKV with the settings of kvpress."""
        self.model = model
        ledger = Ledger()
        no_proxy = Proxy(lambda: model, ledger)
        methods = methods_of(list(METHODS.values()))
        context = MethodContext({}, no_proxy, methods, {}, seed=0, ledger=ledger)
        self.engine = Engine(context, no_proxy, "sequential")

    def kvzip(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time prefill, scoring, a plain forward of the replays, and decoding after pruning.

        Args:
            context: ids of the context (1-D).
            question: ids of the question (1-D).
            watch: receives the seconds.
        """
        with watch.time("prefill"):
            work = self._read(context)
        with watch.time("scoring"):
            work.scores("kvzip_kvpress")
        inputs = [ids for _, ids in replays(self.model, context, CHUNK)]
        self._bare(work.prefill, inputs, watch)
        cache, _ = work.prune("kvzip_kvpress", RETENTION, "global")
        del work
        token = self._step(question, len(context), cache)
        for step in range(STEPS):
            with watch.time("decode"):
                token = self._step(token, len(context) + QUESTION + step, cache)

    def snapkv(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time prefill, scoring and selection with SnapKV.

        Args:
            context: ids of the context (1-D).
            question: not used.
            watch: receives the seconds.
        """
        with watch.time("snapkv"):
            self._keeps(self._read(context), "snapkv_kvpress", [RETENTION])

    def full(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time prefill and decoding with the full cache.

        Args:
            context: ids of the context (1-D).
            question: ids of the question (1-D).
            watch: receives the seconds.
        """
        with watch.time("full"):
            work = self._read(context)
            cache, _ = work.prune("full", 1.0, "none")
            del work
            token = self._step(question, len(context), cache)
            for step in range(STEPS):
                token = self._step(token, len(context) + QUESTION + step, cache)

    def sweep(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Time all retentions and the full cache, which decode in one batch.

        Args:
            context: ids of the context (1-D).
            question: ids of the question (1-D).
            watch: receives the seconds.
        """
        with watch.time("sweep"):
            with watch.time("sweep_prefill"):
                work = self._read(context)
            with watch.time("sweep_scoring"):
                work.scores("kvzip_kvpress")
            with watch.time("sweep_decode"):
                keeps = self._keeps(work, "kvzip_kvpress", RETENTIONS)
                tokens = TokenizedQuestion(tuple(question.tolist()), (1,), STEPS)
                work.answers(keeps, [tokens], batch_rows=len(keeps) + 1)

    def _read(self, context: Tensor) -> ContextAtWork:
        return self.engine.read(self.model, context, [])

    def _keeps(self, work: ContextAtWork, method: str, retentions: Iterable[float]) -> list[Keep]:
        grid = [(self.engine.methods[method], retention) for retention in retentions]
        return [pruning.keep for pruning in work.prunings(grid)]

    def _bare(self, prefilled: Prefill, inputs: list[Tensor], watch: Watch) -> None:
        """Time the replays with the body, attention and cache of transformers."""
        cache = DynamicCache()
        for i, layer in enumerate(prefilled.cache.layers):
            cache.update(layer.keys, layer.values, i)
        net: Any = self.model.net
        net.set_attn_implementation("sdpa")
        try:
            for ids in inputs:
                with watch.time("bare"):
                    net.base_model(ids[None], past_key_values=cache)
                cache.crop(-len(ids))
        finally:
            net.set_attn_implementation(ATTENTION)

    def _step(self, ids: Tensor, first: int, cache: PrunedCache) -> Tensor:
        positions = torch.arange(first, first + len(ids))[None]
        hidden = self.model.hidden(ids[None], positions, cache)
        return self.model.logits(hidden[0, -1:]).argmax(dim=-1)


if __name__ == "__main__":
    folder, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = load_model(Path(folder), dtype=dtype)
    # Every token is decoded, whatever it is.
    model.net.generation_config.eos_token_id = None  # type: ignore[union-attr]
    assert PRESETS["kvpress"]["window"] == 64
    side = ProxyKVSide(model)
    measures = {"kvzip": side.kvzip, "snapkv": side.snapkv, "full": side.full, "sweep": side.sweep}
    serve(measures, len(model.tokenizer))
