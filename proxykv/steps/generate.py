"""A cell to predictions: one load, one prefill per context, one scoring pass for all retentions."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from proxykv.benchmarks.examples import Example, read_jsonl
from proxykv.config.jobs import Job
from proxykv.config.run import ROLES, Method, Run
from proxykv.model.decode import Answer, TokenizedQuestion, answer
from proxykv.model.loading import (
    Model,
    context_ids,
    load,
    require_shared_vocabulary,
    vocabulary_hash,
    weights_digest,
)
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, Keep, Scores
from proxykv.runtime.digest import digest
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import write_parquet
from proxykv.runtime.scratch import local
from proxykv.scoring.contract import MethodContext, ProxyScorer, Scorer, build, kept_by, scores_of
from proxykv.scoring.hidden_states import HiddenStateScorer, watching
from proxykv.scoring.proxy_pipeline import Proxy
from proxykv.scoring.rows import Key, key_of, outcome, prompt_hash, tokenized
from proxykv.scoring.selection import select
from proxykv.steps.provenance import provenance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruning:
    """A method at one retention, with the kept set and what scoring cost."""

    method: Method
    retention: float
    keep: Keep
    score_seconds: float


def generate(run: Run, job: Job) -> Path:
    """Answer a cell's questions with every method at every retention; write the predictions.

    Work is journalled example by example beside the table. What the journal holds of the wanted
    rows is not computed again, so a rerun does what is missing and nothing else.
    """
    return Generator(run, job).run()


class Generator:
    """One cell in work."""

    def __init__(self, run: Run, job: Job) -> None:
        self.spec, self.job = run, job
        self.examples = read_jsonl(job.dataset.path)
        self.journal = Journal(job.journal)
        self.timelines = Journal(job.timelines)
        folders = {role: local(run.model_dir(job.family, role)) for role in ROLES}
        self.pair = {f"{role}_hash": weights_digest(folders[role]) for role in ROLES}
        self.digests = {m.id: self._digest(m) for m in run.methods.values()}

    def run(self) -> Path:
        """Compute what is missing, then write the table."""
        with self.journal.lock.held():
            mine = self.job.part(self.examples)
            done = {key_of(row) for row in self._done()}
            for i, example in enumerate(mine):
                wanted = self._missing(example, done)
                if wanted:
                    self.journal.append(self._rows(example, wanted))
                what = "answered" if wanted else "was done"
                log.info("%d/%d contexts: %s %s", i + 1, len(mine), example.id, what)
            return self._export()

    def _done(self) -> Iterator[dict[str, Any]]:
        for path in self.job.journals():
            yield from Journal(path).read()

    def _missing(self, example: Example, done: set[Key]) -> list[tuple[Method, float]]:
        """(method, retention) pairs of which some question has no row yet."""
        prompts = [prompt_hash(example, question) for question in example.questions]
        return [
            (method, retention)
            for method, retention in self.spec.grid
            if any((example.id, p, self.digests[method.id], retention) not in done for p in prompts)
        ]

    def _rows(
        self, example: Example, wanted: list[tuple[Method, float]]
    ) -> Iterator[dict[str, Any]]:
        filled = self._prefill(example, wanted)
        asks = [tokenized(filled.model, question) for question in example.questions]
        answered = self._answered(example.id, filled, asks, wanted)
        for index, (question, ask, given) in enumerate(
            zip(example.questions, asks, answered, strict=True)
        ):
            for variant, one in given:
                yield {
                    "family": self.job.family,
                    "benchmark": self.job.benchmark,
                    "task": self.job.task,
                    "context_id": example.id,
                    "question": index,
                    **self._about(variant, filled),
                    **outcome(filled.model, question, ask, one),
                    "truncated": bool(example.meta.get("truncated", False)),
                    "prompt_hash": prompt_hash(example, question),
                    **self._provenance,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                }

    def _prefill(self, example: Example, wanted: list[tuple[Method, float]]) -> Prefill:
        model = self.target if example.chat else self.target.without_template()
        other = self._another(example)
        donor = context_ids(model, other.context) if other else None
        ids = context_ids(model, example.context)
        if self.spec.protocol == "query_aware":  # scorers see a prefill of their own
            return prefill(model, ids, len(model.prefix), donor)
        return self._seen(example.id, model, ids, donor, wanted)

    def _seen(
        self,
        context: str,
        model: Model,
        ids: Ids,
        donor: Ids | None,
        wanted: list[tuple[Method, float]],
    ) -> Prefill:
        """Prefill; scorers that watch it, or need only the proxy, score on the way."""
        scorers = {method.id: self.scorers[method.id] for method, _ in wanted}
        watchers = {
            s.key: s.score_layer for s in scorers.values() if isinstance(s, HiddenStateScorer)
        }
        during_prefill: dict[Hashable, tuple[str, ProxyScorer]] = {}
        for name, scorer in scorers.items():
            if isinstance(scorer, ProxyScorer) and scorer.during_prefill:
                during_prefill.setdefault(scorer.key, (name, scorer))
        with watching(model, watchers) as notes:
            if not during_prefill:
                filled = prefill(model, ids, len(model.prefix), donor)
            else:
                filled, timeline = self.proxy.prefill(
                    model,
                    ids,
                    len(model.prefix),
                    dict(during_prefill.values()),
                    self.spec.schedule,
                    donor,
                )
                about = {"context_id": context, "context_tokens": len(filled.context)}
                how = {"schedule": self.spec.schedule, "spans": timeline.record()}
                self.timelines.append([about | how])
        notes.give(filled)
        return filled

    def _another(self, example: Example) -> Example | None:
        """The task's context before this one or, where it has but one, the first of the corpus."""
        if len(self.examples) > 1:
            # If it has just been in work, the proxy remembers it.
            return self.examples[self.examples.index(example) - 1]
        if self.spec.fitted_ids:
            return read_jsonl(self.spec.datasets(self.job.family, "train")[0].path)[0]
        return None

    def _answered(
        self,
        context: str,
        filled: Prefill,
        asks: list[TokenizedQuestion],
        wanted: list[tuple[Method, float]],
    ) -> Iterator[list[tuple[Pruning, Answer]]]:
        """For every question, what each variant answers."""
        rows = self.spec.config["batch_rows"]
        if self.spec.protocol == "query_agnostic":
            variants = list(self._variants(filled, filled, wanted))
            for given in answer(filled, [v.keep for v in variants], asks, rows):
                # The first answer is the full cache's, which `answer` always gives.
                yield list(zip(variants, given[1:], strict=True))
            return
        for ask in asks:
            question = torch.tensor(ask.prompt, device=filled.input_ids.device)
            both = torch.cat([filled.input_ids, question])
            seen = self._seen(context, filled.model, both, filled.donor, wanted)
            variants = list(self._variants(filled, seen, wanted))
            (given,) = answer(filled, [v.keep for v in variants], [ask], rows)
            yield list(zip(variants, given[1:], strict=True))

    def _variants(
        self, filled: Prefill, seen: Prefill, wanted: list[tuple[Method, float]]
    ) -> Iterator[Pruning]:
        """Kept sets of a context, from scores of what the scorers see: it, or it and a question."""
        scored: dict[str, tuple[Scores, float]] = {}
        n = len(filled.context)
        for method, retention in wanted:
            scorer = self.scorers[method.id]
            if method.scope == "custom":
                keep, seconds = seen.timed(lambda s=scorer, r=retention: kept_by(s, seen, r))
                yield Pruning(method, retention, keep[..., :n], seconds)
                continue
            if method.id not in scored:
                scored[method.id] = seen.timed(lambda s=scorer: scores_of(s, seen)[..., :n])
            scores, seconds = scored[method.id]
            if method.scope == "none":
                keep = torch.ones_like(scores, dtype=torch.bool)
            else:
                keep = select(scores, retention, method.scope)  # type: ignore[arg-type]
            yield Pruning(method, retention, keep, seconds)

    def _about(self, variant: Pruning, filled: Prefill) -> dict[str, Any]:
        keys = filled.cache.layers[0].keys
        pair_bytes = 2 * keys.shape[-1] * keys.element_size()
        kept = int(variant.keep.sum())
        return {
            "method": variant.method.id,
            "scope": variant.method.scope,
            "method_digest": self.digests[variant.method.id],
            "protocol": self.spec.protocol,
            "schedule": self.spec.schedule,
            "retention": variant.retention,
            "achieved_retention": kept / variant.keep.numel(),
            "kv_bytes": kept * pair_bytes,
            "kv_bytes_full": variant.keep.numel() * pair_bytes,
            "prefill_seconds": filled.seconds,
            "score_seconds": variant.score_seconds,
            "context_tokens": len(filled.context),
        }

    def _export(self) -> Path:
        """The wanted rows of the journal, in the order of examples, methods and retentions."""
        order = [
            (example.id, prompt_hash(example, question), self.digests[method.id], retention)
            for example in self.job.part(self.examples)
            for question in example.questions
            for method, retention in self.spec.grid
        ]
        rows = {key_of(row): row for row in self._done()}
        path = self.job.file("predictions")
        write_parquet(path, pd.DataFrame([rows[key] for key in order]))
        return path

    @cached_property
    def target(self) -> Model:
        """The target, loaded when there is work for it."""
        return load(self.spec, self.job.family, "target")

    @cached_property
    def proxy(self) -> Proxy:
        """The proxy, loaded when a scorer asks."""
        return Proxy(self._load_proxy)

    @cached_property
    def scorers(self) -> Mapping[str, Scorer]:
        """A scorer for each method."""
        bench = MethodContext(
            fitted={name: self._fitted_dir(name) for name in self.spec.fitted_ids},
            proxy=self.proxy,
            methods=self.spec.methods,
            pair=self.pair | {"vocab_hash": vocabulary_hash(self.target.tokenizer)},
            seed=self.spec.seed,
        )
        return {m.id: build(m, bench) for m in self.spec.methods.values()}

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return provenance(self.spec, self.job.family, self.target) | self.pair

    def _load_proxy(self) -> Model:
        proxy = load(self.spec, self.job.family, "proxy")
        require_shared_vocabulary(self.target.tokenizer, proxy.tokenizer)
        return proxy

    def _fitted_dir(self, fitted_id: str) -> Path:
        return self.spec.fitted_dir(self.job.family, fitted_id)

    def _digest(self, method: Method) -> str:
        """Digest of the method with all weights it meets and the methods it combines."""
        weights = weights_digest(self._fitted_dir(method.fitted_id)) if method.fitted_id else None
        used = [self._digest(self.spec.methods[m]) for m in method.uses]
        family = self.spec.models(self.job.family)
        run = (self.spec.seed, self.spec.protocol, self.spec.schedule)
        return digest([method.digest, weights, used, family, self.pair, *run])
