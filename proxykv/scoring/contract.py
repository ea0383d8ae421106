"""The contract of a method: it scores a prefilled context."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from proxykv.config import catalog
from proxykv.config.catalog import Method
from proxykv.config.settings.signals import Signal
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Ids, Keep, ProxySignal, Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.ledger import Ledger


class Scorer(Protocol):
    """A method: `Scorer(context, **params)`, made once per job, called once per context.

    A method that is fitted gets the folder that its `fit` wrote as the parameter `fitted`.
    """

    def score(self, prefill: Prefill) -> Scores:
        """Importance of the context's KV pairs [layer, kv_head, token], float32 and finite."""
        ...


@runtime_checkable
class ProxyScorer(Scorer, Protocol):
    """A scorer that maps the proxy's scores, and so need not wait for the target's prefill.

    Attributes:
        key: the key of its scores in the ledger.
        signal: the proxy's scores that `map` reads.
        during_prefill: whether `map` of this context's proxy scores gives this method's scores.
    """

    key: Hashable
    signal: Signal
    during_prefill: bool

    def map(self, proxy_scores: ProxySignal) -> Scores:
        """Map scores of the proxy's heads to the target's, on the proxy's device.

        Returns:
            Scores [layer, kv_head, token]; a size of 1 means the same scores along that axis.
        """
        ...


@runtime_checkable
class SelfPruning(Protocol):
    """A scorer that also selects by itself, used so under the scope `custom`.

    Its kept sets follow its own rules: they need not be nested, nor meet a budget exactly.
    """

    def keep(self, prefill: Prefill, retention: float) -> Keep:
        """Select the context's KV pairs to keep.

        Args:
            prefill: the target's prefill.
            retention: share of the KV pairs to keep, below 1.
        """
        ...


class ProxyScores(Protocol):
    """The proxy, as methods see it."""

    def scores(self, prefill: Prefill, ids: Ids, signal: Signal | None = None) -> ProxySignal:
        """Score prefix + context with the proxy.

        Args:
            prefill: the context that is charged for the scores.
            ids: prefix + context, 1-D; of this context or of another.
            signal: which scores; the proxy's KVzip scores by default.

        Returns:
            Scores in [0, 1], [proxy_layer, proxy_head, token].
        """
        ...


@dataclass(frozen=True)
class MethodContext:
    """What a method may use besides the prefilled context.

    Attributes:
        fitted: folders of fitted methods by id.
        proxy: scores a context with the family's proxy.
        methods: the run's methods by id, for those that combine others.
        pair: digests of weights and vocabulary; the card of a fitted method must agree with them.
        seed: the run's seed.
        ledger: results that methods share, and what each takes.
    """

    fitted: Mapping[str, Path]
    proxy: ProxyScores
    methods: Mapping[str, Method]
    pair: Mapping[str, str]
    seed: int
    ledger: Ledger

    def scorer(self, method_id: str) -> Scorer:
        """Build the scorer of another method."""
        return build(self.methods[method_id], self)


def build(method: Method, context: MethodContext) -> Scorer:
    """Build the scorer of a method: `METHOD` of its file, or a class `pkg.module:Class`.

    Args:
        method: the method, with its parameters.
        context: what the method may use.
    """
    module, name = catalog.module_of(method.base)
    scorer = getattr(importlib.import_module(module), name)
    folder = {"fitted": context.fitted[method.fitted_id]} if method.fitted_id else {}
    return scorer(context, **folder, **method.params)


def scores_of(scorer: Scorer, prefill: Prefill) -> Scores:
    """Score a context, check the scores, and move them to the context's device.

    Args:
        scorer: of a method.
        prefill: the target's prefill.

    Returns:
        Scores [layer, kv_head, token], float32; higher means keep.

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
    """Let the scorer select by itself, and check what it keeps.

    Args:
        scorer: of a method.
        prefill: the target's prefill.
        retention: share of the KV pairs to keep, below 1.

    Returns:
        The kept set: bool [layer, kv_head, token].

    Raises:
        ConfigError: if it cannot select by itself.
        ValueError: if what it keeps is not of the context's shape.
    """
    name = type(scorer).__name__
    if not isinstance(scorer, SelfPruning):
        raise ConfigError(
            f"{name} has no `keep`: its scope cannot be `custom`; use global, layer or head"
        )
    keep = scorer.keep(prefill, retention)
    if tuple(keep.shape) != prefill.shape or keep.dtype != torch.bool:
        raise ValueError(f"{name} kept a set of shape {tuple(keep.shape)}, not {prefill.shape}")
    return keep
