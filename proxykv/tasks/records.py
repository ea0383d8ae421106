"""Records of published benchmarks: JSONL, JSON or Parquet, in a local folder or on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

from pyarrow import parquet

from proxykv.spec import ConfigError

FORMATS = (".jsonl", ".json", ".parquet")


def read_records(source: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Records of the table called `name`: a file of any format, or a folder of Parquet parts.

    `source` is one of
      {path: folder}                  searched with its subfolders; may hold $VARIABLES;
      {hub: dataset, revision: commit} files of a dataset repository; a zip archive is looked into.

    Raises:
        ConfigError: if the source or the file is not there.
    """
    if "path" in source:
        return _local(str(source["path"]), name)
    if {"hub", "revision"} <= set(source):
        return _hub(source["hub"], source["revision"], name)
    raise ConfigError(f"source {dict(source)}: give `path`, or `hub` with `revision`")


def _local(path: str, name: str) -> list[dict[str, Any]]:
    folder = Path(os.path.expandvars(path)).expanduser()
    if "$" in str(folder):
        raise ConfigError(f"source {path}: set the environment variable that it names")
    if not folder.is_dir():
        raise ConfigError(f"source {path}: no such folder")
    found = _parts((p.as_posix() for p in folder.rglob("*")), name)
    if not found:
        raise ConfigError(f"source {path}: no {name}.jsonl, .json or .parquet in it")
    return [record for file in found for record in _read(Path(file))]


def _hub(repository: str, revision: str, name: str) -> list[dict[str, Any]]:
    from huggingface_hub import hf_hub_download, list_repo_files  # noqa: PLC0415 (slow, rarely used)

    files = list_repo_files(repository, repo_type="dataset", revision=revision)

    def download(file: str) -> Path:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))

    if found := _parts(files, name):
        return [record for file in found for record in _read(download(file))]
    for file in files:
        if not file.endswith(".zip"):
            continue
        with ZipFile(download(file)) as archive:
            for member in archive.namelist():
                if Path(member).stem == name and Path(member).suffix in FORMATS:
                    with archive.open(member) as stream:
                        return list(_parse(stream, Path(member).suffix))  # type: ignore[arg-type]
    raise ConfigError(f"source {repository}@{revision[:12]}: no file of {name!r} in it")


def _parts(files: Iterable[str], name: str) -> list[str]:
    """Files of a table: all Parquet parts in a folder of its name (a configuration of the hub's
    `datasets`), or else one file of its name.
    """
    tables = sorted(file for file in files if Path(file).suffix in FORMATS)
    parts = [t for t in tables if t.endswith(".parquet") and Path(t).parent.name == name]
    return parts or [t for t in tables if Path(t).stem == name][:1]


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return list(_parse(file, path.suffix))


def _parse(file: BinaryIO, suffix: str) -> Iterator[dict[str, Any]]:
    if suffix == ".parquet":
        yield from parquet.read_table(file).to_pylist()
        return
    text = file.read().decode("utf-8")
    if suffix == ".json":
        yield from json.loads(text)
        return
    # "\n" only: texts hold other separators (U+2028) at which str.splitlines would cut.
    yield from (json.loads(line) for line in text.split("\n") if line)
