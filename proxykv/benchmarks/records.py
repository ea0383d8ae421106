"""Records of published benchmarks: JSONL, JSON or Parquet, in a folder, a zip or on the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

from proxykv.runtime.errors import ConfigError

FORMATS = (".jsonl", ".json", ".parquet")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")

Files = Mapping[str, Callable[[], IO[bytes]]]
"""Names of files, relative to the source, and how to open each."""


def read_records(source: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Records of the table called `name`, whatever its format and folder.

    A table is a file of that name, without its ending and shard number, or all there is in a folder
    of that name (as hub repositories lay out their configurations); `a/b` asks for b in folder a.
    Zip archives are looked into where nothing else fits.

    Args:
        source: one of
            {path: folder, zip or the file itself}, which may hold $VARIABLES;
            {hub: dataset, revision: commit}, files of a dataset repository.
        name: of the table.

    Raises:
        ConfigError: if the source is not there, or not exactly one table fits, or it is malformed.
    """
    if set(source) == {"path"}:
        where, attempts = f"source {source['path']}", iter([_local(str(source["path"]), name)])
    elif set(source) == {"hub", "revision"}:
        where = f"source {source['hub']}@{source['revision']}"
        attempts = _hub(source["hub"], str(source["revision"]), name, where)
    else:
        raise ConfigError(f"source {dict(source)}: give `path`, or `hub` with `revision`")
    for files in attempts:
        for place in chain([files], _archives(files, where)):
            if found := _table(place, name, where):
                return [record for file in found for record in _parse(file, place[file], where)]
    raise ConfigError(f"{where}: no {name}.jsonl, .json or .parquet in it, nor in a zip in it")


def _local(path: str, name: str) -> Files:
    place = Path(os.path.expandvars(path)).expanduser()
    if "$" in str(place):
        raise ConfigError(f"source {path}: set the environment variable that it names")
    if place.is_file():
        # A file that is named itself is the table, whatever it is called.
        called = place.name if place.suffix == ".zip" else name + place.suffix
        return {called: partial(place.open, "rb")}
    if not place.is_dir():
        raise ConfigError(f"source {path}: no such folder or file")
    found = sorted(file for file in place.rglob("*") if file.is_file())
    return {file.relative_to(place).as_posix(): partial(file.open, "rb") for file in found}


def _hub(repository: str, revision: str, name: str, where: str) -> Iterator[Files]:
    """What a repository holds under that name, then its archives; from the hub's cache if there."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (slow, rarely used)

    for patterns in ([f"*{name}*{suffix}" for suffix in FORMATS], ["*.zip"]):
        try:
            folder = snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=patterns
            )
        except OSError as error:  # what all of the hub's errors are
            raise ConfigError(
                f"{where}: {' '.join(str(error).split())}; download it once where there is a "
                "network, or give a local `path`"
            ) from error
        yield _local(folder, name)


def _archives(files: Files, where: str) -> Iterator[Files]:
    for name in files:
        if name.endswith(".zip"):
            try:
                archive = ZipFile(files[name]())
            except BadZipFile as error:
                raise ConfigError(f"{where}: {name} is no whole zip; fetch it again") from error
            yield {member: partial(archive.open, member) for member in archive.namelist()}


def _table(files: Iterable[str], name: str, where: str) -> list[str]:
    """The files, in order, that make up the table; none if there is no such table."""
    tables: dict[tuple[str, str], list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix in FORMATS:
            whole = path.with_name(SHARD.sub("", path.stem))
            tables.setdefault((f"/{whole}", path.suffix), []).append(file)
    fitting = [key for key in tables if key[0].endswith(f"/{name}")]
    fitting = fitting or [key for key in tables if key[0].rpartition("/")[0].endswith(f"/{name}")]
    if len(fitting) > 1:
        several = ", ".join(path[1:] + suffix for path, suffix in fitting)
        raise ConfigError(f"{where}: several files fit {name!r} ({several}); narrow the path")
    return tables[fitting[0]] if fitting else []


def _parse(name: str, opener: Callable[[], IO[bytes]], where: str) -> Iterator[dict[str, Any]]:
    with opener() as file:
        if name.endswith(".parquet"):
            import pyarrow.parquet as pq  # noqa: PLC0415 (slow, not always used)

            yield from pq.read_table(file).to_pylist()
            return
        text = file.read().decode("utf-8")
    # "\n" only: texts hold other separators (U+2028) at which str.splitlines would cut.
    documents = [text] if name.endswith(".json") else text.split("\n")
    for number, document in enumerate(documents, start=1):
        if not document.strip():
            continue
        try:
            content = json.loads(document)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{where}: {name}, line {number}: not JSON ({error})") from error
        yield from content if isinstance(content, list) else [content]
