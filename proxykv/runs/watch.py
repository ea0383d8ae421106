"""Follow a run that is being made: what is done, and how long the rest still takes."""

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

KINDS = {
    "fits": ("fit", "step", "steps trained"),
    "jobs": ("job", "contexts", "contexts answered"),
    "scans": ("scan", "requests", "requests measured"),
}
"""What one record of a kind is called, the column that counts what it did, and that in words."""


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
    seconds, shown = _seconds(every), set()
    while True:
        found = {kind: records for kind, records in progress(run).items() if records}
        lines = [time_left(kind, records) for kind, records in found.items()]
        if out.isatty():
            tables = map(status_table, found.values())
            print(CLEAR + "\n\n".join([*tables, "\n".join(lines)]), file=out, flush=True)
        for line in () if out.isatty() else lines:
            if line not in shown:
                print(f"{time.strftime('%H:%M:%S')} {line}", file=out, flush=True)
        shown = set(lines)
        if all(record["state"] == "done" for records in found.values() for record in records):
            return
        try:
            pause(seconds)
        except KeyboardInterrupt:
            return


def time_left(kind: str, records: Records) -> str:
    """One line: what fits, jobs or scans have done, and the time that the rest takes.

    One that has done too little to be timed takes as long for a step, context or request as those
    of its family, or else as all. Those that run at the same time share the work.

    Args:
        kind: of the records: "fits", "jobs" or "scans".
        records: of `progress`.
    """
    one, unit, words = KINDS[kind]
    todo = [record for record in records if record["state"] != "done"]
    known = [record for record in todo if record["of"] is not None]
    done, size = (sum(record[name] or 0 for record in records) for name in (unit, "of"))
    text = f"{done} of {size} {words}, {len(todo)} of {len(records)} {one}s to do"
    if not todo:
        return text
    timed = [record for record in records if record["seconds"] is not None]
    if not timed or not known:
        return f"{text}; no time to go by yet"
    seconds = sum((record["of"] - record[unit]) * _pace(record, timed) for record in known)
    running = max(1, sum(record["state"] == "running" for record in records))
    left = timedelta(seconds=round(seconds / running))
    # One of unknown size takes longer, and a job whose contexts lack a method that was added.
    sure = len(known) == len(todo) and all(record[unit] < record["of"] for record in known)
    least = "" if sure else "at least "
    return f"{text}; {least}{left} left with {running} {one}{'s' * (running > 1)} at a time"


def _pace(record: Mapping[str, Any], timed: Records) -> float:
    """Seconds that one step, context or request of a record takes."""
    if record["seconds"] is not None:
        return record["seconds"]
    family = [other["seconds"] for other in timed if other["family"] == record["family"]]
    return median(family or [other["seconds"] for other in timed])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ConfigError(f"--watch {text}: no number of seconds from 1 on, such as --watch 10")
    return seconds
