"""KVzip: what the model attends to when it repeats the context (arXiv 2505.23416)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from proxykv.config.settings.signals import CHUNK
from proxykv.kernels.attention import blocks, causal_attention, causal_mask
from proxykv.model.context_cache import ContextLayer, Layer
from proxykv.model.loading import Model, bare_model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, KeyValues, Queries, Scores, Stored
from proxykv.scoring.hidden_states import observed

FIRST = "\n\nRepeat the previous context exactly."
NEXT = "\n\nRepeat the part of the previous context exactly, starting with "
OVERLAP = 8
"""Ids of the previous chunk that say where to go on."""

ROWS = {"cpu": 384}
"""Query rows (times query heads of a KV head) at a time: enough for a matrix product, few enough
for a CPU's cache."""
WIDE_ROWS = 8192
"""The same on accelerators."""

Replay = tuple[Ids, Ids]
"""A chunk of the context, and the input that asks for it and repeats it."""


def replays(
    model: Model, context: Ids, chunk: int = CHUNK, first: str = FIRST, following: str = NEXT
) -> list[Replay]:
    """Cut a context into chunks, each with its replay input.

    A replay input is the request (and, after the first chunk, the last ids of the chunk before),
    the chat suffix that opens the answer (a line break where there is no chat template), and the
    chunk itself.
    """
    pairs: list[Replay] = []
    before = context[:0]
    for piece in context.split(chunk):
        pairs.append(replay_of(model, piece, before, first, following))
        before = piece
    return pairs


def replay_of(
    model: Model, chunk: Ids, before: Ids, first: str = FIRST, following: str = NEXT
) -> Replay:
    """The replay input of a chunk.

    Args:
        model: encodes the request.
        chunk: ids of the chunk.
        before: ids of the context before it, of which the last ones start the request; none for
            the first chunk.
        first: the request to repeat the first chunk.
        following: the request to repeat another.
    """
    request = model.encode(following if len(before) else first)
    suffix = model.suffix or model.encode("\n")
    asked = [_like(chunk, request), before[-OVERLAP:], _like(chunk, suffix), chunk]
    return chunk, torch.cat(asked)


def replay_scores(
    model: PreTrainedModel, input_ids: Ids, prefix_len: int, replays: Sequence[Replay]
) -> Scores:
    """Score a context with KVzip (arXiv 2505.23416) under given replay inputs.

    Args:
        model: a causal language model, loaded with `attn_implementation=proxykv.model.ATTENTION`.
        input_ids: 1-D, prefix + context.
        prefix_len: tokens before the context; always kept and not scored.
        replays: (chunk ids, replay ids), covering the context in order.

    Raises:
        ConfigError: if the model was loaded with another attention.
        ValueError: if the chunks do not cover the context.
    """
    return score_replays(prefill(bare_model(model), input_ids, prefix_len), replays)


@torch.inference_mode()
def score_replays(
    prefill: Prefill, replays: Sequence[Replay], plus: bool = False, local: bool = False
) -> Scores:
    """KVzip scores [layer, kv_head, token] from one replay forward per chunk.

    Args:
        prefill: the context.
        replays: its chunks in order, each with its replay input.
        plus: weigh attention as KVzip+ does, before the maximum: times ‖W_o v‖ of the KV pair, over
            ‖h‖ of the replayed token's input to the attention layer (NVIDIA kvpress; arXiv
            2601.07891).
        local: let a replay attend to {prefix, its chunk, itself} only, instead of to the whole
            context. The cost is then linear in the context; the scores are KVzip's where the
            context is one chunk.

    Raises:
        ValueError: if the chunks do not cover the context.
    """
    covered = sum(len(chunk) for chunk, _ in replays)
    if covered != len(prefill.context):
        raise ValueError(f"chunks cover {covered} of {len(prefill.context)} context tokens")
    if any(len(ids) == 0 for _, ids in replays):
        raise ValueError("a replay input is empty: there is no query to score with")
    parts: list[Scores] = []
    start = prefill.prefix_len
    for replay in replays:
        parts.append(score_chunk(prefill, start, replay, plus, local))
        start += len(replay[0])
    return torch.cat(parts, dim=-1)


@torch.inference_mode()
def score_chunk(
    prefill: Prefill, start: int, replay: Replay, plus: bool = False, local: bool = False
) -> Scores:
    """KVzip scores [layer, kv_head, token] of one chunk.

    Args:
        prefill: the context.
        start: the chunk's first token, counted from the prefix's.
        replay: the chunk and its replay input.
        plus: see `score_replays`.
        local: the same.
    """
    chunk, ids = replay
    model, first = prefill.model, len(prefill.input_ids)
    cache = ReplayCache(prefill, slice(start, start + len(chunk)), local)
    positions = torch.arange(first, first + len(ids), device=model.device)
    with observed(model, cache.note) if plus else nullcontext(), suppress(_Scored):
        model.hidden(ids.to(positions.device)[None], positions[None], cache)
    return torch.stack([layer.scores for layer in cache.layers])


class ReplayCache(Cache):
    """A prefilled context with one replay behind it, which is forgotten with this object."""

    layers: list[ReplayLayer]

    def __init__(self, prefill: Prefill, chunk: slice, local: bool) -> None:
        """`chunk`: the replayed tokens' place among prefix + context; `local`: attend to no other.

        (See `score_replays`.)
        """
        last = len(prefill.cache.layers) - 1
        super().__init__(
            layers=[
                ReplayLayer(layer, prefill.prefix_len, chunk, local, last=i == last)
                for i, layer in enumerate(prefill.cache.layers)
            ]
        )
        self.blocks: Any = prefill.model.net.base_model.layers

    def note(self, layer: int, hidden: Float[Tensor, "replay width"]) -> None:
        """Let a layer see what KVzip+ weighs attention with."""
        self.layers[layer].observe(hidden, self.blocks[layer].self_attn.o_proj)


class ReplayLayer(Layer):
    """One layer of a replay: answers attention and scores the chunk on the way.

    The scores are a softmax over {prefix, chunk, replay so far}, computed a tile of queries at a
    time. Attention is over the same keys where the replay is local or the context is one chunk;
    otherwise it is over all keys, and left to PyTorch's fused kernels.
    """

    scores: Float[Tensor, "kv_head chunk"]

    def __init__(
        self, context: ContextLayer, prefix_len: int, chunk: slice, local: bool, last: bool
    ) -> None:
        """`local`: see `score_replays`; `last`: nothing after this layer's scores is needed."""
        super().__init__()
        self.context, self.chunk, self.last = context, chunk, last
        self.scored = slice(prefix_len, prefix_len + chunk.stop - chunk.start)
        self.attends_where_it_scores = local or self.scored.stop == context.length
        self.plus: tuple[Tensor, Tensor] | None = None

    def observe(self, hidden: Float[Tensor, "replay width"], out_proj: nn.Linear) -> None:
        """Note KVzip+'s weights: 1 / ‖h‖ per query, and ‖W_o v‖ per pair and query head."""
        values = self.context.values[0, :, self.chunk]
        per_head = out_proj.weight.unflatten(1, (len(values), -1, values.shape[-1]))
        written = [
            torch.stack([(v @ w.mT).float().norm(dim=-1) for w in group.unbind(1)])
            for v, group in zip(values, per_head.unbind(1), strict=True)
        ]
        self.plus = 1 / hidden.float().norm(dim=-1), torch.stack(written)

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Hold the replay's own keys and values for `attend`."""
        self.keys, self.values = keys, values

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Attention over the context, or the chunk of it, and the replay; sets the scores."""
        out = self._score(query, scaling)
        if self.last:
            raise _Scored
        return self._over_everything(query, scaling) if out is None else out

    def _score(self, query: Queries, scaling: float) -> Queries | None:
        """Set the scores; return attention, too, if it is over the same keys."""
        keys, values = self._columns(self.context.keys, self.keys), None
        out = torch.empty_like(query) if self.attends_where_it_scores and not self.last else None
        if out is not None:
            values = self._columns(self.context.values, self.values)
        grouped = (query[0] * scaling).unflatten(0, (len(keys), -1))
        best = grouped.new_zeros(*grouped.shape[:2], _length(self.scored), dtype=torch.float32)
        for head, at, weights in _weights(grouped, keys):
            scored = weights[..., self.scored]
            if self.plus is not None:
                scored = scored * self.plus[0][at, None]
            torch.maximum(best[head], scored.amax(dim=1), out=best[head])
            if out is not None and values is not None:
                part = weights.to(values.dtype) @ values[head, : weights.shape[-1]]
                out[0].unflatten(0, (len(keys), -1))[head, :, at] = part
        self.scores = (best if self.plus is None else best * self.plus[1]).amax(dim=1)
        return out

    def _columns(self, context: Stored, replay: KeyValues) -> Float[Tensor, "kv_head column dim"]:
        """{prefix, chunk, replay}: what the scores' softmax runs over."""
        prefix = context[0, :, : self.scored.start]
        return torch.cat([prefix, context[0, :, self.chunk], replay[0]], dim=1)

    def _over_everything(self, query: Queries, scaling: float) -> Queries:
        # The copy takes a hundredth of the time of what follows.
        keys = torch.cat([self.context.keys, self.keys], dim=2)
        values = torch.cat([self.context.values, self.values], dim=2)
        return causal_attention(query, keys, values, scaling)


def _weights(
    query: Float[Tensor, "kv_head group replay dim"], keys: Float[Tensor, "kv_head column dim"]
) -> Iterator[tuple[int, slice, Float[Tensor, "group query column"]]]:
    """Causal attention weights, a tile at a time: KV head, queries, and over the keys they see."""
    _, group, replay, _ = query.shape
    rows = ROWS.get(query.device.type, WIDE_ROWS)
    for at in blocks(0, replay, max(1, rows // group)):
        seen = keys.shape[1] - replay + at.stop
        hidden = causal_mask(_length(at), _length(at), query.device)
        for head, head_keys in enumerate(keys):
            logits = (query[head, :, at] @ head_keys[:seen].mT).float()
            logits[..., -_length(at) :].masked_fill_(hidden, -torch.inf)
            yield head, at, logits.softmax(dim=-1)


def _length(part: slice) -> int:
    return part.stop - part.start


def _like(context: Ids, ids: Sequence[int]) -> Ids:
    return torch.tensor(ids, dtype=context.dtype, device=context.device)


class _Scored(Exception):  # noqa: N818  (not an error: it ends a forward that has done its work)
    """The last layer's scores are there."""
