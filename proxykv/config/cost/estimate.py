"""Hours that a run will take, from operations and bytes, before any job starts.

docs/explanation/cost.md explains what is counted and compares estimates with measured times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

from proxykv.config import paths
from proxykv.config.benchmarks import Task, tasks
from proxykv.config.catalog import Method
from proxykv.config.cost.operations import Operations
from proxykv.config.cost.placement import devices_of
from proxykv.config.cost.speed import CPU, GPU, Device
from proxykv.config.jobs import Dataset
from proxykv.config.run import Run
from proxykv.config.settings import CPU_ROWS
from proxykv.config.settings.signals import CHUNK, Signal
from proxykv.config.settings.training import TrainingSettings

START_SECONDS = 15
"""A job's imports, tokenizers and checks."""
LOAD_BANDWIDTH = 1e9
"""Bytes of weights read from a disk in a second."""
QUESTION_TOKENS = 40
"""With the end of a chat template."""
REFERENCE_SHARE = 1 / 4
"""Length of a reference; that of an answer is what it may be at most (the slowest row decides)."""
STEP_SECONDS = 0.03
"""What a training step takes besides the mapper's own operations: losses, ranks, the optimizer."""


@dataclass(frozen=True)
class CostShare:
    """Jobs of one kind and the time that they take.

    Attributes:
        family: name of the family.
        step: `extract`, `fit` or `generate`.
        benchmark: name of the benchmark, for `generate`; otherwise empty.
        jobs: number of jobs.
        contexts: number of contexts.
        hours: GPU hours of all jobs; hours of the jobs where they use no GPU.
        gpus: GPUs of a job.
    """

    family: str
    step: str
    benchmark: str
    jobs: int
    contexts: int
    hours: float
    gpus: int


class _Family:
    """A family's share of a run."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self.cost = Operations.of(run, name)
        self.target, self.proxy = self.cost.target, self.cost.proxy
        self.captured = len(devices_of(run.family(name)["target"])) == 1
        self.mappers = len(self._that("mapper"))
        self.signals = {
            Signal.of({**run.training, **method.params}) for method in self._that("proxy")
        }
        # Methods of one class with the same parameters share a pass of the target; a method that
        # selects by itself takes one for each retention.
        prefilling = self._that("target_prefill")
        self.prefills = len(
            {
                (method.base, str(method.params), retention if method.scope == "custom" else None)
                for method, retention in run.grid
                if method in prefilling
            }
        )

    def _passes(self, cost: str) -> list[Method]:
        """Methods whose cards name a cost, one for each class and parameters."""
        return list({(m.base, str(m.params)): m for m in self._that(cost)}.values())

    def _that(self, cost: str) -> list[Method]:
        """The run's methods whose cards name a cost."""
        cards = self.run.cards
        return [
            method for name, method in self.run.methods.items() if cost in cards.card(name).cost
        ]

    def parts(self) -> Iterator[CostShare]:
        """Everything that takes time, in the order of the work."""
        if self.run.fitted_here:
            yield self._scores()
            yield self._fit()
        jobs = Counter(job.benchmark for job in self.run.jobs() if job.family == self.name)
        for benchmark, count in jobs.items():
            data = [d for d in self.run.datasets(self.name, "eval") if d.benchmark == benchmark]
            yield self._generate(benchmark, count, data)

    def _scores(self) -> CostShare:
        device = device_of(self.run, self.name, "extract")
        contexts = [c for d in self.run.datasets(self.name, "train") for c in _contexts(d)]
        signals = (Signal(), *self.run.stored_signals)
        scoring = paths.first_with_proxy(self.run, self.name) == self.name
        jobs = self.run.config["score_shards"] * len(signals)
        seconds = jobs * self._start(with_proxy=True)
        for count, n in contexts:
            target = self.target.prefill(n, device) + self.target.replay(n, device)
            proxy = sum(self._proxy_side({signal}, n, device) for signal in signals)
            seconds += count * (target + scoring * proxy)
        return self._part("extract", "", jobs, contexts, seconds)

    def _fit(self) -> CostShare:
        device = device_of(self.run, self.name, "fit")
        fitted = [self.run.methods[fitted_id] for fitted_id in self.run.fitted_here]
        lengths = [c for d in self.run.datasets(self.name, "train") for c in _contexts(d)]
        mean = sum(c * n for c, n in lengths) / max(1, sum(c for c, _ in lengths))
        seconds = float(START_SECONDS * len(fitted))
        trained, mappers = self._that("training"), self._that("mapper")
        for method in (m for m in fitted if m in trained):
            how = {**asdict(TrainingSettings()), **self.run.training, **method.params}
            window = min(how["crop"], mean)
            evaluated = how["val_contexts"] * mean / how["eval_every"]
            seconds += how["steps"] * STEP_SECONDS
            if method in mappers:
                # Forward and backward: three times the forward.
                tokens = 3 * how["batch"] * window + evaluated
                seconds += how["steps"] * self.cost.mapping(tokens, device)
        return self._part("fit", "", len(fitted), [], seconds)

    def _generate(self, benchmark: str, jobs: int, data: Sequence[Dataset]) -> CostShare:
        device = device_of(self.run, self.name, "generate")
        seconds = jobs * self._start(bool(self.signals))
        contexts = []
        for dataset in data:
            for count, n in _contexts(dataset, self.run.limit):
                seconds += count * self._context(n, *_questions_and_limit(dataset), device)
                contexts.append((count, n))
        return self._part("generate", benchmark, jobs, contexts, seconds)

    def _context(self, n: float, questions: int, answer: int, device: Device) -> float:
        """Seconds of a context: prefill, scoring, and its questions with all kept sets."""
        prefill = self.target.prefill(n, device)
        scoring = self.prefills * prefill + self.cost.mapping(self.mappers * n, device)
        for cost, local in (("target_replay", False), ("target_local_replay", True)):
            for method in self._passes(cost):
                chunk = method.params.get("chunk", CHUNK)
                scoring += self.target.replay(n, device, chunk, local=local)
        scoring += self._proxy_side(self.signals, n, device)
        if self.run.protocol == "query_aware":  # over context and question, for each question
            scoring = questions * (scoring + prefill)
        # Every method at every retention, and the full cache that they are compared with.
        left = questions * (len(self.run.grid) + 1)
        most = self.run.config["batch_rows"] or (left if device is GPU else CPU_ROWS)
        answering = 0.0
        while left > 0:
            rows = min(left, most)
            read = QUESTION_TOKENS + answer * REFERENCE_SHARE
            answering += self.target.read(n, rows, read, device)
            answering += answer * self.target.step(n, rows, device, captured=self.captured)
            left -= rows
        return prefill + scoring + answering

    def _proxy_side(self, signals: Collection[Signal], n: float, device: Device) -> float:
        """Seconds of the proxy for signals of a context that are made together: shared prefills."""
        prefills = {s.prefilled: s.layers for s in signals if s.prefilled}.values()
        shared = sum(prefills) * self.proxy.prefill(n, device)
        return shared + sum(self.proxy.signal(s, n, device) for s in signals)

    def _start(self, with_proxy: bool) -> float:
        weights = self.target.weights + with_proxy * self.proxy.weights
        return START_SECONDS + weights / LOAD_BANDWIDTH

    def _part(
        self,
        step: str,
        benchmark: str,
        jobs: int,
        contexts: Sequence[tuple[float, float]],
        seconds: float,
    ) -> CostShare:
        gpus = self.run.resources(self.name, step)["gpu"]
        count = round(sum(count for count, _ in contexts))
        hours = seconds / 3600 * max(1, gpus)
        return CostShare(self.name, step, benchmark, jobs, count, hours, gpus)


def device_of(run: Run, family: str, step: str) -> Device:
    """The device that a step of a family asks for, as the cost model knows it.

    Args:
        run: the run.
        family: one of its families.
        step: `extract`, `fit` or `generate`.
    """
    asked = run.resources(family, step)
    return GPU if asked["gpu"] else CPU.times(asked["threads"])


def estimate(run: Run) -> list[CostShare]:
    """What every family's steps take."""
    return [part for family in run.families for part in _Family(run, family).parts()]


def table(parts: Sequence[CostShare]) -> Iterator[str]:
    """A line for each part."""
    width = max(len(part.family) for part in parts)
    for part in parts:
        what = f"{part.step} {part.benchmark}"
        contexts = f"{part.contexts:,} contexts" if part.contexts else ""
        unit = "GPU h" if part.gpus else "CPU h"
        yield (
            f"  {part.family:<{width}}  {what:<19}  {part.jobs:>4} jobs  {contexts:>15}  "
            f"{part.hours:>8,.2f} {unit}"
        )


def total(parts: Sequence[CostShare]) -> str:
    """The sum of all parts, in words."""
    kinds = {
        f"GPU hours ({GPU.name})": sum(part.hours for part in parts if part.gpus),
        "hours on CPUs": sum(part.hours for part in parts if not part.gpus),
    }
    words = " and ".join(
        f"{hours:,.{0 if hours >= 10 else 1}f} {kind}" for kind, hours in kinds.items() if hours
    )
    return f"the whole run: about {words} (assumptions: docs/explanation/cost.md)"


def _contexts(dataset: Dataset, limit: int | None = None) -> list[tuple[float, float]]:
    """How many of the first contexts have how many tokens, as far as the family may see them."""
    task = _task(dataset)
    most = min(dataset.max_context, dataset.options.get("longest", dataset.max_context))
    lengths = dataset.lengths or (task.context_tokens or 0,)
    count = dataset.contexts or (task.contexts or 0) * len(lengths)
    count = min(count, limit or count)
    return [(len(range(i, count, len(lengths))), min(n, most)) for i, n in enumerate(lengths)]


def _questions_and_limit(dataset: Dataset) -> tuple[int, int]:
    """Questions of a context, and the most tokens of an answer."""
    task = _task(dataset)
    return task.questions, task.max_new_tokens


def _task(dataset: Dataset) -> Task:
    return tasks()[dataset.benchmark][dataset.task]
