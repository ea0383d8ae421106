"""The proxy's side of a request: it prefills and scores, and mappers turn its scores into ours.

`parallel` runs this side in a second thread while the target prefills; `sequential` runs one
side after the other. The models' devices say where; the scores are the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from proxykv.config.settings.signals import Signal
from proxykv.model.devices import side_stream
from proxykv.model.model import Model
from proxykv.model.parallel import run_in_parallel
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, ProxySignal, Scores
from proxykv.scoring.ledger import Ledger, Results
from proxykv.scoring.signals import proxy_signals
from proxykv.scoring.timeline import Timeline

Schedule = Literal["sequential", "parallel"]

REMEMBERED = 2
"""Contexts whose proxy scores are kept: the current one, and the one that a control borrows."""


class ProxyMap(NamedTuple):
    """A map from the proxy's scores to the target's.

    Attributes:
        signal: the proxy's scores that it reads.
        map: computes the target's scores.
    """

    signal: Signal
    map: Callable[[ProxySignal], Scores]


@dataclass(frozen=True)
class Request:
    """A prefilled context, and what the proxy's side made of it meanwhile.

    Attributes:
        prefill: the target's prefill.
        signals: the proxy's scores by signal, on the proxy's device.
        mapped: the mapped scores by method, on the proxy's device.
        timeline: start and end of every phase.
    """

    prefill: Prefill
    signals: Mapping[Signal, ProxySignal]
    mapped: Mapping[str, Scores]
    timeline: Timeline


def prefill_and_score(
    target: Model,
    proxy: Model,
    ids: Ids,
    prefix_len: int,
    maps: Mapping[str, ProxyMap],
    schedule: Schedule,
    donor: Ids | None = None,
) -> Request:
    """Prefill a context on the target, and score it with the proxy.

    Args:
        target: prefills.
        proxy: prefills and scores on its own device.
        ids: the target's token ids of prefix + context (1-D), which both models read.
        prefix_len: tokens before the context; always kept and not scored.
        maps: maps from the proxy's scores to the target's, by method.
        schedule: whether the two sides run at the same time.
        donor: ids of another context, for controls.

    Raises:
        SideError: in `parallel`, naming the side that failed; the other side is cancelled.
    """
    timeline = Timeline()
    # Copied before the threads start: a later copy would wait for the target's kernels.
    proxy_ids = ids.to(proxy.device)

    def target_side() -> Prefill:
        with timeline.phase("target_prefill", target.device):
            return prefill(target, ids, prefix_len, donor)

    def proxy_side() -> tuple[dict[Signal, ProxySignal], dict[str, Scores]]:
        return score_and_map(target, proxy, proxy_ids, prefix_len, maps, timeline)

    if schedule == "parallel":
        on_side_stream = side_stream(proxy.device)(proxy_side)
        prefilled, (signals, mapped) = run_in_parallel(target_side, on_side_stream)
    else:
        prefilled, (signals, mapped) = target_side(), proxy_side()
    return Request(prefilled, signals, mapped, timeline)


def score_and_map(
    target: Model,
    proxy: Model,
    ids: Ids,
    prefix_len: int,
    maps: Mapping[str, ProxyMap],
    timeline: Timeline,
) -> tuple[dict[Signal, ProxySignal], dict[str, Scores]]:
    """Score a context with the proxy, and map its scores to the target's.

    Args:
        target: the target, whose tokenizer writes the replay requests.
        proxy: prefills and scores.
        ids: the target's token ids of prefix + context (1-D), on the proxy's device.
        prefix_len: tokens before the context.
        maps: maps from the proxy's scores to the target's, by method.
        timeline: where the phases are recorded.

    Returns:
        The proxy's scores by signal, and the mapped ones by method.
    """
    read = {to_target.signal for to_target in maps.values()}
    signals = proxy_signals(target, proxy, ids, prefix_len, read, timeline)
    mapped: dict[str, Scores] = {}
    for method, (signal, to_target) in maps.items():
        with timeline.phase("mapper", proxy.device, method):
            mapped[method] = to_target(signals[signal])
    return signals, mapped


class Proxy:
    """A proxy that is loaded when a method first needs it."""

    def __init__(self, load: Callable[[], Model], ledger: Ledger) -> None:
        """Remember how to load the proxy's model, and where its costs are kept."""
        self._load = load
        self._ledger = ledger
        self._model: Model | None = None
        self._scored: dict[tuple[int, ...], Results] = defaultdict(dict)

    @property
    def model(self) -> Model:
        """The model, loaded once."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def scores(self, prefill: Prefill, ids: Ids, signal: Signal | None = None) -> ProxySignal:
        """Score prefix + context with the proxy (see `ProxyScores`).

        Args:
            prefill: the context that is charged for the scores.
            ids: ids of prefix + context (1-D); of this context or of another.
            signal: which scores; the proxy's KVzip scores by default.

        Returns:
            Scores in [0, 1], [proxy_layer, proxy_head, token].
        """
        read = signal or Signal()
        proxy = self.model  # loaded before the clock starts: loading is no scoring time

        def compute() -> ProxySignal:
            return proxy_signals(prefill.model, proxy, ids, prefill.prefix_len, [read])[read]

        return self._ledger.once(prefill, read, compute, self._results(ids))

    def remember(self, request: Request) -> None:
        """Keep the proxy's scores of a request, for controls that read them later."""
        results = self._results(request.prefill.input_ids)
        for signal, scores in request.signals.items():
            results[signal] = scores, request.timeline.proxy_seconds(signal)

    def forget(self) -> None:
        """Forget all contexts, so that the next one is scored whatever was scored before."""
        self._scored.clear()

    def _results(self, ids: Ids) -> Results:
        """Results of a context, by its ids; the oldest context is forgotten for a new one."""
        key = tuple(ids.tolist())
        while key not in self._scored and len(self._scored) >= REMEMBERED:
            del self._scored[next(iter(self._scored))]
        return self._scored[key]
