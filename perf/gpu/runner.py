"""Sections run one after the other, each in a process with a time limit; rows are journalled.

A section that fails, hangs or breaks the GPU's context ends alone, and its rows so far stay.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from proxykv.runtime.journal import Journal

SECTIONS = {
    "machine": 60,
    "accelerator_tests": 100,
    "replay": 50,
    "whole_requests": 130,
    "decoding": 60,
    "sweeps": 60,
    "versus_kvpress": 60,
    "candidates": 40,
    "long_requests": 120,
}
"""In order of worth: each section's module, and the most seconds that it may take."""
LEAST = 5
"""A section does not start with less time left."""
PATIENCE = 10
"""Seconds that a section gets to end when it is stopped: a GPU may hold it up."""


@dataclass(frozen=True)
class Done:
    """A section that has ended.

    Attributes:
        section: its name.
        seconds: that it took.
        trouble: why it is incomplete; an empty text if it is not.
        failed: whether an error is why.
    """

    section: str
    seconds: float
    trouble: str = ""
    failed: bool = False


def run(names: Sequence[str], miniature: bool, out: Path, limit: float) -> Iterator[Done]:
    """Run sections; all of them load their packages once.

    Args:
        names: of the sections.
        miniature: tiny cases.
        out: folder of the journal and of the log.
        limit: most seconds of all sections together.

    Yields:
        Each section when it has ended.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([f"perf.gpu.{name}" for name in names])
    end = time.monotonic() + limit
    for name in names:
        start = time.monotonic()
        left = min(SECTIONS[name], end - start)
        if left < LEAST:
            yield Done(name, 0, "not run: the time was up")
            continue
        process = context.Process(target=_section, args=(name, miniature, out))
        process.start()
        try:
            process.join(left)
            code = process.exitcode
        finally:
            _stop(process.pid)
            process.join(PATIENCE)
        yield Done(name, time.monotonic() - start, _trouble(code, left), failed=bool(code))


def journal(out: Path) -> Journal:
    """The rows so far, each with the name of its section."""
    return Journal(out / "rows.jsonl")


def log_of(out: Path) -> Path:
    """What the sections print."""
    return out / "log.txt"


def _section(name: str, miniature: bool, out: Path) -> None:
    """The process of a section."""
    os.setsid()  # so that it can be stopped with all processes that it starts
    log = os.open(log_of(out), os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    print(f"== {name}", flush=True)
    from perf.gpu.sizes import FULL, MINIATURE  # noqa: PLC0415 (needs transformers)

    try:
        for row in import_module(f"perf.gpu.{name}").measure(MINIATURE if miniature else FULL):
            journal(out).append([{"section": name, **asdict(row)}])
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        sys.exit(1)


def _trouble(exit_code: int | None, limit: float) -> str:
    """Why a section is incomplete."""
    if exit_code is None:
        return f"stopped after {limit:.0f} s"
    return "" if exit_code == 0 else f"failed (exit code {exit_code})"


def _stop(group: int | None) -> None:
    """End what is left of a section's processes."""
    try:
        if group is not None:
            os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
