"""KVzip: what the model attends to when it repeats the context (arXiv 2505.23416)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import Cache, PreTrainedModel

from proxykv.cache import ContextLayer, Layer, causal_attention
from proxykv.models import Model
from proxykv.prefill import Prefill, prefill
from proxykv.scorer import Bench
from proxykv.tensors import Ids, KeyValues, Queries, Scores

CHUNK = 2000
FIRST = "\n\nRepeat the previous context exactly."
NEXT = "\n\nRepeat the part of the previous context exactly, starting with "
OVERLAP = 8
"""Ids of the previous chunk that tell the model where to go on."""
TILE = 512
"""Replay queries whose attention weights exist at a time."""

Replay = tuple[Ids, Ids]
"""A chunk of the context, and the input that asks for it and repeats it."""

VARIANTS = {"kvzip": {"scope": "global"}, "kvzip_head": {"scope": "head"}}


class KVzip:
    """KVzip's scores; the id says how the budget is shared (`kvzip`: over all heads)."""

    def __init__(self, bench: Bench, chunk: int = CHUNK) -> None:
        """`chunk`: context tokens replayed at a time."""
        self.chunk = chunk

    def score(self, prefill: Prefill) -> Scores:
        """Maximum replay attention that each KV pair receives, in [0, 1]."""
        return prefill.once(
            ("kvzip", self.chunk),
            lambda: score_replays(prefill, replays(prefill.model, prefill.context, self.chunk)),
        )


def replays(model: Model, context: Ids, chunk: int = CHUNK) -> list[Replay]:
    """Cut a context into chunks, each with its replay input: request, chat suffix, the chunk.

    The suffix opens the answer; where there is no chat template it is a line break.
    """
    suffix = model.suffix or model.encode("\n")
    pairs: list[Replay] = []
    for start in range(0, len(context), chunk):
        piece = context[start : start + chunk]
        request = model.encode(NEXT if start else FIRST)
        cue = context[max(0, start - OVERLAP) : start]
        ids = torch.cat([_like(context, request), cue, _like(context, suffix), piece])
        pairs.append((piece, ids))
    return pairs


def replay_scores(
    model: PreTrainedModel, input_ids: Ids, prefix_len: int, replays: Sequence[Replay]
) -> Scores:
    """KVzip scores of a context under given replay inputs.

    Args:
        model: a causal language model, loaded with `proxykv.cache.ATTENTION`.
        input_ids: 1-D, prefix + context.
        prefix_len: tokens before the context; always kept and not scored.
        replays: (chunk ids, replay ids), covering the context in order.

    Raises:
        ValueError: if the chunks do not cover the context.
    """
    bare = Model(model, tokenizer=None, prefix=(), suffix=(), digest="")
    return score_replays(prefill(bare, input_ids, prefix_len), replays)


@torch.inference_mode()
def score_replays(prefill: Prefill, replays: Sequence[Replay]) -> Scores:
    """KVzip scores [layer, kv_head, token] from one replay forward per chunk."""
    covered = sum(len(chunk) for chunk, _ in replays)
    if covered != len(prefill.context):
        raise ValueError(f"chunks cover {covered} of {len(prefill.context)} context tokens")
    parts: list[Scores] = []
    start = prefill.prefix_len
    for chunk, ids in replays:
        cache = ReplayCache(prefill, slice(start, start + len(chunk)))
        first = len(prefill.input_ids)
        where = torch.arange(first, first + len(ids), device=prefill.model.device)
        try:
            prefill.model.hidden(ids.to(where.device)[None], where[None], cache)
        except _Scored:
            parts.append(torch.stack([layer.scores for layer in cache.layers]))
        start += len(chunk)
    return torch.cat(parts, dim=-1)


class ReplayCache(Cache):
    """A prefilled context with one replay behind it; the replay's own keys are dropped after it."""

    layers: list[ReplayLayer]

    def __init__(self, prefill: Prefill, chunk: slice) -> None:
        """`chunk`: the replayed tokens' place among prefix + context."""
        last = len(prefill.cache.layers) - 1
        super().__init__(
            layers=[
                ReplayLayer(layer, prefill.prefix_len, chunk, last=i == last)
                for i, layer in enumerate(prefill.cache.layers)
            ]
        )


class ReplayLayer(Layer):
    """One layer of a replay: answers attention and scores the chunk on the way."""

    scores: Float[Tensor, "kv_head chunk"]

    def __init__(self, context: ContextLayer, prefix_len: int, chunk: slice, last: bool) -> None:
        """`last`: nothing after this layer's scores is needed."""
        super().__init__()
        self.context, self.prefix_len, self.chunk, self.last = context, prefix_len, chunk, last

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Write the replay behind the context, in slots that the next replay will overwrite."""
        context = self.context
        self.keys, self.values = context.slots.write(context.length, keys, values)
        # Growing may have moved the context.
        context.keys = self.keys[:, :, : context.length]
        context.values = self.values[:, :, : context.length]

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Attention over the whole context and the replay; scores as a side effect."""
        split = self.context.length
        keys = self.keys[0]
        columns = torch.cat(
            [keys[:, : self.prefix_len], keys[:, self.chunk], keys[:, split:]], dim=1
        )
        self.scores = replay_maxima(
            query[0], columns, self.prefix_len, self.chunk.stop - self.chunk.start, scaling
        )
        if self.last:
            raise _Scored
        return causal_attention(query, self.keys, self.values, scaling)


def replay_maxima(
    query: Float[Tensor, "q_head replay dim"],
    keys: Float[Tensor, "kv_head column dim"],
    prefix_len: int,
    chunk_len: int,
    scaling: float,
) -> Float[Tensor, "kv_head chunk"]:
    """Softmax over exactly {prefix, chunk, replay so far}; chunk columns; max over queries.

    `keys` holds those three in this order. A tile of queries at a time: log-sum-exp per query, then
    the maximum of `exp(logit - lse)` per column, so the weights never exist as a whole.
    """
    heads, columns, dim = keys.shape
    replay = query.shape[1]
    grouped = query.reshape(heads, -1, replay, dim)
    before = columns - replay  # prefix and chunk: visible to every query
    best = keys.new_full((heads, chunk_len), -torch.inf, dtype=torch.float32)
    for start in range(0, replay, TILE):
        stop = min(start + TILE, replay)
        seen = before + stop
        tile = grouped[:, :, start:stop].reshape(heads, -1, dim) @ keys[:, :seen].mT
        logits = (tile.float() * scaling).view(heads, -1, stop - start, seen)
        logits.masked_fill_(~_causal(stop - start, seen, keys.device), -torch.inf)
        lse = logits.logsumexp(dim=-1, keepdim=True)
        weights = logits[..., prefix_len:before] - lse
        best = torch.maximum(best, weights.amax(dim=(1, 2)))
    return best.exp()


def _causal(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "query key"]:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _like(context: Ids, ids: Sequence[int]) -> Ids:
    return torch.tensor(ids, dtype=context.dtype, device=context.device)


class _Scored(Exception):  # noqa: N818  (not an error: it ends a forward that has done its work)
    """The last layer's scores are there."""


METHOD = KVzip
