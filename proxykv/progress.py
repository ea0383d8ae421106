"""How far a run is, and how to take a part of it back. Reads journals; loads no model."""

from __future__ import annotations

import pandas as pd

from proxykv.check import did_you_mean
from proxykv.journal import Journal
from proxykv.spec import Cell, ConfigError, Run


def status(run: Run) -> str:
    """A line per job: done, started or missing, with contexts and rows so far."""
    table = pd.DataFrame([_state(cell) for cell in run.cells()])
    return table.to_string(index=False)


def forget(run: Run, method: str, task: str | None = None) -> int:
    """Drop a method's journalled rows (of one task, or of all); returns how many.

    The files made of them go too, up to the report: Snakemake makes a missing file again only if
    something that is asked for needs it.

    Raises:
        ConfigError: if the run has no such method or task.
    """
    tasks = {cell.task for cell in run.cells()}
    for name, known in ((method, set(run.methods)), (task, tasks)):
        if name is not None and name not in known:
            raise ConfigError(f"run {run.name!r} has no {name!r}; {did_you_mean(name, known)}")
    dropped = 0
    for cell in run.cells():
        if task in (None, cell.task):
            journal = Journal(cell.file("predictions", ".journal.jsonl"))
            rows = journal.read()
            kept = [row for row in rows if row["method"] != method]
            if len(kept) < len(rows):
                journal.rewrite(kept)
                for kind in ("predictions", "rows"):
                    cell.file(kind).unlink(missing_ok=True)
            dropped += len(rows) - len(kept)
    if dropped:
        (run.dir / "report" / "index.html").unlink(missing_ok=True)
    return dropped


def _state(cell: Cell) -> dict[str, object]:
    rows = Journal(cell.file("predictions", ".journal.jsonl")).read()
    state = "started" if rows else "missing"
    return {
        "family": cell.family,
        "benchmark": cell.benchmark,
        "task": cell.task,
        "state": "done" if cell.file("rows").exists() else state,
        "contexts": f"{len({row['context_id'] for row in rows})}/{cell.dataset.contexts or '?'}",
        "rows": len(rows),
    }
