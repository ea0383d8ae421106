"""A run's journals as one file, with which another checkout goes on."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from proxykv.config import catalog
from proxykv.config.check.schema import departures, did_you_mean, not_finite
from proxykv.config.keys.model_files import ANSWERING, PROXY
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import atomic
from proxykv.runtime.journal import Journal

GRADED = ("score", "score_fixed", "operations")
"""Columns that a row gets after it was journalled."""

MOST_BYTES = 1 << 30
"""Most bytes of an unpacked file: a small one may unpack to any size."""

Rows = list[dict[str, Any]]


def export_journals(run: Run, target: Path) -> int:
    """Write the rows of all journals of a run as gzipped JSON lines.

    Args:
        run: the run; it may be unfinished.
        target: the file to write, `*.jsonl.gz`.

    Returns:
        The number of rows.

    Raises:
        ConfigError: if there is no row, or the file is no new `*.jsonl.gz`.
    """
    if not target.name.endswith(".jsonl.gz") or target.exists():
        raise ConfigError(f"{target}: give the name of a new file that ends with .jsonl.gz")
    journals = dict.fromkeys(path for job in run.jobs() for path in job.journals())
    lines = dict.fromkeys(_line(row) for path in journals for row in Journal(path).read())
    if not lines:
        raise ConfigError(f"{run.dir}: no rows yet; run the config first")
    with atomic(target) as partial:
        # Without a time, so that the same rows are the same file.
        partial.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    return len(lines)


def import_journals(run: Run, source: Path) -> int:
    """Add the rows of an exported file to a run's journals, all of them or none.

    A row counts where it would be made again: its key holds digests of the method, its code, what
    it was fitted to, both models, and all texts. Others are never read.

    Args:
        run: the run that goes on.
        source: what `export_journals` wrote.

    Returns:
        The number of rows that were not there.

    Raises:
        ConfigError: if the file is damaged, a row is no row of this run, other models made it, or a
            job of the run is at work.
    """
    journals = {(job.family, job.benchmark, job.task): job for job in reversed(run.jobs())}
    found: dict[Path, Rows] = defaultdict(list)
    for number, row in enumerate(_read(source), start=1):
        where = f"{source} row {number}"
        _require_row(row, where)
        job = tuple(row[name] for name in ("family", "benchmark", "task"))
        if job not in journals:
            known = did_you_mean(" ".join(job), map(" ".join, journals))
            raise ConfigError(f"{where}: run {run.name!r} has no job {' '.join(job)!r}; {known}")
        _require_models(run, row, where)
        found[journals[job].journal].append(row)
    added = 0
    with ExitStack() as held:
        for path in found:
            held.enter_context(Journal(path).lock.held(patience=0))
        for path, rows in found.items():
            there = {_line(row) for row in Journal(path).read()}
            new = [row for row in rows if _line(row) not in there]
            Journal(path).append(new)
            added += len(new)
    return added


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _read(source: Path) -> Rows:
    try:
        with gzip.open(source) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"{source}: unpacks to more than {MOST_BYTES:,} bytes; not a journal")
        # "\n" only: answers hold other separators (U+2028) at which str.splitlines would cut.
        rows = [json.loads(line) for line in content.decode().split("\n") if line]
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: damaged, or no exported journal ({error})") from error
    if not rows:
        raise ConfigError(f"{source}: damaged, or no exported journal (no rows)")
    return rows


def _require_row(row: Any, where: str) -> None:
    schema = catalog.schema("row")
    columns = {k: v for k, v in schema["properties"].items() if k not in GRADED}
    required = [name for name in schema["required"] if name not in GRADED]
    problems = departures(row, {**schema, "properties": columns, "required": required}, where)
    if problems := problems or not_finite(row, where, nullable=()):
        raise ConfigError(problems[0])
    try:
        _line(row).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: a text is no Unicode ({error.reason})") from None


def _require_models(run: Run, row: Mapping[str, Any], where: str) -> None:
    """Refuse a row of other models than those that are here. A missing one is made later."""
    for role, parts in (("target", ANSWERING), ("proxy", PROXY)):
        model = run.model(row["family"], role)
        if model.folder.is_dir() and (key := model.key(parts)) != row[f"{role}_digest"]:
            raise ConfigError(
                f"{where}: made with another {role} ({row[f'{role}_digest']}) than that of "
                f"{row['family']} here ({key}); take the same models, config and tokenizer"
            )
