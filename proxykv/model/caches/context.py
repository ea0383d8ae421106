"""The context's KV cache, and how attention reads it.

Every cache here is a transformers `Cache` whose layers answer attention themselves: `update` stores
the new keys and values and returns the layer; transformers passes it on to the attention function
registered below as `ATTENTION`, which calls `layer.attend`. Models are loaded with
`attn_implementation=ATTENTION`; no model class is patched.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin

from proxykv.kernels.attention import causal_attention
from proxykv.model.parallel import check
from proxykv.model.tensors import KeyValues, Queries

ATTENTION = "proxykv"


class Layer(CacheLayerMixin):
    """One layer of a cache that answers attention itself.

    `length` counts the true tokens stored. Every forward gets explicit position ids, so
    transformers never needs masks or lengths from a layer.
    """

    keys: Tensor
    values: Tensor
    length: int = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """Store the new keys and values [row, kv_head, token, dim]; pass the layer to attention.

        Args:
            key_states: keys after RoPE.
            value_states: their values.
            cache_kwargs: not used.
        """
        self.store(key_states, value_states)
        return self, self

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Append the new tokens' keys and values.

        Args:
            keys: keys after RoPE.
            values: their values.
        """
        raise NotImplementedError

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Attend to all keys that this layer shows the queries.

        Args:
            query: queries of the new tokens, after RoPE.
            scaling: factor of the logits.

        Returns:
            The attention output.
        """
        raise NotImplementedError

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: layers allocate when they store.

        Args:
            key_states: not used.
            value_states: not used.
        """

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.length

    def get_mask_sizes(self, query: Any) -> tuple[int, int]:
        """Refuse: `attend` needs no mask, so nothing calls this."""
        raise NotImplementedError("a model loaded for ProxyKV attends without masks")

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 5.2


def attention(
    module: nn.Module, query: Queries, key: Any, value: Any, mask: None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention function for transformers: the cache layer itself computes the output.

    Args:
        module: the attention layer.
        query: queries after RoPE.
        key: the cache layer, which `Layer.update` returned.
        value: the same layer.
        mask: not used.
        scaling: factor of the logits.
        **_: other arguments of transformers; not used.

    Returns:
        The output [row, token, q_head, dim], and no weights.

    Raises:
        TypeError: if the cache is not one of ProxyKV's.
    """
    if not isinstance(key, Layer):
        raise TypeError("a model loaded for ProxyKV runs only with one of ProxyKV's caches")
    check()
    return key.attend(query, scaling).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention)


class ContextLayer(Layer):
    """A whole context's keys and values, with the queries of its last tokens."""

    def __init__(self, observed: int) -> None:
        """`observed`: for how many of the last tokens queries are remembered."""
        super().__init__()
        self.observed = observed
        self.queries: Tensor | None = None

    def store(self, keys: KeyValues, values: KeyValues) -> None:
        """Keep the context, which is one forward.

        Args:
            keys: keys of prefix + context, after RoPE.
            values: their values.
        """
        assert self.length == 0, "a context is prefilled once"
        self.keys, self.values = keys.contiguous(), values.contiguous()
        self.length = keys.shape[2]

    def attend(self, query: Queries, scaling: float) -> Queries:
        """Causal attention of the context to itself.

        Args:
            query: queries of prefix + context, after RoPE.
            scaling: factor of the logits.
        """
        self.queries = query[:, :, -self.observed :].clone()
        return causal_attention(query, self.keys, self.values, scaling)


class ContextCache(Cache):
    """The full KV cache of one context (one row)."""

    layers: list[ContextLayer]

    def __init__(self, layers: int, observed: int) -> None:
        """`layers`: layers of the model; `observed`: last tokens whose queries are remembered."""
        super().__init__(layers=[ContextLayer(observed) for _ in range(layers)])

    def visible(
        self, prefix_len: int, keep: Bool[Tensor, "*keeps layer kv_head token"]
    ) -> Bool[Tensor, "*keeps layer kv_head key"]:
        """Mark the keys that kept sets of the context leave visible: the kept ones and the prefix.

        Args:
            prefix_len: tokens of the prefix.
            keep: kept sets of the context.

        Raises:
            ValueError: if the kept sets are not of this context's shape.
        """
        _, heads, keys, _ = self.layers[0].keys.shape
        expected = (len(self.layers), heads, keys - prefix_len)
        if tuple(keep.shape[-3:]) != expected:
            raise ValueError(
                f"the kept set has shape {tuple(keep.shape[-3:])}, but the context has {expected} "
                "(layers, KV heads, tokens)"
            )
        return pad(keep, (prefix_len, 0), value=True)
