"""ProxyKV's pipeline: the target prefills, the proxy scores, a mapper turns scores into scores.

`parallel` runs the proxy's side in a thread of its own while the target prefills; `sequential` runs
one after the other. The models' devices say where; the scores are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.model.context_cache import ContextLayer
from proxykv.model.devices import side_stream
from proxykv.model.loading import Model
from proxykv.model.parallel import run_in_parallel
from proxykv.model.prefill import Memo, Prefill, prefill
from proxykv.model.tensors import Ids, ProxySignal, Scores
from proxykv.scoring.contract import ProxyScorer
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.timeline import Timeline

Schedule = Literal["sequential", "parallel"]

REMEMBERED = 2
"""Contexts whose proxy scores are kept: the one in work, and the one it borrows for a control."""


@dataclass(frozen=True)
class Request:
    """A prefilled context with its proxy's scores, and by method what mappers made of them.

    Everything is on the device of the model that made it.
    """

    prefill: Prefill
    proxy_scores: ProxySignal
    mapped: Mapping[str, Scores]
    timeline: Timeline


def prefill_and_score(
    target: Model,
    proxy: Model,
    ids: Ids,
    prefix_len: int,
    maps: Mapping[str, Callable[[ProxySignal], Scores]],
    schedule: Schedule,
    donor: Ids | None = None,
    signal: str = "kvzip",
) -> Request:
    """Prefill prefix + context `ids` (1-D) on the target, and score them with the proxy.

    Args:
        target: prefills.
        proxy: prefills and scores, too, on its own device.
        ids: the target's token ids, which both models read.
        prefix_len: tokens before the context; always kept and not scored.
        maps: by method, from the proxy's scores to the target's.
        schedule: whether the two sides run at the same time.
        donor: ids of another context, for controls.
        features: kind of proxy scores that `maps` read (see `SIGNALS`).

    Raises:
        SideError: in `parallel`, naming the side that failed; the other one is cancelled.
    """
    timeline = Timeline()
    # Before the threads start: a copy would wait for what the target's device has been given.
    theirs = ids.to(proxy.device)

    def target_side() -> Prefill:
        with timeline.phase("target_prefill", target.device):
            return prefill(target, ids, prefix_len, donor)

    def proxy_side() -> tuple[ProxySignal, dict[str, Scores]]:
        scores = proxy_scores(target, proxy, theirs, prefix_len, timeline, signal)
        mapped: dict[str, Scores] = {}
        for method, mapper in maps.items():
            with timeline.phase("mapper", proxy.device, method):
                mapped[method] = mapper(scores)
        return scores, mapped

    if schedule == "parallel":
        filled, (scores, mapped) = run_in_parallel(
            target_side, side_stream(proxy.device)(proxy_side)
        )
    else:
        filled, (scores, mapped) = target_side(), proxy_side()
    return Request(filled, scores, mapped, timeline)


def proxy_scores(
    target: Model,
    proxy: Model,
    ids: Ids,
    prefix_len: int,
    timeline: Timeline | None = None,
    signal: str = "kvzip",
) -> ProxySignal:
    """What the proxy has to say of prefix + context `ids`, the target's token ids.

    `signal`: of which kind (see `SIGNALS`).
    """
    timeline = timeline or Timeline()
    with timeline.phase("proxy_prefill", proxy.device):
        own = prefill(proxy, ids, prefix_len)
    with timeline.phase("proxy_scoring", proxy.device):
        return SIGNALS[signal](target, own)


def kvzip_scores(target: Model, own: Prefill) -> ProxySignal:
    """KVzip on the proxy, with the target's replay inputs."""
    return score_replays(own, replays(target, own.context))


@torch.inference_mode()
def prefill_scores(target: Model, own: Prefill) -> ProxySignal:
    """Most attention that each KV pair got from the context's last tokens during the prefill.

    The causal softmax of the queries that a prefill remembers, maximum over them and over the
    query heads of a KV head: no second pass, but the end of the context decides what matters.
    """
    scores = torch.stack([_last_attention(layer) for layer in own.cache.layers])
    return scores[..., own.prefix_len :]


SIGNALS: dict[str, Callable[[Model, Prefill], ProxySignal]] = {
    "kvzip": kvzip_scores,
    "prefill": prefill_scores,
}
"""Kinds of proxy scores that a mapper can see, all in [0, 1], by its parameter `signal`."""


def _last_attention(layer: ContextLayer) -> Float[Tensor, "kv_head stored"]:
    assert layer.queries is not None
    keys = layer.keys[0]
    heads, total, dim = keys.shape
    query = layer.queries[0]
    window = query.shape[1]
    visible = torch.ones(window, total, dtype=torch.bool, device=keys.device).tril(total - window)
    best = []
    # A KV head at a time: all attention weights at once would dwarf the cache.
    for head_query, head_keys in zip(query.reshape(heads, -1, dim), keys, strict=True):
        logits = (head_query @ head_keys.mT * dim**-0.5).float().view(-1, window, total)
        weights = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        best.append(weights.amax(dim=(0, 1)))
    return torch.stack(best)


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

    def scores(self, prefill: Prefill, ids: Ids, signal: str = "kvzip") -> ProxySignal:
        """The proxy's scores of prefix + context `ids`, charged to `prefill`."""
        proxy = self.model  # loaded before the clock starts: loading is nobody's scoring time
        self._forget()
        return prefill.once(
            (signal, *ids.tolist()),
            lambda: proxy_scores(prefill.model, proxy, ids, prefill.prefix_len, signal=signal),
            self._memo,
        )

    def prefill(
        self,
        target: Model,
        ids: Ids,
        prefix_len: int,
        scorers: Mapping[str, ProxyScorer],
        schedule: Schedule,
        donor: Ids | None = None,
    ) -> tuple[Prefill, Timeline]:
        """`prefill_and_score` for these scorers by method, which then find their scores made.

        Each is charged the time that the target waits for it after its own prefill.
        """
        maps = {method: scorer.map for method, scorer in scorers.items()}
        request = prefill_and_score(target, self.model, ids, prefix_len, maps, schedule, donor)
        timeline = request.timeline
        proxy_seconds = sum(timeline.span(p).seconds for p in ("proxy_prefill", "proxy_scoring"))
        self._forget()
        self._memo["kvzip", *ids.tolist()] = request.proxy_scores, proxy_seconds
        for method, scores in request.mapped.items():
            request.prefill.put(scorers[method].key, scores.to(ids.device), timeline.wait(method))
        return request.prefill, timeline

    def _forget(self) -> None:
        while len(self._memo) > REMEMBERED:
            del self._memo[next(iter(self._memo))]
