"""Records of published benchmarks: JSONL, JSON or Parquet, in a local folder or on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import pandas as pd

from proxykv.spec import ConfigError

FORMATS = (".jsonl", ".json", ".parquet")


def read_records(source: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Records of the file called `name`, whatever its format and folder.

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
    found = sorted(p for p in folder.rglob("*") if p.stem == name and p.suffix in FORMATS)
    if not found:
        raise ConfigError(f"source {path}: no {name}.jsonl, .json or .parquet in it")
    with found[0].open("rb") as file:
        return list(_parse(file, found[0].suffix))


def _hub(repository: str, revision: str, name: str) -> list[dict[str, Any]]:
    from huggingface_hub import hf_hub_download, list_repo_files  # noqa: PLC0415 (slow, rarely used)

    files = list_repo_files(repository, repo_type="dataset", revision=revision)
    # A file of that name, or the only one of a folder of that name (as `datasets` lays them out).
    tables = [f for f in files if Path(f).suffix in FORMATS]
    fitting = [f for f in tables if name in (Path(f).stem, Path(f).parent.name)]
    for file in fitting or [f for f in files if f.endswith(".zip")]:
        path = Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
        if path.suffix in FORMATS:
            with path.open("rb") as stream:
                return list(_parse(stream, path.suffix))
        with ZipFile(path) as archive:
            for member in archive.namelist():
                if Path(member).stem == name and Path(member).suffix in FORMATS:
                    with archive.open(member) as stream:
                        return list(_parse(stream, Path(member).suffix))  # type: ignore[arg-type]
    raise ConfigError(f"source {repository}@{revision[:12]}: no file of {name!r} in it")


def _parse(file: BinaryIO, suffix: str) -> Iterator[dict[str, Any]]:
    if suffix == ".parquet":
        yield from pd.read_parquet(file).to_dict("records")
        return
    text = file.read().decode("utf-8")
    if suffix == ".json":
        yield from json.loads(text)
        return
    # "\n" only: texts hold other separators (U+2028) at which str.splitlines would cut.
    yield from (json.loads(line) for line in text.split("\n") if line)
