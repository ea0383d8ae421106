"""Run a model once over a context, and hold what scorers may read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proxykv.model.caches.context import ContextCache
from proxykv.model.devices import clock
from proxykv.model.finite import require_finite
from proxykv.model.model import Model
from proxykv.model.tensors import Ids

OBSERVED = 64
"""Last context tokens whose queries a prefill remembers (the largest published SnapKV window)."""


@dataclass(frozen=True, eq=False)
class Prefill:
    """A prefilled context of `prefix_len` + n tokens.

    Attributes:
        model: the model that read it.
        input_ids: ids of prefix + context, on the model's device.
        prefix_len: tokens before the context; always kept and not scored.
        cache: keys and values of all tokens.
        seconds: wall time of the prefill.
        donor: another context's ids, for controls that must see the wrong context.
    """

    model: Model
    input_ids: Ids
    prefix_len: int
    cache: ContextCache
    seconds: float
    donor: Ids | None = None

    @property
    def context(self) -> Ids:
        """The context's ids, without the prefix."""
        return self.input_ids[self.prefix_len :]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, KV heads, context tokens)."""
        heads = self.cache.layers[0].keys.shape[1]
        return len(self.cache.layers), heads, len(self.context)


@torch.inference_mode()
def prefill(
    model: Model,
    input_ids: Ids,
    prefix_len: int,
    donor: Ids | None = None,
    observed: int = OBSERVED,
) -> Prefill:
    """Run the model's body over prefix + context; the LM head is not needed.

    Args:
        model: the model.
        input_ids: ids of prefix + context (1-D).
        prefix_len: tokens of the prefix.
        donor: ids of another context, for controls that must see the wrong context.
        observed: number of last queries that the cache keeps.

    Raises:
        ValueError: if there is no context after the prefix, or the ids are not one row.
        ConfigError: if the model's numbers are not finite.
    """
    if input_ids.ndim != 1:
        raise ValueError(f"one context at a time: expected 1-D ids, got {input_ids.ndim}-D")
    if len(input_ids) <= prefix_len:
        raise ValueError("the context is empty: there is nothing to prune")
    start = clock(model.device)
    cache = ContextCache(model.net.config.num_hidden_layers, observed)
    ids = input_ids.to(model.device)
    hidden = model.hidden(ids[None], torch.arange(len(ids), device=model.device)[None], cache)
    seconds = clock(model.device) - start
    # The last token attends to all others: what is not finite in any of them shows there.
    require_finite(hidden[0, -1], model.net.dtype, "after the context")
    return Prefill(model, ids, prefix_len, cache, seconds, donor)
