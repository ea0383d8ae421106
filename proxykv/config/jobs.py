"""What a job of a run is, what it works on, and where that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from proxykv.config.keys.model_files import MEASURING, ModelFiles
from proxykv.runtime.digest import digest

T = TypeVar("T")


@dataclass(frozen=True)
class Dataset:
    """Contexts of one task, made for one family's tokenizer.

    Attributes:
        family: name of the family.
        benchmark: name of the benchmark.
        task: name of the task.
        split: "eval" or "train".
        contexts: number of contexts; None where the benchmark decides.
        lengths: lengths of the contexts in tokens; None where the benchmark decides.
        max_context: the most tokens that the target may see, prompt and answer together.
        seed: of the contexts.
        options: of the benchmark.
        shards: jobs that answer it.
        part: its name as a part of the corpus.
        held_out: number of its last contexts on which nothing is fitted.
        folder: where its file is.
        target: files of the model whose tokenizer measures the contexts.
    """

    family: str
    benchmark: str
    task: str
    split: str
    contexts: int | None
    lengths: tuple[int, ...] | None
    max_context: int
    seed: int
    options: Mapping[str, Any]
    shards: int
    part: str
    held_out: int
    folder: Path
    target: ModelFiles

    @cached_property
    def path(self) -> Path:
        """The JSONL file. Its name changes with what the contexts depend on, but for the code."""
        named = ("benchmark", "task", "split", "contexts", "lengths", "max_context", "seed")
        settings = [getattr(self, name) for name in (*named, "options")]
        key = digest([settings, self.target.key(MEASURING, planned=True)])
        return self.folder / f"{self.benchmark}-{self.task}-{key}.jsonl"


@dataclass(frozen=True)
class Job:
    """One job: a family answers a task's questions with every method at every retention.

    A task may be cut into `shards` jobs; this one has every `shards`-th context, from `shard` on,
    of the task's first `limit` contexts.

    Attributes:
        family: name of the family.
        benchmark: name of the benchmark.
        task: name of the task.
        dataset: the contexts.
        run_dir: folder of the run.
        shard: number of this shard, from 0 on.
        shards: number of shards.
        limit: contexts of the task that are answered, from the first on; None for all.
    """

    family: str
    benchmark: str
    task: str
    dataset: Dataset
    run_dir: Path
    shard: int = 0
    shards: int = 1
    limit: int | None = None

    @property
    def name(self) -> str:
        """The task's name, followed by the shard's number if there are several."""
        return self.task if self.shards == 1 else f"{self.task}@{self.shard}"

    def file(self, kind: str) -> Path:
        """Where this job's `predictions` or `rows` are."""
        return self.run_dir / kind / self.family / self.benchmark / f"{self.name}.parquet"

    @property
    def journal(self) -> Path:
        """Where this job writes what is done."""
        return self.file("predictions").with_suffix(".journal.jsonl")

    @property
    def timelines(self) -> Path:
        """Where this job writes the timelines of the contexts that the proxy scored."""
        return self.file("predictions").with_suffix(".timelines.jsonl")

    @property
    def kept(self) -> Path:
        """Where this job writes which pairs each method keeps of its first contexts."""
        return self.file("predictions").with_suffix(".kept.jsonl")

    @property
    def contexts(self) -> Path:
        """Where this job writes at which depth the answers are, and text of its first contexts."""
        return self.file("predictions").with_suffix(".contexts.jsonl")

    def journals(self) -> list[Path]:
        """Journals of the task: of all shards, also of another number of shards."""
        folder, name = self.journal.parent, f"{self.task}{{}}.journal.jsonl"
        return sorted([*folder.glob(name.format("")), *folder.glob(name.format("@*"))])

    def part(self, contexts: Sequence[T]) -> Sequence[T]:
        """This shard's share of the task's contexts."""
        return contexts[: self.limit][self.shard :: self.shards]
