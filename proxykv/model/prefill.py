"""Run a model once over a context, and hold what scorers may read."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from proxykv.model.context_cache import ContextCache
from proxykv.model.devices import clock
from proxykv.model.loading import Model
from proxykv.model.tensors import Ids

T = TypeVar("T")

Memo = dict[Hashable, tuple[Any, float]]
"""Results and the seconds that each cost."""

OBSERVED = 64
"""Last context tokens whose queries a prefill remembers (the largest published SnapKV window)."""


@dataclass
class Prefill:
    """A prefilled context of `prefix_len` + n tokens.

    `donor` is another context's ids, for controls that must see the wrong context. `seconds` is the
    prefill's own wall time.
    """

    model: Model
    input_ids: Ids
    prefix_len: int
    cache: ContextCache
    seconds: float
    donor: Ids | None = None
    _memo: Memo = field(default_factory=dict)
    _saved: float = 0.0

    @property
    def context(self) -> Ids:
        """The context's ids, without the prefix."""
        return self.input_ids[self.prefix_len :]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, KV heads, context tokens)."""
        heads = self.cache.layers[0].keys.shape[1]
        return len(self.cache.layers), heads, len(self.context)

    def once(self, key: Hashable, compute: Callable[[], T], memo: Memo | None = None) -> T:
        """What `compute` returns, computed on the first call for `key` and shared afterwards.

        `memo` lets several contexts share results; without it they belong to this one.
        """
        memo = self._memo if memo is None else memo
        if key in memo:
            value, seconds = memo[key]
            self._saved += seconds
            return value
        memo[key] = self.timed(compute)
        return memo[key][0]

    def put(self, key: Hashable, value: Any, seconds: float) -> None:
        """What `once` finds for `key` from now on: computed elsewhere, at a cost of `seconds`."""
        self._memo[key] = value, seconds

    def timed(self, compute: Callable[[], T]) -> tuple[T, float]:
        """A result and the seconds it costs on its own: shared parts count in full."""
        saved, start = self._saved, clock(self.model.device)
        value = compute()
        return value, clock(self.model.device) - start + self._saved - saved

    def waive(self, seconds: float) -> None:
        """Leave seconds out of what is being timed: work that is not the timed method's own."""
        self._saved -= seconds


@torch.inference_mode()
def prefill(
    model: Model,
    input_ids: Ids,
    prefix_len: int,
    donor: Ids | None = None,
    observed: int = OBSERVED,
) -> Prefill:
    """Run the model's body over prefix + context (1-D ids); the LM head is not needed.

    Raises:
        ValueError: if there is no context after the prefix, or the ids are not one row.
    """
    if input_ids.ndim != 1:
        raise ValueError(f"one context at a time: expected 1-D ids, got {input_ids.ndim}-D")
    if len(input_ids) <= prefix_len:
        raise ValueError("the context is empty: there is nothing to prune")
    start = clock(model.device)
    cache = ContextCache(model.net.config.num_hidden_layers, observed)
    ids = input_ids.to(model.device)
    model.hidden(ids[None], torch.arange(len(ids), device=model.device)[None], cache)
    return Prefill(model, ids, prefix_len, cache, clock(model.device) - start, donor)
