"""What is read: contexts of exact lengths, from random ids or from a benchmark's contexts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from proxykv.benchmarks.examples import read_jsonl
from proxykv.config.efficiency import MeasuringJob
from proxykv.model.model import Model
from proxykv.model.tensors import Ids


class Inputs:
    """Contexts of a job's scan."""

    def __init__(self, job: MeasuringJob, model: Model, seed: int) -> None:
        """Read and tokenize the contexts of the job's tasks, if it has any.

        Args:
            job: what is measured.
            model: the target, whose tokenizer and prefix are used.
            seed: of random ids.
        """
        self.model, self.seed = model, seed
        examples = [e for dataset in job.datasets for e in read_jsonl(dataset.path)]
        skipped = len(model.prefix)
        self.texts = [model.context(example.context)[skipped:] for example in examples]

    def contexts(self, tokens: int, count: int) -> list[Ids]:
        """Make contexts of one length, behind the model's prefix (1-D ids).

        Args:
            tokens: of each context, without the prefix.
            count: number of contexts.
        """
        made = [
            self._text(tokens, i) if self.texts else self._random(tokens, i) for i in range(count)
        ]
        prefix = self.model.prefix
        return [torch.tensor([*prefix, *ids], device=self.model.device) for ids in made]

    def question(self, tokens: int) -> Sequence[int]:
        """Make a question of so many random ids."""
        return self._random(tokens, -1)

    def _text(self, tokens: int, number: int) -> Sequence[int]:
        """Cut a context that is long enough, or several that follow one another."""
        long_enough = [text for text in self.texts if len(text) >= tokens]
        if long_enough:
            return long_enough[number % len(long_enough)][:tokens]
        joined: list[int] = []
        while len(joined) < tokens:
            joined += self.texts[number % len(self.texts)]
            number += 1
        return joined[:tokens]

    def _random(self, tokens: int, number: int) -> Sequence[int]:
        generator = torch.Generator().manual_seed(1000 * self.seed + number + 1)
        return torch.randint(len(self.model.tokenizer), (tokens,), generator=generator).tolist()
