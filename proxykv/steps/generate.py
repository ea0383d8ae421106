"""Answer a job's questions: compute what is missing, journal it, write the predictions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from proxykv.benchmarks.examples import Example, Question, read_jsonl
from proxykv.benchmarks.excerpt import Excerpt
from proxykv.config import paths
from proxykv.config.catalog import Method
from proxykv.config.cost.operations import Operations
from proxykv.config.jobs import Job
from proxykv.config.keys.code import method_digest
from proxykv.config.keys.model_files import ANSWERING, PROXY
from proxykv.config.run import ROLES, Run
from proxykv.mapper.fitted import load_card
from proxykv.model.decode import Answer, TokenizedQuestion
from proxykv.model.loading import load
from proxykv.model.model import Model, context_ids
from proxykv.model.parallel import memory_for
from proxykv.model.prefill import Prefill
from proxykv.model.prompt.vocabulary import require_shared_vocabulary, vocabulary_hash
from proxykv.runtime.digest import digest
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import write_parquet
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import ContextAtWork, Engine, Pruning
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.provenance import provenance
from proxykv.scoring.proxy import Proxy
from proxykv.scoring.rows import Key, key_of, outcome, prompt_hash, tokenized
from proxykv.steps.context_records import ContextRecords

log = logging.getLogger(__name__)

Answered = tuple[ContextAtWork, list[Pruning], list[Answer]]
"""A context, its prunings, and what each of them answers to one question."""


def generate(run: Run, job: Job) -> Path:
    """Answer a job's questions with every method at every retention; write the predictions.

    A journal next to the table receives the rows of each context when it is done. Rows that it
    holds are not computed again, so a rerun computes only what is missing.

    Args:
        run: the run.
        job: the job.

    Returns:
        Path of the predictions.
    """
    return Generator(run, job).answer()


class Generator:
    """One job at work."""

    def __init__(self, run: Run, job: Job) -> None:
        self.run, self.job = run, job
        self.examples = read_jsonl(job.dataset.path)
        self.journal = Journal(job.journal)
        self.timelines = Journal(job.timelines)
        target, proxy = (run.model(job.family, role) for role in ROLES)
        self.pair = target.pair_entries("target") | proxy.pair_entries("proxy")
        self.models = {
            "target_hash": target.digests.weights,
            "target_digest": target.key(ANSWERING),
            "proxy_hash": proxy.digests.weights,
            "proxy_digest": proxy.key(PROXY),
        }
        self.digests = {m.id: self._digest(m) for m in run.methods.values()}
        self.records = ContextRecords(run, job, job.part(self.examples), self.digests)

    def answer(self) -> Path:
        """Compute what is missing, then write the table."""
        with self.journal.lock.held():
            examples = self.job.part(self.examples)
            done = {key_of(row) for row in self._done()}
            for i, example in enumerate(examples):
                grid = self._missing(example, done)
                if grid:
                    with memory_for(f"{self.job.family}, context {example.id}", self._advice()):
                        self.journal.append(self._rows(example, grid))
                what = "answered" if grid else "was done"
                log.info("%d/%d contexts: %s %s", i + 1, len(examples), example.id, what)
            return self._export()

    def _advice(self) -> str:
        """What to lower if a context does not fit; those before it are in the journal."""
        rows = self.run.config["batch_rows"] or "as many as fit"
        return f"`batch_rows` (now {rows}) or `max_context`; finished contexts are kept"

    def _done(self) -> Iterator[dict[str, Any]]:
        for path in self.job.journals():
            yield from Journal(path).read()

    def _missing(self, example: Example, done: set[Key]) -> list[tuple[Method, float]]:
        """(method, retention) pairs of which some question has no row yet."""
        return [
            (method, retention)
            for method, retention in self.run.grid
            if any(
                self._key(example, question, method, retention) not in done
                for question in example.questions
            )
        ]

    def _key(self, example: Example, question: Question, method: Method, retention: float) -> Key:
        prompt = self._prompt_hash(example, question, method)
        return example.id, prompt, self.digests[method.id], retention

    def _prompt_hash(self, example: Example, question: Question, method: Method) -> str:
        other = self._another(example) if method.donor else None
        return prompt_hash(example, question, other.context if other else None)

    def _rows(self, example: Example, grid: list[tuple[Method, float]]) -> Iterator[dict[str, Any]]:
        model = self.target if example.chat else self.target.without_template()
        questions = [tokenized(model, q, example.context) for q in example.questions]
        shown = self.records.add_context(example, model)
        if self.run.protocol == "query_agnostic":
            work = self._read(example, model, grid)
            prunings = list(work.prunings(grid))
            self.records.add_kept(example, shown, prunings)
            answered = self._answer(work, prunings, questions)
        else:
            answered = self._query_aware(example, model, questions, shown, grid)
        for index, (work, prunings, answers) in enumerate(answered):
            question = example.questions[index]
            for pruning, one in zip(prunings, answers, strict=True):
                yield {
                    "family": self.job.family,
                    "benchmark": self.job.benchmark,
                    "task": self.job.task,
                    "context_id": example.id,
                    "question": index,
                    **self._about(pruning, work.prefill),
                    **outcome(model, question, questions[index], one),
                    "truncated": bool(example.meta.get("truncated", False)),
                    "prompt_hash": self._prompt_hash(example, question, pruning.method),
                    **self._provenance,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                }

    def _answer(
        self,
        work: ContextAtWork,
        prunings: list[Pruning],
        questions: list[TokenizedQuestion],
    ) -> Iterator[Answered]:
        """Answer questions from a context, each from every pruning."""
        keeps = [pruning.keep for pruning in prunings]
        for answers in work.answers(keeps, questions, self.run.config["batch_rows"]):
            # The first answer is the full cache's, which `answers` always gives.
            yield work, prunings, answers[1:]

    def _query_aware(
        self,
        example: Example,
        model: Model,
        questions: list[TokenizedQuestion],
        shown: Excerpt | None,
        grid: list[tuple[Method, float]],
    ) -> Iterator[Answered]:
        """Answer questions from prunings of the context that were scored with the question."""
        alone = self._read(example, model, [])
        for index, question in enumerate(questions):
            work = self._read(example, model, grid, question.prompt)
            prunings = list(work.prunings(grid))
            self.records.add_kept(example, shown, prunings, question=index)
            yield from self._answer(alone, prunings, [question])

    def _read(
        self,
        example: Example,
        model: Model,
        grid: list[tuple[Method, float]],
        question: tuple[int, ...] = (),
    ) -> ContextAtWork:
        """Prefill a context (and a question, if scorers see one); journal what happened when."""
        other = self._another(example)
        donor = context_ids(model, other.context) if other else None
        ids = context_ids(model, example.context)
        question_ids = torch.tensor(question, dtype=ids.dtype, device=ids.device)
        work = self.engine.read(
            model,
            torch.cat([ids, question_ids]),
            (method.id for method, _ in grid),
            donor=donor,
            question_len=len(question),
        )
        if work.timeline.with_proxy:
            about = {"context_id": example.id, "context_tokens": work.prefill.shape[2]}
            how = {"schedule": self.run.schedule, "spans": work.timeline.record()}
            self.timelines.append([about | how])
        return work

    def _another(self, example: Example) -> Example | None:
        """The task's previous context or, where it has but one, the first of the corpus."""
        if len(self.examples) > 1:
            # The proxy still remembers the scores of the context that came before.
            return self.examples[self.examples.index(example) - 1]
        return self._first_of_corpus

    @cached_property
    def _first_of_corpus(self) -> Example | None:
        if not self.run.fitted_here:
            return None
        return read_jsonl(self.run.datasets(self.job.family, "train")[0].path)[0]

    def _about(self, pruning: Pruning, prefilled: Prefill) -> dict[str, Any]:
        keys = prefilled.cache.layers[0].keys
        pair_bytes = 2 * keys.shape[-1] * keys.element_size()
        kept = int(pruning.keep.sum())
        return {
            "method": pruning.method.id,
            "scope": pruning.method.scope,
            "method_digest": self.digests[pruning.method.id],
            "protocol": self.run.protocol,
            "schedule": self.run.schedule,
            "retention": pruning.retention,
            "achieved_retention": kept / pruning.keep.numel(),
            "kept_digest": pruning.kept_digest,
            "kv_bytes": kept * pair_bytes,
            "kv_bytes_full": pruning.keep.numel() * pair_bytes,
            "prefill_seconds": prefilled.seconds,
            "score_seconds": pruning.score_seconds,
            "context_tokens": prefilled.shape[2],
        }

    def _export(self) -> Path:
        """The run's rows of the journal, in the order of examples, methods and retentions."""
        order = [
            self._key(example, question, method, retention)
            for example in self.job.part(self.examples)
            for question in example.questions
            for method, retention in self.run.grid
        ]
        rows = {key_of(row): row for row in self._done()}
        cost = Operations.of(self.run, self.job.family)
        table = []
        for row in (rows[key] for key in order):
            method = self.run.methods[row["method"]]
            table.append(row | {"operations": cost.request(method, row["context_tokens"])})
        path = self.job.file("predictions")
        write_parquet(path, pd.DataFrame(table))
        return path

    @cached_property
    def target(self) -> Model:
        """The target, loaded when there is work for it."""
        return load(self.run, self.job.family, "target")

    @cached_property
    def engine(self) -> Engine:
        """Scorers of all methods, with the proxy that they share."""
        ledger = Ledger()
        proxy = Proxy(self._load_proxy, ledger)
        context = MethodContext(
            fitted={name: self._fitted_dir(name) for name in self.run.fitted_ids},
            proxy=proxy,
            methods=self.run.methods,
            pair=self.pair | {"vocab_hash": vocabulary_hash(self.target.tokenizer)},
            seed=self.run.seed,
            ledger=ledger,
        )
        return Engine(context, proxy, self.run.schedule)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        entry = f"{__name__}:generate"
        return provenance(self.run, self.job.family, self.target, entry) | self.models

    def _load_proxy(self) -> Model:
        proxy = load(self.run, self.job.family, "proxy")
        require_shared_vocabulary(self.target.tokenizer, proxy.tokenizer)
        return proxy

    def _fitted_dir(self, fitted_id: str) -> Path:
        return paths.fitted_dir(self.run, self.job.family, fitted_id)

    def _digest(self, method: Method) -> str:
        """Digest of the method with all weights it meets and the methods it combines."""
        fitted = self._fitted_dir(method.fitted_id) if method.fitted_id else None
        weights = load_card(fitted)["weights_sha256"] if fitted else None
        used = [self._digest(self.run.methods[m]) for m in method.uses]
        run = (self.run.seed, self.run.protocol, self.run.schedule)
        return digest([method_digest(method), weights, used, self.models, *run])
