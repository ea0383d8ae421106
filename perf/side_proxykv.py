"""This package's side of the comparison: `side_proxykv.py <model folder> <dtype> <threads>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from side import QUESTION, RETENTION, RETENTIONS, STEPS, Watch, serve
from torch import Tensor
from transformers import DynamicCache

from baselines.snapkv import PRESETS, SnapKV
from proxykv.model.context_cache import ATTENTION
from proxykv.model.decode import TokenizedQuestion, answer
from proxykv.model.loading import Model, load_model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.pruned_cache import PrunedCache
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.selection import select

CHUNK = 2048
"""kvpress' chunk, so that both replay the same."""


class Side:
    """Measurements on one model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def kvzip(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """Prefill, scoring, a bare forward of the same replays, and tokens from a pruned cache."""
        with watch.time("prefill"):
            filled = prefill(self.model, context, 0)
        with watch.time("scoring"):
            pairs = replays(self.model, context, CHUNK)
            scores = score_replays(filled, pairs)
        self._bare(filled, [ids for _, ids in pairs], watch)
        cache = PrunedCache(filled.cache, 0, select(scores, RETENTION, "global"))
        del filled
        token = self._step(question, len(context), cache)
        for step in range(STEPS):
            with watch.time("decode"):
                token = self._step(token, len(context) + QUESTION + step, cache)

    def snapkv(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        with watch.time("snapkv"):
            filled = prefill(self.model, context, 0)
            select(SnapKV(None, "kvpress").score(filled), RETENTION, "head")  # type: ignore[arg-type]

    def full(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """One run from the full cache."""
        with watch.time("full"):
            filled = prefill(self.model, context, 0)
            cache = PrunedCache(filled.cache, 0, torch.ones(filled.shape, dtype=torch.bool))
            del filled
            token = self._step(question, len(context), cache)
            for step in range(STEPS):
                token = self._step(token, len(context) + QUESTION + step, cache)

    def sweep(self, context: Tensor, question: Tensor, watch: Watch) -> None:
        """All retentions, and the full cache beside them, in one batch."""
        with watch.time("sweep"):
            with watch.time("sweep_prefill"):
                filled = prefill(self.model, context, 0)
            with watch.time("sweep_scoring"):
                scores = score_replays(filled, replays(self.model, context, CHUNK))
            with watch.time("sweep_decode"):
                keeps = [select(scores, retention, "global") for retention in RETENTIONS]
                ask = TokenizedQuestion(tuple(question.tolist()), (1,), STEPS)
                answer(filled, keeps, [ask], batch_rows=len(keeps) + 1)

    def _bare(self, filled: Prefill, inputs: list[Tensor], watch: Watch) -> None:
        """The replays through transformers' own body and attention, on the same cache."""
        cache = DynamicCache()
        for i, layer in enumerate(filled.cache.layers):
            cache.update(layer.keys, layer.values, i)
        net: Any = self.model.net
        net.set_attn_implementation("sdpa")
        try:
            for ids in inputs:
                with watch.time("bare"):
                    net.base_model(ids[None], past_key_values=cache)
                cache.crop(len(filled.input_ids))
        finally:
            net.set_attn_implementation(ATTENTION)

    def _step(self, ids: Tensor, first: int, cache: PrunedCache) -> Tensor:
        where = torch.arange(first, first + len(ids))[None]
        hidden = self.model.hidden(ids[None], where, cache)
        return self.model.logits(hidden[0, -1:]).argmax(dim=-1)


if __name__ == "__main__":
    folder, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = load_model(Path(folder), dtype=dtype)
    # Every token is decoded, whatever it is.
    model.net.generation_config.eos_token_id = None  # type: ignore[union-attr]
    assert PRESETS["kvpress"]["window"] == 64
    side = Side(model)
    measures = {"kvzip": side.kvzip, "snapkv": side.snapkv, "full": side.full, "sweep": side.sweep}
    serve(measures, len(model.tokenizer))
