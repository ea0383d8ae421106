"""A context at work: it is prefilled, scored, selected from, and answered from or pruned.

Every way into the project goes through here: the workflow's answers, the Python interface, lm-eval
and the timing scripts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from proxykv.config.catalog import Method
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import Answer, TokenizedQuestion, answer
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, Keep, Scores
from proxykv.scoring.contract import (
    MethodContext,
    ProxyScorer,
    Scorer,
    build,
    kept_by,
    scores_of,
)
from proxykv.scoring.hidden_states import HiddenStateScorer, scoring_layers
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import (
    Proxy,
    ProxyMap,
    Request,
    Schedule,
    prefill_and_score,
    score_and_map,
)
from proxykv.scoring.selection import kept_digest, select
from proxykv.scoring.timeline import Timeline


@dataclass(frozen=True)
class Pruning:
    """What a method keeps of a context at one retention.

    Attributes:
        method: the method.
        retention: the requested share of the KV pairs.
        keep: the kept set.
        score_seconds: time that the scores took.
    """

    method: Method
    retention: float
    keep: Keep
    score_seconds: float

    @cached_property
    def kept_digest(self) -> str:
        """A digest of the kept set; questions of one context share it."""
        return kept_digest(self.keep)


class Engine:
    """A pair's proxy and the scorers of its methods, ready to read contexts."""

    def __init__(self, context: MethodContext, proxy: Proxy, schedule: Schedule) -> None:
        """Build a scorer for each method of `context`."""
        self.methods = context.methods
        self.scorers = {m.id: build(m, context) for m in context.methods.values()}
        self.proxy = proxy
        self.schedule: Schedule = schedule
        self.ledger: Ledger = context.ledger

    def read(
        self,
        model: Model,
        ids: Ids,
        methods: Iterable[str],
        *,
        donor: Ids | None = None,
        question_len: int = 0,
    ) -> ContextAtWork:
        """Prefill a context on the target.

        Methods that need only the proxy, or the target's hidden states, score it meanwhile.

        Args:
            model: the target, with the prompt's prefix.
            ids: prefix + context, 1-D; at the end may stand a question that scorers may see.
            methods: ids of the methods that will be used.
            donor: ids of another context, for controls.
            question_len: tokens at the end of `ids` that belong to a question.
        """
        used = {method: self.scorers[method] for method in methods}
        readers = {s.key: s.score_layer for s in used.values() if isinstance(s, HiddenStateScorer)}
        mappers = _mappers(used)
        with scoring_layers(model, readers) as layers:
            if mappers:
                request = self._with_proxy(model, ids, mappers, donor)
                prefilled, timeline = request.prefill, request.timeline
            else:
                request, timeline = None, Timeline()
                with timeline.phase("target_prefill", model.device):
                    prefilled = prefill(model, ids, len(model.prefix), donor)
        prefilled = layers.settle(prefilled, self.ledger)
        if request:
            self._settle(request, prefilled, mappers)
        return ContextAtWork(self, prefilled, timeline, question_len)

    def passes(self, methods: Iterable[str]) -> list[list[str]]:
        """Group methods by what reads a context for them.

        Args:
            methods: ids of methods.

        Returns:
            Those that need no proxy, then those that share a prefill of the proxy, or its windows.
        """
        groups: dict[str, list[str]] = {"": []}
        for method in methods:
            mapper = _mappers({method: self.scorers[method]}).get(method)
            reader = (mapper.signal.prefilled or mapper.signal.name) if mapper else ""
            groups.setdefault(reader, []).append(method)
        return list(groups.values())

    def score_with_proxy(self, prefilled: Prefill, methods: Iterable[str]) -> None:
        """Score a context with methods of the proxy's side, after the target has read it.

        Args:
            prefilled: the context.
            methods: ids of the methods.
        """
        mappers = _mappers({method: self.scorers[method] for method in methods})
        model, proxy, timeline = prefilled.model, self.proxy.model, Timeline()
        with timeline.phase("target_prefill", model.device):
            ids = prefilled.input_ids.to(proxy.device)  # all of the proxy's work comes later
        made = score_and_map(model, proxy, ids, prefilled.prefix_len, _maps(mappers), timeline)
        self._settle(Request(prefilled, *made, timeline), prefilled, mappers)

    def _with_proxy(
        self, model: Model, ids: Ids, mappers: Mapping[str, ProxyScorer], donor: Ids | None
    ) -> Request:
        prefix_len, maps = len(model.prefix), _maps(mappers)
        return prefill_and_score(
            model, self.proxy.model, ids, prefix_len, maps, self.schedule, donor
        )

    def _settle(
        self, request: Request, prefilled: Prefill, mappers: Mapping[str, ProxyScorer]
    ) -> None:
        """Store what the proxy's side made; a method is charged what the target waits for it."""
        self.proxy.remember(request)
        for method, scores in request.mapped.items():
            scorer = mappers[method]
            seconds = request.timeline.wait(method, scorer.signal)
            scores = scores.to(prefilled.model.device).expand(prefilled.shape)
            self.ledger.put(prefilled, scorer.key, scores, seconds)


@dataclass(frozen=True)
class ContextAtWork:
    """A prefilled context, to be scored, selected from, and answered from or pruned.

    Attributes:
        engine: scores it.
        prefill: what the target read.
        timeline: what reading it did when.
        question_len: tokens at the end that belong to a question; they are scored, never pruned.
    """

    engine: Engine
    prefill: Prefill
    timeline: Timeline
    question_len: int = 0

    @property
    def context_tokens(self) -> int:
        """Tokens that pruning selects from."""
        return self.prefill.shape[2] - self.question_len

    def scores(self, method: str) -> tuple[Scores, float]:
        """Score the context; return the scores and the seconds that they take."""
        scorer, ledger = self.engine.scorers[method], self.engine.ledger
        scores, seconds = ledger.timed(self.prefill, lambda: scores_of(scorer, self.prefill))
        return scores[..., : self.context_tokens], seconds

    def prunings(self, grid: Iterable[tuple[Method, float]]) -> Iterator[Pruning]:
        """Select with every (method, retention); each method scores once."""
        scored: dict[str, tuple[Scores, float]] = {}
        for method, retention in grid:
            if method.scope == "custom":
                yield self._custom(method, retention)
                continue
            if method.id not in scored:
                scored[method.id] = self.scores(method.id)
            scores, seconds = scored[method.id]
            yield Pruning(method, retention, _selected(scores, retention, method.scope), seconds)

    def answers(
        self,
        keeps: Sequence[Keep],
        questions: Sequence[TokenizedQuestion],
        batch_rows: int | None = None,
    ) -> list[list[Answer]]:
        """Answer questions from the full cache and from every kept set (see `decode.answer`).

        Args:
            keeps: kept sets of the context.
            questions: questions to answer.
            batch_rows: rows that decode together; as many as fit by default.
        """
        return answer(self.prefill, keeps, questions, batch_rows)

    def prune(self, method: str, retention: float, scope: str) -> tuple[PrunedCache, Keep]:
        """Score, select and copy the kept entries out; the phases go to the timeline.

        Args:
            method: id of a method of the engine.
            retention: share of the context's KV pairs to keep, in (0, 1].
            scope: what shares the budget (`proxykv.scoring.selection.Scope`).

        Raises:
            ValueError: if retention or scope is not valid.
        """
        device = self.prefill.model.device
        if self._scored_meanwhile(method):
            scores, _ = self.scores(method)
        else:
            with self.timeline.phase("scoring", device, method):
                scores, _ = self.scores(method)
        with self.timeline.phase("select", device):
            keep = _selected(scores, retention, scope)
        with self.timeline.phase("prune", device):
            cache = PrunedCache(self.prefill.cache, self.prefill.prefix_len, keep)
        return cache, keep

    def _custom(self, method: Method, retention: float) -> Pruning:
        scorer = self.engine.scorers[method.id]
        keep, seconds = self.engine.ledger.timed(
            self.prefill, lambda: kept_by(scorer, self.prefill, retention)
        )
        return Pruning(method, retention, keep[..., : self.context_tokens], seconds)

    def _scored_meanwhile(self, method: str) -> bool:
        return any(s.phase == "mapper" and s.part == method for s in self.timeline.spans)


def _mappers(scorers: Mapping[str, Scorer]) -> dict[str, ProxyScorer]:
    """Scorers that need only the proxy, one for each key, by method."""
    by_key: dict[Hashable, tuple[str, ProxyScorer]] = {}
    for method, scorer in scorers.items():
        if isinstance(scorer, ProxyScorer) and scorer.during_prefill:
            by_key.setdefault(scorer.key, (method, scorer))
    return dict(by_key.values())


def _maps(mappers: Mapping[str, ProxyScorer]) -> dict[str, ProxyMap]:
    return {method: ProxyMap(scorer.signal, scorer.map) for method, scorer in mappers.items()}


def _selected(scores: Scores, retention: float, scope: str) -> Keep:
    if scope == "none":
        return torch.ones_like(scores, dtype=torch.bool)
    return select(scores, retention, scope)  # type: ignore[arg-type]  (it checks the scope)
