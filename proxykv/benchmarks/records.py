"""Records of published benchmarks: JSONL, JSON or Parquet, in a folder, a zip or on the hub."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any
from unicodedata import normalize
from zipfile import BadZipFile, ZipFile

from proxykv.benchmarks.record_schema import problems, record, short
from proxykv.runtime import hub
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import missing

FORMATS = (".jsonl", ".json", ".parquet")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
UNREADABLE = (OSError, EOFError, BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What reading a file, or a member of a zip, raises: damaged, encrypted, not permitted."""

Files = Mapping[str, Callable[[], IO[bytes]]]
"""Names of files, relative to the source, and how to open each."""


def read_records(
    source: Mapping[str, Any],
    name: str,
    schema: Mapping[str, Any] | None = None,
    unique: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Read and check the records of the table called `name`, in any format and folder.

    A table is a file of that name, without its ending and shard number, or all there is in a folder
    of that name (as hub repositories lay out their configurations); `a/b` asks for b in folder a.
    If no file fits, zip archives are searched.

    Args:
        source: one of
            {path: folder, zip or the file itself}, which may hold $VARIABLES;
            {hub: dataset, revision: commit}, files of a dataset repository.
        name: of the table.
        schema: what each record must be (see `proxykv.benchmarks.record_schema`); an object by
            default.
        unique: fields whose values together no two records share, such as an id. Records that lack
            one of the fields are not compared.

    Returns:
        The records, in the order of the files; at least one.

    Raises:
        ConfigError: if the source is missing, not exactly one table fits, a file cannot be read,
            a record departs from the schema, or two records share the values of `unique`. The line
            names file, record and field.
    """
    if set(source) == {"path"}:
        where, place = f"source {source['path']}", _place(str(source["path"]))
        if place.suffix in FORMATS and place.is_file():  # the table, under any name
            files = {place.name: partial(place.open, "rb")}
            return _read(files, [place.name], where, schema or record(), unique)
        attempts = iter([_local(place)])
    elif set(source) == {"hub", "revision"}:
        where = f"source {source['hub']}@{source['revision']}"
        attempts = _hub(source["hub"], str(source["revision"]), name, where)
    else:
        raise ConfigError(f"source {dict(source)}: give `path`, or `hub` with `revision`")
    for files in attempts:
        for place in chain([files], _archives(files, where)):
            if found := _table(place, name, where):
                return _read(place, found, where, schema or record(), unique)
    raise ConfigError(f"{where}: no {name}.jsonl, .json or .parquet in it, nor in a zip in it")


def _read(
    files: Files, names: Sequence[str], where: str, schema: Mapping[str, Any], unique: Sequence[str]
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for name in names:
        place = f"{where}: {_printable(name)}"
        found = parse(name, files[name], place)
        check(found, schema, place, unique, first)
        records += found
    if not records:
        raise ConfigError(f"{where}: no records in {', '.join(names)}")
    return records


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders, links to files and folders included, sorted.

    Raises:
        ConfigError: if the folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ConfigError(f"{error.filename}: cannot be listed ({error.strerror})")

    found: list[Path] = []
    inside: dict[Path, Path] = {}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        inside[here] = here.resolve()
        # A link to a folder that holds the link would be followed without end.
        above = {inside[parent] for parent in here.parents if parent in inside} | {inside[here]}
        folders[:] = [name for name in folders if (here / name).resolve() not in above]
        # A broken link is an error where it is read; a pipe would be read without end.
        found += [p for name in names if (p := here / name).is_file() or not p.exists()]
    return sorted(found)


def check(
    found: Sequence[Any],
    schema: Mapping[str, Any],
    where: str,
    unique: Sequence[str] = (),
    first: dict[str, str] | None = None,
) -> None:
    """Check the records of a file.

    Args:
        found: the records.
        schema: what each must be.
        where: the source and the file, which an error names.
        unique: fields whose values together no two records share (see `read_records`).
        first: the values of these fields in earlier files, and where each is; it is extended.

    Raises:
        ConfigError: for the first record that departs from the schema, or that shares the values of
            `unique` with another record.
    """
    first = {} if first is None else first
    for number, one in enumerate(found, start=1):
        values = [one.get(field) for field in unique] if isinstance(one, dict) else []
        place = f"{where}, record {number}"
        if len(values) == 1 and values[0] is not None:
            place += f" ({unique[0]} {short(values[0])})"
        for problem in problems(one, schema):
            raise ConfigError(f"{place}: {problem}")
        if not unique or None in values:
            continue
        if (other := first.setdefault(repr([_plain(v) for v in values]), place)) != place:
            same = " and ".join(unique)
            raise ConfigError(f"{place}: the same {same} as {other}; correct one or remove it")


def _plain(value: Any) -> Any:
    """A text without what no reader sees: Unicode's other form of a letter, blanks, a mark."""
    return normalize("NFC", value).strip().strip("\ufeff") if isinstance(value, str) else value


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def _place(path: str) -> Path:
    """The folder or file of a path, which may hold $VARIABLES."""
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise ConfigError(f"source {path}: set the environment variable that it names")
    if problem := missing(path):
        raise ConfigError(f"source {path}: {problem}")
    return Path(expanded).expanduser()


def _local(place: Path) -> Files:
    if place.is_file():
        return {place.name: partial(place.open, "rb")}
    return {
        file.relative_to(place).as_posix(): partial(file.open, "rb") for file in files_below(place)
    }


def _hub(repository: str, revision: str, name: str, where: str) -> Iterator[Files]:
    """What a repository holds under that name, then its archives; from the hub's cache if there."""
    for patterns in ([f"*{name}*{suffix}" for suffix in FORMATS], ["*.zip"]):
        try:
            folder = hub.download(repository, revision, patterns, kind="dataset")
        except ConfigError as error:
            raise ConfigError(f"{error}; or give a local `path`") from error
        yield _local(folder)


def _archives(files: Files, where: str) -> Iterator[Files]:
    for name in files:
        if name.endswith(".zip"):
            try:
                archive = ZipFile(files[name]())
            except UNREADABLE as error:
                raise ConfigError(
                    f"{where}: {name} is not a complete zip file; fetch it again"
                ) from error
            members = [member for member in archive.namelist() if not member.endswith("/")]
            for member, times in Counter(members).items():
                if times > 1:
                    raise ConfigError(f"{where}: {name} holds {member} {times} times; keep one")
            yield {member: partial(archive.open, member) for member in members}


def _table(files: Iterable[str], name: str, where: str) -> list[str]:
    """The files, in order, that make up the table; none if there is no such table."""
    tables: dict[tuple[str, str], list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix in FORMATS:
            name_without_shard = path.with_name(SHARD.sub("", path.stem))
            tables.setdefault((f"/{name_without_shard}", path.suffix), []).append(file)
    fitting = [key for key in tables if key[0].endswith(f"/{name}")]
    fitting = fitting or [key for key in tables if key[0].rpartition("/")[0].endswith(f"/{name}")]
    if len(fitting) > 1:
        several = ", ".join(path[1:] + suffix for path, suffix in fitting)
        raise ConfigError(f"{where}: several files fit {name!r} ({several}); narrow the path")
    return tables[fitting[0]] if fitting else []


def parse(name: str, opener: Callable[[], IO[bytes]], where: str) -> list[Any]:
    """Read what a file holds, as a list of records.

    Args:
        name: of the file; its ending decides the format.
        opener: opens it.
        where: what an error names.

    Returns:
        The lines of JSONL, the list or the one object of JSON, the rows of Parquet; unchecked.

    Raises:
        ConfigError: if the file cannot be read, or is not what its ending says.
    """
    try:
        with opener() as file:
            if name.endswith(".parquet"):
                return _rows(file)
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 ({error}); convert it to UTF-8") from error
    except UNREADABLE as error:
        raise ConfigError(f"{where}: cannot be read ({_line(error)}); fetch it again") from error
    # "\n" only: texts hold other separators (U+2028) at which str.splitlines would cut.
    documents = [text] if name.endswith(".json") else text.split("\n")
    records: list[Any] = []
    for number, document in enumerate(documents, start=1):
        if not document.strip():
            continue
        try:
            content = json.loads(
                document, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_object
            )
        except (ValueError, RecursionError) as error:  # also of integers that are too long
            raise ConfigError(f"{where}, line {number}: not JSON ({_line(error)})") from error
        # A line of JSONL is a record, and a list is none.
        records += content if name.endswith(".json") and isinstance(content, list) else [content]
    return records


def _rows(file: IO[bytes]) -> list[Any]:
    import pyarrow  # noqa: PLC0415 (slow, not always used)
    import pyarrow.parquet  # noqa: PLC0415

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise OSError(f"not a complete Parquet file: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two equal keys JSON's reader would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {short(twice)} is listed twice")
    return found


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        _refuse(text)
    return number


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _line(error: BaseException) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split()) or type(error).__name__
