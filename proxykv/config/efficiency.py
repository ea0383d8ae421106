"""Scans of time and memory: their cases, and the jobs that measure them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from proxykv.config import catalog
from proxykv.config.jobs import Dataset
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError


@dataclass(frozen=True)
class Case:
    """A kind of request.

    Attributes:
        method: id of the method.
        scope: what its budget is shared over; `none` if it does not prune.
        schedule: when the proxy scores; `sequential` for methods without a proxy.
        proxy: whether the method uses the proxy.
        tokens: of a context.
        batch: contexts of the request.
        retention: share of the KV pairs that is kept; 1 for the full cache.
    """

    method: str
    scope: str
    schedule: Literal["sequential", "parallel"]
    proxy: bool
    tokens: int
    batch: int
    retention: float


@dataclass(frozen=True)
class Scan:
    """An entry of the config's section `efficiency`; its schema describes the fields."""

    name: str
    methods: tuple[str, ...]
    lengths: tuple[int, ...]
    retentions: tuple[float, ...]
    families: tuple[str, ...]
    schedules: tuple[Literal["sequential", "parallel"], ...]
    batches: tuple[int, ...]
    repeats: int
    weights: Literal["trained", "random"]
    question_tokens: int
    new_tokens: int
    inputs: Mapping[str, Any] | None = None
    gpus: int | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], families: Sequence[str]) -> Scan:
        """Make a scan of a config's entry.

        Args:
            entry: the entry of `efficiency`.
            families: the run's families, which are measured unless the entry lists some.
        """
        stated = catalog.schema("config")["properties"]["efficiency"]["items"]["properties"]
        defaults = {name: part["default"] for name, part in stated.items() if "default" in part}
        settings: dict[str, Any] = {**defaults, "families": families, **entry}
        frozen: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
        }
        return cls(**frozen)


@dataclass(frozen=True)
class MeasuringJob:
    """A scan of one family.

    Attributes:
        family: its name.
        scan: what is measured.
        cases: every kind of request, by length, then in the order in which they take turns.
        datasets: tasks whose contexts are read; none if token ids are random.
        run_dir: the run's folder.
    """

    family: str
    scan: Scan
    cases: tuple[Case, ...]
    datasets: tuple[Dataset, ...]
    run_dir: Path

    @property
    def file(self) -> Path:
        """Where the measurements are."""
        return self.run_dir / "efficiency" / self.family / f"{self.scan.name}.parquet"

    @property
    def journal(self) -> Path:
        """Where the job writes what is done."""
        return self.file.with_suffix(".journal.jsonl")

    @property
    def inputs(self) -> str:
        """What is read, in words."""
        names = ", ".join(dataset.task for dataset in self.datasets)
        return f"{self.datasets[0].benchmark}: {names}" if names else "random"


def scans(run: Run) -> tuple[Scan, ...]:
    """The scans of a run, in the config's order."""
    return tuple(Scan.of(entry, run.families) for entry in run.config["efficiency"])


def measuring_jobs(run: Run) -> list[MeasuringJob]:
    """Every job that measures."""
    return [_job(run, scan, family) for scan in scans(run) for family in scan.families]


def measuring_job(run: Run, family: str, name: str) -> MeasuringJob:
    """The job of one scan and family.

    Args:
        run: the run.
        family: name of the family.
        name: name of the scan.

    Raises:
        ConfigError: if the run has no such job.
    """
    for job in measuring_jobs(run):
        if (job.family, job.scan.name) == (family, name):
            return job
    known = ", ".join(f"{job.family} {job.scan.name}" for job in measuring_jobs(run)) or "none"
    raise ConfigError(f"run {run.name!r} measures no {family} {name}; known: {known}")


def measurement_files(run: Run) -> list[Path]:
    """Files of measurements that exist, of the run's own scans."""
    return [job.file for job in measuring_jobs(run) if job.file.exists()]


def resources(run: Run, job: MeasuringJob) -> Mapping[str, int]:
    """What the job requests (see `Run.resources`); the scan decides the number of its GPUs.

    Args:
        run: the run.
        job: the job.
    """
    requested = run.resources(job.family, "efficiency")
    return requested if job.scan.gpus is None else {**requested, "gpu": job.scan.gpus}


def _job(run: Run, scan: Scan, family: str) -> MeasuringJob:
    datasets = [
        data
        for data in (run.datasets(family, "eval") if scan.inputs else ())
        if scan.inputs
        and data.benchmark == scan.inputs["benchmark"]
        and data.task in scan.inputs["tasks"]
    ]
    cases = tuple(_cases(run, scan, catalog.families()[family]["max_context"]))
    return MeasuringJob(family, scan, cases, tuple(datasets), run.dir)


def _cases(run: Run, scan: Scan, max_context: int) -> Iterator[Case]:
    lengths = [tokens for tokens in sorted(scan.lengths) if tokens <= max_context]
    for tokens, batch, retention in product(lengths, scan.batches, scan.retentions):
        for name in scan.methods:
            method, proxy = run.methods[name], "proxy" in run.cards.card(name).cost
            if method.scope == "none":
                # Nothing is pruned, whatever the retention.
                if retention == scan.retentions[0]:
                    yield Case(name, "none", "sequential", False, tokens, batch, 1.0)
                continue
            for schedule in scan.schedules if proxy else ("sequential",):
                yield Case(name, method.scope, schedule, proxy, tokens, batch, retention)
