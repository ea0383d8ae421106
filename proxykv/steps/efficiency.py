"""Measure a scan's requests: journal what is missing, then write the table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from proxykv.config import catalog
from proxykv.config.check.schema import departures
from proxykv.config.efficiency import Case, MeasuringJob
from proxykv.config.keys.code import timed_digest
from proxykv.config.keys.model_files import SCORING
from proxykv.config.run import ROLES, Run
from proxykv.efficiency.inputs import Inputs
from proxykv.efficiency.pair import MeasuredPair, random_pair, trained_pair
from proxykv.efficiency.request import RequestInputs, measured
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import write_parquet
from proxykv.scoring.provenance import device_name, provenance

log = logging.getLogger(__name__)

CASE = ("method", "scope", "schedule", "tokens", "batch", "retention")
"""Columns that say which case a row is of."""
Key = tuple[Any, ...]
"""The values of `CASE`, the repeat, and the digest of all that the times depend on."""
NUMBERS = (
    *("cache_seconds", "first_token_seconds", "decode_seconds", "request_seconds"),
    *("kv_bytes", "target_peak_bytes", "proxy_peak_bytes"),
)
"""Columns that may have no value; a column without a single one must still be one of numbers."""


def efficiency(run: Run, job: MeasuringJob) -> Path:
    """Measure a scan of a family; write the measurements.

    At each length the cases take turns, so that a busy moment of the machine affects all of them.
    The first request of a case warms up, and its memory is sampled. A case that ran out of memory
    is a row and is not tried again. A journal next to the table receives each row at once, and rows
    that it holds are not measured again.

    Args:
        run: the run.
        job: one of its scans, for one family.

    Returns:
        The file of the measurements.
    """
    with TemporaryDirectory() as folder:
        return _Measuring(run, job, Path(folder)).write()


class _Measuring:
    """One job at work."""

    def __init__(self, run: Run, job: MeasuringJob, folder: Path) -> None:
        self.run, self.job, self.folder = run, job, folder
        self.journal = Journal(job.journal)

    def write(self) -> Path:
        """Measure what is missing, then write the table."""
        with self.journal.lock.held():
            rows = {_key(row): row for row in self.journal.read()}
            for tokens, cases in groupby(self.job.cases, key=lambda case: case.tokens):
                for key, row in self._length(list(cases), rows):
                    self.journal.append([row])
                    rows[key] = row
                log.info("%s %s: %d tokens done", self.job.family, self.job.scan.name, tokens)
            return self._export(rows)

    def _length(
        self, cases: list[Case], rows: Mapping[Key, dict[str, Any]]
    ) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Measure the cases of a length that are not in `rows`."""
        warm: set[Case] = set()
        failed = {case for case in cases if self._failed(case, rows)}
        for repeat in range(self.job.scan.repeats + 1):
            for case in cases:
                key = self._key(case, repeat)
                if key in rows or case in failed:
                    continue
                if case not in warm and repeat:  # it was measured by a process that has ended
                    self._measure(case, watch=False)
                warm.add(case)
                row = self._row(case, repeat, self._measure(case, watch=repeat == 0))
                if row["status"] != "ok":
                    failed.add(case)
                yield key, row

    def _failed(self, case: Case, rows: Mapping[Key, dict[str, Any]]) -> bool:
        repeats = range(self.job.scan.repeats + 1)
        found = (rows.get(self._key(case, repeat)) for repeat in repeats)
        return any(row and row["status"] != "ok" for row in found)

    def _measure(self, case: Case, watch: bool) -> dict[str, Any]:
        scan = self.job.scan
        *contexts, donor = self.inputs.contexts(case.tokens, case.batch + 1)
        question = self.inputs.question(scan.question_tokens)
        return measured(
            self.pair, case, RequestInputs(contexts, donor, question, scan.new_tokens), watch
        )

    def _row(self, case: Case, repeat: int, found: Mapping[str, Any]) -> dict[str, Any]:
        scan = self.job.scan
        row = {
            "family": self.job.family,
            "scan": scan.name,
            "weights": scan.weights,
            "inputs": self.job.inputs,
            **{name: getattr(case, name) for name in CASE},
            "repeat": repeat,
            **found,
            "question_tokens": scan.question_tokens,
            "new_tokens": scan.new_tokens,
            "setup": self._setup(case),
            **self._provenance,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if problems := departures(row, catalog.schema("measurement"), str(self.job.file)):
            raise ConfigError(problems[0])
        return row

    def _key(self, case: Case, repeat: int) -> Key:
        return *(getattr(case, name) for name in CASE), repeat, self._setup(case)

    def _setup(self, case: Case) -> str:
        method = timed_digest(self.run.methods[case.method])
        inputs = [str(dataset.path) for dataset in self.job.datasets]
        training = dict(self.run.training)
        return digest([method, training, self._models, self._machine, inputs, self.run.seed])

    def _export(self, rows: Mapping[Key, dict[str, Any]]) -> Path:
        """The job's rows of the journal, in the order of cases and repeats."""
        repeats = range(self.job.scan.repeats + 1)
        keys = [self._key(case, repeat) for case in self.job.cases for repeat in repeats]
        columns = list(catalog.schema("measurement")["properties"])
        table = pd.DataFrame([rows[key] for key in keys if key in rows]).reindex(columns=columns)
        write_parquet(self.job.file, table.astype(dict.fromkeys(NUMBERS, float)))
        return self.job.file

    @cached_property
    def pair(self) -> MeasuredPair:
        """The models, with the engines of their methods."""
        if self.job.scan.weights == "random":
            return random_pair(self.run, self.job, self.folder)
        return trained_pair(self.run, self.job)

    @cached_property
    def inputs(self) -> Inputs:
        """What is read."""
        return Inputs(self.job, self.pair.target, self.run.seed)

    @cached_property
    def _models(self) -> list[Any]:
        """What decides weights and shapes."""
        scan = self.job.scan
        both = self.run.family(self.job.family)
        if scan.weights == "random":
            return [both[role] for role in ROLES]
        return [self.run.model(self.job.family, role).key(SCORING) for role in ROLES]

    @cached_property
    def _machine(self) -> list[Any]:
        """What decides how long the same work takes."""
        scan, facts = self.job.scan, self._provenance
        names = ("device", "proxy_device", "devices", "dtype", "kernels", "threads", "versions")
        return [scan.question_tokens, scan.new_tokens, scan.weights, *(facts[n] for n in names)]

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        entry = f"{__name__}:efficiency"
        return {
            **provenance(self.run, self.job.family, self.pair.target, entry),
            "proxy_device": device_name(self.pair.proxy.device),
            "devices": len(self.pair.devices),
        }


def _key(row: Mapping[str, Any]) -> Key:
    return *(row[name] for name in CASE), row["repeat"], row["setup"]
