"""Parts of one run that several machines made, united in a new folder.

The parts have one config, except for its name and for families, benchmarks' tasks and methods,
which are united. What decides a number must be the same in all of them; where two parts hold the
same answer, such as those of the full cache, it must be the same answer.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.config import catalog
from proxykv.config.check.schema import not_finite
from proxykv.config.run import Run
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.lock import Lock
from proxykv.runtime.parquet import read_parquet, write_parquet

RECORDS = ("card.json", "log.jsonl")
"""Files of a mapper that say how it was made, with times; its weights must be the same."""
SCREENING = "screening.json"
"""About the evaluation contexts of one part; left out if parts have different ones."""
UNITED = ("run", "families", "benchmarks", "methods")
"""Entries of the config in which parts may differ."""
KINDS = ("predictions", "rows")
KEY = ["family", "benchmark", "task", "context_id", "question", "method", "scope", "retention"]
ANSWER = ["prompt_hash", "kept_digest", "prediction", "nll", "kl"]
"""Columns in which two copies of one answer must agree; times differ."""
SAME = {
    **dict.fromkeys(("protocol", "code_hash", "versions", "seed"), ()),
    **dict.fromkeys(("target_digest", "proxy_digest", "target_hash", "proxy_hash"), ("family",)),
    **dict.fromkeys(("device", "dtype", "kernels", "threads"), ("family",)),
    "method_digest": ("family", "method"),
}
"""Columns that have one value in all rows, or in all rows with the same values of these columns."""


def merge(folders: Sequence[Path], target: Path) -> Path:
    """Write predictions, rows, journals, mappers and measurements of all parts to a new folder.

    Args:
        folders: of the parts, at least two.
        target: `results/<new run>`, which does not exist.

    Returns:
        The new run's config.

    Raises:
        ConfigError: if the parts do not belong together, one of them is running or has a link out
            of it, or the new folder is there or in one of them.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("proxykv merge: give the folders of two or more different parts")
    if target.exists():
        raise ConfigError(f"{target} exists; give the name of a new folder")
    if inside := {folder.resolve() for folder in folders} & {*target.resolve().parents}:
        raise ConfigError(f"{target} is inside {inside.pop()}; give the name of a new folder")
    parts = {folder: Run.read(folder / "config.json", made=True) for folder in folders}
    for folder in folders:
        if (holder := Lock(folder / "workflow.lock").holder()) and holder.alive:
            raise ConfigError(f"{folder}: snakemake runs ({holder}); merge when it has ended")
    united = Run(_united({folder: run.config for folder, run in parts.items()}, target.name))
    _require_same(parts)
    partial = target.with_name(target.name + ".partial")
    try:
        for name, sources in _files(folders).items():
            _unite(sources, partial / name)
        united.cards.write(partial)
        files.write_json(partial / "config.json", united.config)
        # Complete before it has its name: a merge that is refused leaves nothing.
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target / "config.json"


def _united(configs: Mapping[Path, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """One config of all families, tasks and methods."""
    (first, config), *others = configs.items()
    for folder, other in others:
        for key in {**config, **other}:
            if key not in UNITED and config.get(key) != other.get(key):
                raise ConfigError(f"{first} and {folder}: config.{key} differs; not one run")
    methods: dict[str, Any] = {}
    tasks: dict[tuple[str, str], Mapping[str, Any]] = {}
    for folder, other in configs.items():
        for entry in other["methods"]:
            method = entry if isinstance(entry, str) else entry["id"]
            if methods.setdefault(method, entry) != entry:
                raise ConfigError(f"{folder}: method {method} has other settings than in {first}")
        for entry in other["benchmarks"]:
            for task in entry["tasks"]:
                one = {**entry, "tasks": [task]}
                if tasks.setdefault((entry["benchmark"], task), one) != one:
                    raise ConfigError(f"{folder}: task {task} has other settings than in {first}")
    families = dict.fromkeys(f for other in configs.values() for f in other["families"])
    return {
        **config,
        "run": name,
        "families": [*families],
        "methods": [*methods.values()],
        "benchmarks": _grouped(tasks.values()),
    }


def _grouped(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of one task each, joined where neighbours have the same settings."""
    joined: list[dict[str, Any]] = []
    for entry in entries:
        if joined and {**joined[-1], "tasks": entry["tasks"]} == entry:
            joined[-1]["tasks"] = [*joined[-1]["tasks"], *entry["tasks"]]
        else:
            joined.append(dict(entry))
    return joined


def _require_same(parts: Mapping[Path, Run]) -> None:
    """Raise ConfigError, naming two parts, if something that decides a number differs in them."""
    frames = []
    for folder, run in parts.items():
        paths = [folder / job.file("rows").relative_to(run.dir) for job in run.jobs()]
        columns = list(dict.fromkeys(["family", "method", *SAME]))
        found = [read_parquet(path, columns) for path in paths if path.is_file()]
        if not found:
            raise ConfigError(f"{folder}: no rows; run `proxykv grade` there first")
        frames.append(pd.concat(found).drop_duplicates().assign(folder=str(folder)))
    made = pd.concat(frames)
    for column, by in SAME.items():
        groups = made.groupby(list(by)) if by else [("", made)]
        for key, group in groups:
            states = group.drop_duplicates(column)
            if len(states) > 1:
                one, other = states.iloc[0], states.iloc[1]
                raise ConfigError(
                    f"{one.folder} and {other.folder}: {column}"
                    f"{' of ' + ' '.join(map(str, key)) if by else ''} is {one[column]} and "
                    f"{other[column]}; such rows do not compare (see `proxykv compare`)"
                )


def _files(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """The parts' files by their names in a run's folder; what is made of rows is left out."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for kind in (*KINDS, "mappers", "efficiency"):
            for path in sorted((folder / kind).rglob("*")):
                if path.is_file() and path.suffix != ".lock":
                    files.require_inside(path, folder)
                    found.setdefault(path.relative_to(folder).as_posix(), []).append(path)
    return found


def _unite(sources: Sequence[Path], target: Path) -> None:
    """Write what several parts have under one name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    first, *others = sources
    if target.parts[-4] in KINDS and target.suffix == ".parquet":
        for path in sources:
            _require_finite(path)
    unlike = [other for other in others if other.read_bytes() != first.read_bytes()]
    if target.parts[-4] in KINDS and unlike:
        if target.suffix == ".parquet":
            write_parquet(target, _united_answers(sources))
        else:
            target.write_bytes(b"".join(path.read_bytes() for path in sources))
    elif unlike and target.name == SCREENING:
        return
    elif unlike and target.name not in RECORDS:
        raise ConfigError(f"{first} and {unlike[0]} differ, and both parts made it")
    else:
        shutil.copy2(first, target)


def _require_finite(path: Path) -> None:
    """Raise ConfigError if a number in a file of rows or predictions is infinite or NaN."""
    nullable = catalog.nullable()
    for number, row in enumerate(read_parquet(path).to_dict("records")):
        if problems := not_finite(row, f"{path} row {number}", nullable=nullable):
            raise ConfigError(problems[0])


def _united_answers(sources: Sequence[Path]) -> pd.DataFrame:
    """The answers of several files, each once."""
    rows = pd.concat([read_parquet(path).assign(source=str(path)) for path in sources])
    rows = rows.reset_index(drop=True)
    twice = rows[rows.duplicated(KEY, keep=False)]
    compared = twice.assign(prediction=twice.prediction.map(json.dumps))
    for _, copies in compared.groupby(KEY):
        for column in ANSWER:
            if copies[column].nunique(dropna=False) > 1:
                one, other = copies.iloc[0], copies.iloc[-1]
                raise ConfigError(
                    f"{one.source} and {other.source}: {column} of {one.method} at retention "
                    f"{one.retention:g} differs for {one.context_id}"
                )
    return rows.drop_duplicates(KEY).drop(columns="source")
