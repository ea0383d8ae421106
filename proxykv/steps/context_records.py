"""What a job records of its contexts: where answers are, and what pruning keeps of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxykv.benchmarks.examples import Example
from proxykv.benchmarks.excerpt import Excerpt, depth, excerpt
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.model.model import Model
from proxykv.runtime.journal import Journal
from proxykv.scoring.engine import Pruning
from proxykv.scoring.rows import kept_tokens, kept_where

SHOWN = 16
"""Contexts of a job, from its first on, of which the report shows what is kept."""

READABLE = 4
"""Contexts of a job, from its first on, of which the report shows the text and the kept tokens."""

LAYERED = 0.1
"""Kept tokens are recorded by layer at the retention nearest to this: there methods differ most."""


class ContextRecords:
    """Journals of one job: its contexts, and what is kept of the first ones."""

    def __init__(
        self, run: Run, job: Job, examples: Sequence[Example], digests: Mapping[str, str]
    ) -> None:
        """Open the journals.

        Args:
            run: the run.
            job: the job.
            examples: the job's contexts.
            digests: of the methods, by their ids.
        """
        self._contexts, self._kept = Journal(job.contexts), Journal(job.kept)
        self._shown = [example.id for example in examples[:SHOWN]]
        self._digests = digests
        self._oracle = run.cards.only("oracle")
        self._layered = min(run.retentions, key=lambda rho: (abs(rho - LAYERED), rho))

    def add_context(self, example: Example, model: Model) -> Excerpt | None:
        """Record where the answers are.

        Args:
            example: the context with its questions.
            model: the model that reads it.

        Returns:
            What the report shows of the context; None if it is not one of the first.
        """
        text = example.context
        record: dict[str, Any] = {
            "context_id": example.id,
            "depths": [depth(text, question.references) for question in example.questions],
        }
        shown = None
        if example.id in self._shown[:READABLE]:
            shown = excerpt(example, model.context_pieces(text))
            record |= shown.record()
        self._contexts.append([record])
        return shown

    def add_kept(
        self,
        example: Example,
        shown: Excerpt | None,
        prunings: Sequence[Pruning],
        question: int | None = None,
    ) -> None:
        """Record where the kept pairs of one of the first contexts are.

        Args:
            example: the context.
            shown: what `add_context` returned for it.
            prunings: what each method keeps at each retention.
            question: index of the question that the context was scored with, if there was one.
        """
        if example.id not in self._shown:
            return
        oracles = {p.retention: p.keep for p in prunings if p.method.id == self._oracle}
        self._kept.append(
            {
                "context_id": example.id,
                "method": pruning.method.id,
                "method_digest": self._digests[pruning.method.id],
                "retention": pruning.retention,
                **({} if question is None else {"question": question}),
                **kept_where(pruning.keep, oracles.get(pruning.retention)),
                **(
                    kept_tokens(pruning.keep, shown, by_layer=pruning.retention == self._layered)
                    if shown
                    else {}
                ),
            }
            for pruning in prunings
            if pruning.retention < 1
        )
