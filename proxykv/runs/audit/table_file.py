"""A published table, and its comparison with recomputed lines; the columns of a Parquet file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import types

from proxykv.runs.audit.cells import Cell
from proxykv.runs.audit.findings import Audit
from proxykv.runtime.errors import ConfigError

Key = tuple[str, ...]
Line = tuple[Key, dict[str, Cell]]
"""A line's key (the texts of the table's key columns) and its other cells."""
Published = list[dict[str, str]]


def read_table(path: Path) -> Published:
    """The lines of a CSV file.

    Raises:
        ConfigError: if it is none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); run `proxykv tabulate`") from error


def wrong_types(table: pa.Table, columns: Mapping[str, Any]) -> list[str]:
    """Columns of a Parquet file whose values have another type than their schema says.

    Args:
        table: contents of the file.
        columns: JSON schema of each column; without a type it is a text.
    """
    return [
        name
        for name, column in columns.items()
        if len(table)
        and name in table.column_names
        and not _is(table.schema.field(name).type, column.get("type", "string"))
    ]


def _is(stored: pa.DataType, expected: str | Sequence[str]) -> bool:
    """Whether a column's type is one of JSON schema's types."""
    number = types.is_integer(stored) or types.is_floating(stored)  # integers with gaps float
    kinds = {
        "string": types.is_string(stored) or types.is_large_string(stored),
        "integer": number,
        "number": number,
        "boolean": types.is_boolean(stored),
        "array": types.is_list(stored) or types.is_large_list(stored),
        "null": types.is_null(stored),
    }
    return any(kinds[kind] for kind in ([expected] if isinstance(expected, str) else expected))


def key_of(line: Mapping[str, str], keys: Sequence[str]) -> Key:
    """A published line's key.

    Args:
        line: cells of the line by column.
        keys: columns of the key.
    """
    return tuple(line.get(name) or "" for name in keys)


def compare(
    path: Path, keys: Sequence[str], published: Published, lines: Iterable[Line], audit: Audit
) -> None:
    """Compare a table's published lines with the recomputed ones.

    Args:
        path: of the table.
        keys: columns that name a line.
        published: lines of the table.
        lines: recomputed ones.
        audit: receives counts and findings.
    """
    by_key: dict[Key, dict[str, str]] = {}
    for line in published:
        key = key_of(line, keys)
        if key in by_key:
            audit.say(_name(path, key), "this line occurs more than once")
        by_key[key] = line
    for key, cells in lines:
        line = by_key.pop(key, None)
        if line is None:
            audit.say(_name(path, key), "this line is missing")
            continue
        for name in line.keys() - {*keys, *cells}:
            audit.say(f"{_name(path, key)}, {name}", "nothing is known about this column")
        for name in {name.removesuffix("_low") for name in cells if name.endswith("_low")}:
            if bool(line.get(f"{name}_low")) != bool(line.get(f"{name}_high")):
                audit.say(f"{_name(path, key)}, {name}", "has one end")
        for name, cell in cells.items():
            audit.cells += 1
            if not cell.agrees(text := line.get(name) or ""):
                audit.differs(f"{_name(path, key)}, {name}", text or "nothing", cell)
    for key in by_key:
        audit.say(_name(path, key), "the rows do not give this line")


def _name(path: Path, key: Key) -> str:
    return f"{path}, {' '.join(filter(None, key))}"
