"""The contract of a method: score a prefilled context. And how a method's id becomes its class."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from proxykv.config import catalog
from proxykv.config.run import Method
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Ids, Keep, ProxySignal, Scores
from proxykv.runtime.errors import ConfigError


class Scorer(Protocol):
    """A method: `Scorer(context, **params)`, made once per job, asked once per context.

    A method that is fitted gets the folder of its `fit` as the parameter `fitted`.
    """

    def score(self, prefill: Prefill) -> Scores:
        """Importance of the context's KV pairs [layer, kv_head, token], float32 and finite."""
        ...


@runtime_checkable
class ProxyScorer(Scorer, Protocol):
    """A scorer that maps the proxy's scores, and so need not wait for the target's prefill.

    `key`: the scores' key in `Prefill.once`; `during_prefill`: whether what `map` makes of the
    proxy's KVzip scores of a context are this method's scores of that context.
    """

    key: Hashable
    during_prefill: bool

    def map(self, proxy_scores: ProxySignal) -> Scores:
        """From the proxy's heads to the target's, on the proxy's device."""
        ...


@runtime_checkable
class SelfPruning(Protocol):
    """A scorer that can also choose for itself; asked so under the scope `custom`.

    Its kept sets follow its own rules: they need not be nested, nor meet a budget exactly.
    """

    def keep(self, prefill: Prefill, retention: float) -> Keep:
        """What is kept of the context's KV pairs at a retention below 1."""
        ...


class ProxyScores(Protocol):
    """What a proxy has to say about a context."""

    def scores(self, prefill: Prefill, ids: Ids, signal: str = "kvzip") -> ProxySignal:
        """Scores of prefix + context `ids` (1-D), in [0, 1].

        `signal`: KVzip's, or another kind of `proxykv.scoring.proxy_pipeline.SIGNALS`.
        The cost is charged to `prefill`, the context on whose behalf they are asked for.
        """
        ...


@dataclass(frozen=True)
class MethodContext:
    """What a method may use besides the prefilled context.

    `fitted`: folders of fitted methods by id; `proxy`: scores a context with the family's
    proxy; `methods`: the run's methods by id, for those that combine others; `pair`: digests
    of weights and vocabulary, with which the card of a fitted method must agree.
    """

    fitted: Mapping[str, Path]
    proxy: ProxyScores
    methods: Mapping[str, Method]
    pair: Mapping[str, str]
    seed: int

    def scorer(self, method_id: str) -> Scorer:
        """Scorer of another method."""
        return build(self.methods[method_id], self)


def build(method: Method, context: MethodContext) -> Scorer:
    """The scorer of a method: `METHOD` of its file, or a class `pkg.module:Class`."""
    module, name = catalog.module_of(method.base)
    scorer = getattr(importlib.import_module(module), name)
    folder = {"fitted": context.fitted[method.fitted_id]} if method.fitted_id else {}
    return scorer(context, **folder, **method.params)


def scores_of(scorer: Scorer, prefill: Prefill) -> Scores:
    """The scorer's scores, checked, on the context's device.

    Raises:
        ValueError: if they are not of the context's shape, or not finite.
    """
    scores = scorer.score(prefill)
    name = type(scorer).__name__
    if tuple(scores.shape) != prefill.shape:
        raise ValueError(f"{name} returned shape {tuple(scores.shape)}, expected {prefill.shape}")
    if not torch.isfinite(scores).all():
        raise ValueError(f"{name} returned NaN or infinite scores")
    return scores.float().to(prefill.input_ids.device)


def kept_by(scorer: Scorer, prefill: Prefill, retention: float) -> Keep:
    """What the scorer itself keeps at a retention, checked.

    Raises:
        ConfigError: if it cannot choose.
        ValueError: if what it keeps is not of the context's shape.
    """
    name = type(scorer).__name__
    if not isinstance(scorer, SelfPruning):
        raise ConfigError(f"{name} scores, but does not choose: its scope cannot be `custom`")
    keep = scorer.keep(prefill, retention)
    if tuple(keep.shape) != prefill.shape or keep.dtype != torch.bool:
        raise ValueError(f"{name} kept a set of shape {tuple(keep.shape)}, not {prefill.shape}")
    return keep
