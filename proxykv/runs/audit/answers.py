"""Rows against predictions and data: every planned row is there once, and its score is right."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from proxykv.benchmarks import contract
from proxykv.benchmarks.examples import Question, read_jsonl
from proxykv.config import catalog
from proxykv.config.check.schema import not_finite
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.runs.audit.efficiency import scans
from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.means import Row
from proxykv.runs.audit.scores import borrowed, second_scores
from proxykv.runs.audit.table_file import wrong_types
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal

Key = tuple[str, int, str, float]
"""(context id, question, method, retention)."""
Questions = Mapping[tuple[str, int], Question]

GRADED = {"score", "score_fixed"}
_COLUMNS = catalog.schema("row")["properties"]
NULLABLE = {*catalog.nullable()}
COLUMNS = {"rows": set(_COLUMNS), "predictions": set(_COLUMNS) - GRADED}
ROUNDING = 1e-9
MADE = {"tables": "tabulate", "figures": "plot"}
"""Folders of what is made of rows, with the steps that make them."""


def check_answers(run: Run, folder: Path, audit: Audit) -> list[Row]:
    """Check the rows of every job; returns all rows.

    Args:
        run: says which rows there must be.
        folder: the run's folder.
        audit: receives counts and findings.
    """
    stored = [(job, _read(folder, job, "rows", audit)) for job in run.jobs()]
    rows = [row for _, of_job in stored for row in of_job]
    scopes: dict[str, set[str]] = {}
    for row in rows:
        scopes.setdefault(row["method"], set()).add(row["scope"])
    for method, several in scopes.items():
        if len(several) > 1:
            audit.say(folder / "rows", f"{method} has several scopes: {sorted(several)}")
    grid = list(_grid(run, scopes))
    for job, of_job in stored:
        _check_job(run, folder, job, of_job, grid, audit)
    return rows


def check_digests(run: Run, folder: Path, made: str, audit: Audit) -> None:
    """Compare tables or figures, and the files that they were made of, with their digests.

    Args:
        run: the run.
        folder: of its results.
        made: `tables` or `figures`.
        audit: receives the findings.
    """
    path, again = folder / made / "provenance.json", f"run `proxykv {MADE[made]}`"
    if not path.is_file():
        audit.say(path, f"missing; {again}")
        return
    try:
        facts = files.read_object(path)
    except ConfigError as error:
        audit.findings.append(f"{error}; {again}")
        return
    planned = {
        "rows": {"/".join(job.file("rows").parts[-3:]) for job in run.jobs()},
        "efficiency": {f"{family}/{scan}.parquet" for family, scan in scans(run.config)},
    }
    for kind in (*planned, "files"):
        published = facts.get(f"{kind}_sha256")
        if not isinstance(published, dict):
            audit.say(path, f"has no {kind}_sha256; {again}")
            continue
        names = planned.get(kind, published.keys())
        for name in sorted(published.keys() - names):
            audit.say(
                path, f"the {made} were made of {kind}/{name}, which the config does not plan"
            )
        for name in sorted(names):
            file = folder / (made if kind == "files" else kind) / name
            now = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
            if now is None and kind == "files":
                if made != "tables" or file.suffix != ".csv":  # `check_tables` misses those
                    audit.say(file, f"missing; {again}")
            elif now != published.get(name):
                audit.say(file, f"changed after the {made} were made; {again}")


def _grid(run: Run, scopes: Mapping[str, set[str]]) -> Iterator[tuple[str, float]]:
    """Planned (method, retention). A method that never prunes (scope `none`) runs at 1 only."""
    for entry in run.config["methods"]:
        method = entry["id"] if isinstance(entry, dict) else entry
        for retention in run.retentions:
            if (retention == 1) == ("none" in scopes.get(method, ())):
                yield method, retention


def _check_job(
    run: Run, folder: Path, job: Job, rows: list[Row], grid: list[tuple[str, float]], audit: Audit
) -> None:
    file = _file(folder, job, "rows")
    stored = _read(folder, job, "predictions", audit)
    predictions = {_key(row): row for row in stored}
    questions = _questions(job, audit)
    if questions:
        planned = {(*unit, *point) for unit in questions for point in grid}
        _check_plan(file, rows, planned, audit)
        _check_plan(_file(folder, job, "predictions"), stored, planned, audit)
    else:
        again = f"`proxykv prepare --config {folder / 'config.json'} {job.dataset.path}` makes it"
        audit.say(file, f"scores cannot be recomputed without {job.dataset.path}; {again}")
    if run.protocol == "query_agnostic":
        _check_kept(file, rows, audit)
    unknown = {key[:2] for key, row in predictions.items() if row["kl"] is None}
    for row in rows:
        audit.rows += 1
        key = _key(row)
        where = _name(file, key)
        if key not in predictions:
            audit.say(where, "has no prediction")
        for column, value in predictions.get(key, {}).items():
            if row.get(column) != value:
                audit.differs(f"{where}, {column}", row.get(column), value)
        if key[:2] in questions:
            _check_score(where, job, row, questions[key[:2]], audit)
        if (row["kl"] is None) != (key[:2] in unknown):
            audit.say(where, "KL is known for some methods of this question only")
        for problem in _problems(run, job, row):
            audit.say(where, problem)
    _check_journals(folder, job, stored, audit)


def _check_journals(folder: Path, job: Job, predictions: list[Row], audit: Audit) -> None:
    """Every prediction is the last one that a journal has of its key, if there are journals.

    Journals may hold more: rows of other code, and what a limit has since left out.
    """
    paths = replace(job, run_dir=folder).journals()
    journalled = {_answer_key(row): row for path in paths for row in Journal(path).read()}
    for row in predictions if paths else ():
        where = _name(_file(folder, job, "predictions"), _key(row))
        answer = journalled.get(_answer_key(row))
        if answer is None:
            audit.say(where, "no journal holds this answer")
            continue
        for column in sorted(answer.keys() & row.keys()):
            if row[column] != answer[column]:
                audit.differs(f"{where}, {column}", row[column], answer[column])


def _answer_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(c) for c in ("context_id", "prompt_hash", "method_digest", "retention"))


def _questions(job: Job, audit: Audit) -> Questions:
    """A job's questions by context and number; empty without its data."""
    if not job.dataset.path.is_file():
        return {}
    try:
        examples = job.part(read_jsonl(job.dataset.path))
    except ConfigError as error:
        audit.findings.append(str(error))
        return {}
    return {(e.id, i): question for e in examples for i, question in enumerate(e.questions)}


def _check_plan(file: Path, rows: list[Row], planned: set[Key], audit: Audit) -> None:
    counts = Counter(map(_key, rows))
    for key in sorted(planned - counts.keys()):
        audit.say(_name(file, key), "missing, though the config plans it")
    for key in sorted(counts.keys() - planned):
        audit.say(_name(file, key), "the config does not plan this row")
    for key, times in counts.items():
        if times > 1:
            audit.say(_name(file, key), f"occurs {times} times")


def _check_kept(file: Path, rows: list[Row], audit: Audit) -> None:
    """All questions of a context are answered from the same kept set."""
    kept: dict[tuple[str, str, float], str] = {}
    for row in rows:
        first = kept.setdefault(
            (row["context_id"], row["method"], row["retention"]), row["kept_digest"]
        )
        if row["kept_digest"] != first:
            audit.say(_name(file, _key(row)), "kept other pairs than for the first question")


def _check_score(where: str, job: Job, row: Row, question: Question, audit: Audit) -> None:
    """The stored prediction and the data's references decide.

    The audit computes the score of the project's benchmarks itself. For a user's benchmark, it can
    only call `grade` again, which is counted.
    """
    audit.scores += 1
    if shared := borrowed(job.benchmark, job.task, row["prediction"], question):
        audit.borrowed[shared] += 1
    if row["references"] != list(question.references):
        audit.differs(f"{where}, references", row["references"], list(question.references))
    graded = second_scores(job.benchmark, job.task, row["prediction"], question)
    if graded is None:
        graded = contract.load(job.benchmark).grade(job.task, row["prediction"], question)
    for column in sorted(GRADED):
        if not _equal(row[column], graded.get(column)):
            audit.differs(f"{where}, {column}", row[column], graded.get(column))


def _problems(run: Run, job: Job, row: Row) -> Iterator[str]:
    """Values in a row's columns that no answer of a model can give."""
    expected = {
        "family": job.family,
        "benchmark": job.benchmark,
        "task": job.task,
        "protocol": run.protocol,
        "schedule": run.schedule,
        "seed": run.seed,
    }
    for column, value in expected.items():
        if row[column] != value:
            yield f"{column} is {row[column]!r}, not {value!r}"
    if (row["kl"] is None) != (row["nll"] is None):
        yield f"of NLL ({row['nll']}) and KL ({row['kl']}) one is unknown"
    for column, least in {"nll": 0.0, "kl": -0.001}.items():
        value = row[column]
        if value is not None and not (math.isfinite(value) and value >= least):
            yield f"{column} is {value}"
    measured = {name: value for name, value in row.items() if name not in ("nll", "kl")}
    yield from not_finite(measured, "row", nullable=())
    kept, full_bytes = row["achieved_retention"], row["kv_bytes_full"]
    if abs(kept * full_bytes - row["kv_bytes"]) > max(1.0, full_bytes) * ROUNDING:
        yield f"{row['kv_bytes']} of {full_bytes} bytes are not a retention of {kept}"
    # A budget is rounded down to whole pairs, at worst in each head alone.
    below = (row["retention"] - kept) * row["context_tokens"]
    if row["scope"] != "custom" and not -ROUNDING < below < 1:
        yield f"achieved retention is {kept}, requested {row['retention']}"


def _read(folder: Path, job: Job, kind: str, audit: Audit) -> list[Row]:
    path = _file(folder, job, kind)
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        audit.say(path, "missing")
        return []
    except (ArrowException, OSError) as error:
        audit.say(path, f"damaged ({error})")
        return []
    if absent := COLUMNS[kind] - set(table.column_names):
        what = f"lacks the columns {', '.join(sorted(absent))}"
        audit.say(path, f"{what}; if another version made it, run the workflow again")
        return []
    if wrong := wrong_types(table, {c: _COLUMNS[c] for c in COLUMNS[kind]}):
        audit.say(path, f"values of another type in the columns {', '.join(sorted(wrong))}")
        return []
    complete = []
    for number, row in enumerate(table.to_pylist(), start=1):
        if empty := [c for c in COLUMNS[kind] - NULLABLE if row[c] is None]:
            audit.say(f"{path}, row {number}", f"{', '.join(sorted(empty))} is null")
        else:
            complete.append(row)
    return complete


def _file(folder: Path, job: Job, kind: str) -> Path:
    return folder / job.file(kind).relative_to(job.run_dir)


def _key(row: Row) -> Key:
    return row["context_id"], row["question"], row["method"], row["retention"]


def _name(file: Path, key: Key) -> str:
    context, question, method, retention = key
    return f"{file}, {context} question {question}, {method} at {retention:g}"


def _equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING
