"""The proxy's side of ProxyKV: a small model that scores a context before the mapper sees it."""

from __future__ import annotations

from collections.abc import Callable

from baselines.kvzip import replays, score_replays
from proxykv.models import Model
from proxykv.prefill import Memo, Prefill, prefill
from proxykv.tensors import Ids, Scores

REMEMBERED = 2
"""Contexts whose proxy scores are kept: the one in work, and the one it borrows for a control."""


class Proxy:
    """A proxy that is loaded when it is first needed."""

    def __init__(self, load: Callable[[], Model]) -> None:
        """`load`: loads the proxy's model."""
        self._load = load
        self._model: Model | None = None
        self._memo: Memo = {}

    @property
    def model(self) -> Model:
        """The model, loaded once."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def scores(self, prefill: Prefill, ids: Ids) -> Scores:
        """The proxy's KVzip scores of prefix + context `ids`, charged to `prefill`."""
        proxy = self.model  # loaded before the clock starts: loading is nobody's scoring time
        while len(self._memo) > REMEMBERED:
            del self._memo[next(iter(self._memo))]
        return prefill.once(
            tuple(ids.tolist()),
            lambda: proxy_scores(prefill.model, proxy, ids, prefill.prefix_len),
            self._memo,
        )


def proxy_scores(target: Model, proxy: Model, ids: Ids, prefix_len: int) -> Scores:
    """KVzip on the proxy: the target's ids and the target's replay inputs, the proxy's heads."""
    own = prefill(proxy, ids, prefix_len)
    return score_replays(own, replays(target, ids[prefix_len:]))
