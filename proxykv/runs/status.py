"""Progress of a run, and rows to compute again. Reads files; loads no model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.config import paths
from proxykv.config.check import did_you_mean
from proxykv.config.efficiency import MeasuringJob, measuring_jobs
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import read_parquet

STATES = ("done", "running", "failed", "started", "missing")
"""`failed`: the last attempt ended with an error or was killed, and no other has begun."""

PAUSE = 10
LATEST = 500
"""Lines of a training's log from which its pace is taken."""
COLUMNS = ["context_id", "question", "method", "retention", "created"]


def status(run: Run) -> list[dict[str, Any]]:
    """Progress of every job, as records that JSON can hold.

    `contexts` and `rows` count what is answered, `of` is the number of contexts if it is known,
    `first` and `last` are the times (UTC) of the first and the latest row, `seconds` is the mean
    time between two contexts, `by` is the process that runs or that failed, and `error` why it
    failed.
    """
    grid = _planned(run)
    return [_record(job, grid) for job in run.jobs()]


def fits(run: Run) -> list[dict[str, Any]]:
    """Progress of every fitted method: the last `step` of its training, `of` all its steps.

    `seconds` is the mean time between two of its latest steps.
    """
    return [
        {"family": family, "fitted": fitted_id, **_fit(paths.fitted_dir(run, family, fitted_id))}
        for family in run.families
        for fitted_id in run.fitted_ids
    ]


def measurements(run: Run) -> list[dict[str, Any]]:
    """Progress of every scan of time and memory: `requests` that are measured, `of` all of them.

    Lengths that do not fit in memory are not repeated, so a scan may be done with fewer. `seconds`
    is the mean time between two requests.
    """
    return [
        {
            "family": job.family,
            "scan": job.scan.name,
            **_measured(job),
            "of": len(job.cases) * (job.scan.repeats + 1),
        }
        for job in measuring_jobs(run)
    ]


def answers_and_scans(run: Run) -> list[dict[str, Any]]:
    """Progress of all that tables and figures are made of."""
    return [*status(run), *measurements(run)]


def status_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The records as text: a line each, then the number of jobs in every state."""
    cells = ({k: "" if v is None else v for k, v in record.items()} for record in records)
    table = pd.DataFrame(cells)
    counts = table["state"].value_counts()
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
    return f"{table.to_string(index=False)}\n\n{summary}"


def forget(run: Run, only: Mapping[str, str], fitted: bool = False) -> int:
    """Drop rows from the journals, so that the next run computes exactly those again.

    The files that are made of these rows are deleted too, up to the report, so that Snakemake makes
    them again.

    Args:
        run: the run.
        only: drop rows with these values of `family`, `benchmark`, `task` or `method`.
        fitted: also delete the method's fitted folder.

    Returns:
        The number of dropped rows.

    Raises:
        ConfigError: if the run has nothing of that name, or one of the jobs is running.
    """
    _refuse_unknown(run, only, fitted)
    jobs = [job for job in run.jobs() if _matches(vars(job), only)]
    with ExitStack() as held:
        journals = [Journal(path) for path in {p for job in jobs for p in job.journals()}]
        for journal in journals:
            held.enter_context(journal.lock.held(patience=0))
        dropped = {journal.path: _drop(journal, only) for journal in journals}
        for job in jobs:
            if any(dropped[path] for path in job.journals()):
                job.file("predictions").unlink(missing_ok=True)
                job.file("rows").unlink(missing_ok=True)
        if fitted:
            fitted_id = str(run.methods[only["method"]].fitted_id)
            for family in {job.family for job in jobs}:
                shutil.rmtree(paths.fitted_dir(run, family, fitted_id), ignore_errors=True)
    if fitted or any(dropped.values()):
        (run.dir / "report" / "index.html").unlink(missing_ok=True)
    return sum(dropped.values())


def _planned(run: Run) -> set[tuple[str, float]]:
    """Ids of the config's methods with their retentions.

    A method whose file is gone since is planned, too. It prunes: the full cache has no file.
    """
    listed = [m if isinstance(m, str) else m["id"] for m in run.config["methods"]]
    gone = [method for method in listed if method not in run.methods]
    pruned = [retention for retention in run.retentions if retention < 1]
    return {(method.id, rho) for method, rho in run.grid} | set(product(gone, pruned))


def _record(job: Job, grid: Collection[tuple[str, float]]) -> dict[str, Any]:
    rows = _rows(job)
    holder = Journal(job.journal).lock.holder()
    complete = job.file("rows").exists() and set(zip(rows.method, rows.retention, strict=True))
    if holder:
        state = "running" if holder.alive else "failed"
    elif complete and complete >= set(grid):
        state = "done"
    else:
        state = "started" if len(rows) else "missing"
    contexts = job.dataset.contexts
    return {
        "family": job.family,
        "benchmark": job.benchmark,
        "task": job.name,
        "state": state,
        "contexts": rows.context_id.nunique(),
        "of": len(job.part(range(contexts))) if contexts else None,
        "rows": len(rows),
        "first": rows.created.min() if len(rows) else None,
        "last": rows.created.max() if len(rows) else None,
        "seconds": _pace(rows.groupby("context_id").created.max()),
        "by": str(holder) if holder else None,
        "error": (holder.error or "killed") if holder and not holder.alive else None,
    }


def _pace(ends: Iterable[str]) -> float | None:
    """Mean seconds between the ends of two contexts, steps or requests; None before there are two.

    A gap of more than `PAUSE` medians is left out: the job was stopped there, and resumed.
    """
    times = pd.Series(pd.to_datetime([*ends], utc=True)).sort_values()
    gaps = times.diff().dt.total_seconds().dropna()
    if gaps.empty:
        return None
    return round(float(gaps[gaps <= PAUSE * max(gaps.median(), 1)].mean()), 3)


def _measured(job: MeasuringJob) -> dict[str, Any]:
    journal = Journal(job.journal)
    rows, holder = journal.read(), journal.lock.holder()
    if holder:
        state = "running" if holder.alive else "failed"
    else:
        state = "done" if job.file.exists() else "started" if rows else "missing"
    seconds = _pace(row["created"] for row in rows)
    return {"state": state, "requests": len(rows), "seconds": seconds}


def _fit(folder: Path) -> dict[str, Any]:
    log = folder / "log.jsonl"
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    # A line that is being written is not whole yet.
    latest = [json.loads(line) for line in lines[-LATEST:] if line.endswith("}")]
    last = latest[-1] if latest else {}
    fallback = "started" if last else "missing"
    state = "done" if (folder / "card.json").exists() else fallback
    # Evaluations follow a step, and logs of earlier versions have no times.
    ends = {line["step"]: line["created"] for line in latest if "created" in line}
    about = {"state": state, "step": last.get("step"), "of": last.get("steps")}
    return {**about, "seconds": _pace(ends.values())}


def _rows(job: Job) -> pd.DataFrame:
    """What is answered, once each: from the graded rows, or from the journal if there are none."""
    if job.file("rows").exists():
        return read_parquet(job.file("rows"), COLUMNS)
    rows = pd.DataFrame(Journal(job.journal).read()).reindex(columns=COLUMNS)
    return rows.drop_duplicates(COLUMNS[:-1], keep="last")


def _matches(fields: Mapping[str, Any], only: Mapping[str, str]) -> bool:
    """Whether all of these fields that a record has are equal to `only`."""
    return all(fields.get(name, value) == value for name, value in only.items())


def _drop(journal: Journal, only: Mapping[str, str]) -> int:
    """Drop the matching rows of a journal; return their number."""
    rows = journal.read()
    kept = [row for row in rows if not _matches(row, only)]
    if len(kept) < len(rows):
        journal.rewrite(kept)
    return len(rows) - len(kept)


def _refuse_unknown(run: Run, only: Mapping[str, str], fitted: bool) -> None:
    known = {name: {vars(job)[name] for job in run.jobs()} for name in only if name != "method"}
    known["method"] = set(run.methods)
    for name, value in only.items():
        if value not in known[name]:
            hint = did_you_mean(value, known[name])
            raise ConfigError(f"run {run.name!r} has no {name} {value!r}; {hint}")
    if not only:
        raise ConfigError("forget what? name a family, benchmark, task or method")
    if fitted and not ("method" in only and run.methods[only["method"]].fitted_id):
        raise ConfigError("only a method that is fitted can be forgotten with --fitted")
