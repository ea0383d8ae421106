"""The tensors that a replay of one layer reads: keys and values, and the weights of KVzip+."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class ReplayKeyValues(NamedTuple):
    """Keys and values that a replay reads in one layer, after RoPE and without a batch dimension.

    Attributes:
        context_keys: keys of prefix and context.
        context_values: their values.
        keys: keys of the replay.
        values: their values.
        prefix_len: tokens before the context.
        chunk: the slice of prefix + context that is replayed.
        local: attention reads no other chunk of the context; without it, only the scores do not.
    """

    context_keys: Float[Tensor, "kv_head context dim"]
    context_values: Float[Tensor, "kv_head context dim"]
    keys: Float[Tensor, "kv_head replay dim"]
    values: Float[Tensor, "kv_head replay dim"]
    prefix_len: int
    chunk: slice
    local: bool = False

    @property
    def scored(self) -> slice:
        """The chunk's place among {prefix, chunk, replay}."""
        return slice(self.prefix_len, self.prefix_len + self.chunk.stop - self.chunk.start)

    @property
    def attended_where_scored(self) -> bool:
        """Whether attention is over {prefix, chunk, replay}, as the scores' softmax is."""
        return self.local or self.scored.stop == self.context_keys.shape[1]


class Plus(NamedTuple):
    """What KVzip+ weighs attention with, before the maximum (arXiv 2601.07891).

    Attributes:
        queries: 1 / ‖h‖ of each replayed token's input to the attention layer.
        pairs: ‖W_o v‖ of each KV pair of the chunk, for each query head.
    """

    queries: Float[Tensor, " replay"]
    pairs: Float[Tensor, "kv_head group chunk"]
