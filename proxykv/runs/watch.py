"""Follow a run that is being made: what is done, and how long the answers still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from statistics import median
from typing import Any, TextIO

from proxykv.config.run import Run
from proxykv.runs.status import fits, measurements, status, status_table
from proxykv.runtime.errors import ConfigError

Records = Sequence[Mapping[str, Any]]

CLEAR = "\x1b[2J\x1b[H"  # erases a terminal, and goes to its top


def progress(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Records of the run's fits, of its jobs, and of its scans of time and memory."""
    return {"fits": fits(run), "jobs": status(run), "scans": measurements(run)}


def watch(
    run: Run,
    every: str,
    out: TextIO,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Show the progress of a run until all of it is done, or the user stops the command.

    A terminal shows all records, and is refreshed. Elsewhere there is a line for each change.

    Args:
        run: the run.
        every: seconds between two looks, as the user wrote them.
        out: where the text goes.
        pause: waits so many seconds.

    Raises:
        ConfigError: if `every` is no number of seconds from 1 on.
    """
    seconds, shown = _seconds(every), ""
    while True:
        found = progress(run)
        line = time_left(found["jobs"])
        if out.isatty():
            tables = [status_table(records) for records in found.values() if records]
            print(CLEAR + "\n\n".join([*tables, line]), file=out, flush=True)
        elif line != shown:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=out, flush=True)
        shown = line
        if all(record["state"] == "done" for records in found.values() for record in records):
            return
        try:
            pause(seconds)
        except KeyboardInterrupt:
            return


def time_left(jobs: Records) -> str:
    """One line: contexts that are answered, and the time that the others take.

    A job that has answered too little to be timed takes as long per context as those of its family,
    or else of all. Jobs that run at the same time share the work. What is not answers, such as fits
    and scans, is left out.

    Args:
        jobs: records of `status`.
    """
    open_jobs = [job for job in jobs if job["state"] != "done"]
    known = [job for job in open_jobs if job["of"] is not None]
    done, size = (sum(job[name] or 0 for job in jobs) for name in ("contexts", "of"))
    text = f"{done} of {size} contexts answered, {len(open_jobs)} of {len(jobs)} jobs to do"
    if not open_jobs:
        return text
    timed = [job for job in jobs if job["seconds"] is not None]
    if not timed or not known:
        return f"{text}; no time to go by yet"
    seconds = sum((job["of"] - job["contexts"]) * _pace(job, timed) for job in known)
    running = max(1, sum(job["state"] == "running" for job in jobs))
    left = timedelta(seconds=round(seconds / running))
    # A job of unknown size, or one whose contexts lack a method that was added, takes longer.
    sure = len(known) == len(open_jobs) and all(job["contexts"] < job["of"] for job in known)
    least = "" if sure else "at least "
    return f"{text}; {least}{left} left with {running} job{'s' * (running > 1)} at a time"


def _pace(job: Mapping[str, Any], timed: Records) -> float:
    """Seconds that the job takes for a context."""
    if job["seconds"] is not None:
        return job["seconds"]
    family = [other["seconds"] for other in timed if other["family"] == job["family"]]
    return median(family or [other["seconds"] for other in timed])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ConfigError(f"--watch {text}: no number of seconds from 1 on, such as --watch 10")
    return seconds
