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
    """Contexts of one task, made for one family's tokenizer, in a file of the folder `folder`.

    `target` measures them; `contexts` and `lengths` are None where the benchmark itself decides;
    `max_context` is the most tokens that the target may see, prompt and answer together. As a part
    of the corpus it is called `part`, and nothing is fitted on its last `held_out` contexts.
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

    A task may be cut into `shards` jobs; this one has every `shards`-th context, from `shard` on.
    """

    family: str
    benchmark: str
    task: str
    dataset: Dataset
    run_dir: Path
    shard: int = 0
    shards: int = 1

    @property
    def name(self) -> str:
        """The task's name, with the shard's number behind it if there are several."""
        return self.task if self.shards == 1 else f"{self.task}@{self.shard}"

    def file(self, kind: str) -> Path:
        """Where this cell's `predictions` or `rows` are."""
        return self.run_dir / kind / self.family / self.benchmark / f"{self.name}.parquet"

    @property
    def journal(self) -> Path:
        """Where this cell writes what is done."""
        return self.file("predictions").with_suffix(".journal.jsonl")

    @property
    def timelines(self) -> Path:
        """Where this cell writes when its parallel schedule did what."""
        return self.file("predictions").with_suffix(".timelines.jsonl")

    def journals(self) -> list[Path]:
        """Where work on the task is found: other shards' too, of whatever cut."""
        folder, name = self.journal.parent, f"{self.task}{{}}.journal.jsonl"
        return sorted([*folder.glob(name.format("")), *folder.glob(name.format("@*"))])

    def part(self, contexts: Sequence[T]) -> Sequence[T]:
        """This shard's share of the task's contexts."""
        return contexts[self.shard :: self.shards]
