"""KVzip: what the model attends to when it repeats the context (arXiv 2505.23416)."""

from __future__ import annotations

from proxykv.config.settings.bounds import Count
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.kvzip import CHUNK, FIRST, NEXT, replays, score_replays

VARIANTS = {
    "kvzip": {"scope": "global"},
    "kvzip_head": {"scope": "head"},
    "kvzip_plus": {"scope": "global", "params": {"plus": True}},
    "kvzip_local": {"scope": "global", "params": {"local": True}},
    "kvzip_local_head": {"scope": "head", "params": {"local": True}},
}
CARDS = {
    "kvzip": {
        "label": "KVzip",
        "role": "oracle",
        "about": "the target scores its own cache by repeating the context (arXiv 2505.23416)",
        "color": "#0072B2",
        "marker": "o",
        "cost": ["target_replay"],
    },
    "kvzip_head": {
        "label": "KVzip, per head",
        "role": "baseline",
        "about": "KVzip's scores under the same budget for every head",
        "color": "#56B4E9",
        "marker": "v",
        "cost": ["target_replay"],
    },
    "kvzip_plus": {
        "label": "KVzip+",
        "role": "baseline",
        "about": "KVzip with attention weighted by what the value adds to the residual stream",
        "cost": ["target_replay"],
    },
    "kvzip_local": {
        "label": "KVzip, local replay",
        "role": "rival",
        "about": "KVzip whose replay of a chunk attends to that chunk alone; linear in the context",
        "spares": "the proxy",
        "color": "#004C7A",
        "marker": (5, 1, 36),
        "cost": ["target_local_replay"],
    },
    "kvzip_local_head": {
        "label": "KVzip, local replay, per head",
        "role": "baseline",
        "about": "scores of the local replay under the same budget for every head",
        "spares": "the proxy",
        "cost": ["target_local_replay"],
    },
}


class KVzip:
    """KVzip's scores; the id says how the budget is shared (`kvzip`: over all heads)."""

    def __init__(
        self,
        context: MethodContext,
        chunk: Count = CHUNK,
        first: str = FIRST,
        following: str = NEXT,
        plus: bool = False,
        local: bool = False,
    ) -> None:
        """The authors' setting by default; kvpress' is a chunk of 2048 and no space at the end.

        Args:
            context: holds what methods share.
            chunk: context tokens replayed at a time.
            first: the request to repeat the first chunk.
            following: the request to repeat every other chunk.
            plus: KVzip+ (see `score_replays`).
            local: a replay attends to its chunk alone (see the same).

        Raises:
            ConfigError: if a chunk has no token.
        """
        if chunk < 1:
            raise ConfigError(f"kvzip replays chunks of at least one token, not {chunk}")
        self.chunk, self.requests, self.plus, self.local = chunk, (first, following), plus, local
        self.ledger = context.ledger

    def score(self, prefill: Prefill) -> Scores:
        """Maximum replay attention that each KV pair receives, in [0, 1] unless `plus`."""

        def compute() -> Scores:
            pairs = replays(prefill.model, prefill.context, self.chunk, *self.requests)
            return score_replays(prefill, pairs, self.plus, self.local)

        key = ("kvzip", self.chunk, self.requests, self.plus, self.local)
        return self.ledger.once(prefill, key, compute)


METHOD = KVzip
