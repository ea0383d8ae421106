"""KVzip: what the model attends to when it repeats the context (arXiv 2505.23416)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from proxykv.config.settings.signals import CHUNK
from proxykv.kernels.replay import Plus, ReplayKeyValues
from proxykv.kernels.replay_scores import attend_and_score
from proxykv.model.caches.context import ContextLayer, Layer
from proxykv.model.model import Model, bare_model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, KeyValues, Queries, Scores
from proxykv.scoring.hidden_states import observed

FIRST = "\n\nRepeat the previous context exactly."
NEXT = "\n\nRepeat the part of the previous context exactly, starting with "
OVERLAP = 8
"""Last ids of the previous chunk, which show where the repetition continues."""

Replay = tuple[Ids, Ids]
"""A chunk of the context, and the input that asks for it and repeats it."""


def replays(
    model: Model, context: Ids, chunk: int = CHUNK, first: str = FIRST, following: str = NEXT
) -> list[Replay]:
    """Cut a context into chunks, each with its replay input (KVzip, arXiv 2505.23416).

    A replay input is the request (and, after the first chunk, the last ids of the chunk before),
    the chat suffix that opens the answer (a line break where there is no chat template), and the
    chunk itself.

    Args:
        model: encodes the requests.
        context: ids of the context, without the prefix (1-D).
        chunk: tokens of a chunk.
        first: the request to repeat the first chunk.
        following: the request to repeat another chunk.
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
    parts = [_like(chunk, request), before[-OVERLAP:], _like(chunk, suffix), chunk]
    return chunk, torch.cat(parts)


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
    return torch.stack([layer.scores.to(model.device) for layer in cache.layers])


class ReplayCache(Cache):
    """A prefilled context followed by one replay, which is dropped with this object."""

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
        """Give a layer the factors with which KVzip+ weighs attention.

        Args:
            layer: index of the layer.
            hidden: inputs of its attention.
        """
        self.layers[layer].observe(hidden, self.blocks[layer].self_attn.o_proj)


class ReplayLayer(Layer):
    """One layer of a replay: answers attention and scores the chunk on the way."""

    scores: Float[Tensor, "kv_head chunk"]

    def __init__(
        self, context: ContextLayer, prefix_len: int, chunk: slice, local: bool, last: bool
    ) -> None:
        """`local`: see `score_replays`; `last`: nothing after this layer's scores is needed."""
        super().__init__()
        self.context, self.chunk, self.last = context, chunk, last
        self.prefix_len, self.local = prefix_len, local
        self.plus: Plus | None = None

    def observe(self, hidden: Float[Tensor, "replay width"], out_proj: nn.Linear) -> None:
        """Compute the factors with which KVzip+ weighs attention.

        Args:
            hidden: inputs of this layer's attention.
            out_proj: the layer's output projection.
        """
        values = self.context.values[0, :, self.chunk]
        per_head = out_proj.weight.unflatten(1, (len(values), -1, values.shape[-1]))
        written = [
            torch.stack([(v @ w.mT).float().norm(dim=-1) for w in group.unbind(1)])
            for v, group in zip(values, per_head.unbind(1), strict=True)
        ]
        self.plus = Plus(1 / hidden.float().norm(dim=-1), torch.stack(written))

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Hold the replay's own keys and values for `attend`.

        Args:
            keys: keys after RoPE.
            values: their values.
        """
        self.keys, self.values = keys, values

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Attention over the context, or the chunk of it, and the replay; sets the scores.

        Args:
            query: queries of the replay, after RoPE.
            scaling: factor of the logits.
        """
        context = self.context.keys[0], self.context.values[0]
        layer = ReplayKeyValues(
            *context, self.keys[0], self.values[0], self.prefix_len, self.chunk, self.local
        )
        out, self.scores = attend_and_score(query[0], layer, scaling, self.plus, self.last)
        if out is None:
            raise _Scored
        return out[None]


def _like(context: Ids, ids: Sequence[int]) -> Ids:
    return torch.tensor(ids, dtype=context.dtype, device=context.device)


class _Scored(Exception):  # noqa: N818  (not an error: it ends a forward that has done its work)
    """The last layer's scores are there."""
