"""An append-only file of finished work, from which a killed job resumes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from proxykv.runtime import files
from proxykv.runtime.lock import Lock

log = logging.getLogger(__name__)

_CHECK = ', "crc": "'


class Journal:
    """Rows as JSON lines, each with a checksum. A process that writes must hold `lock`."""

    def __init__(self, path: Path) -> None:
        """Use the journal at `path`, which need not exist yet."""
        self.path = path
        self.lock = Lock(path.with_name(path.name + ".lock"))

    def read(self) -> list[dict[str, Any]]:
        """Read all rows. A damaged line, such as one that a kill cut short, is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text("utf-8", errors="replace").split("\n")
        rows = [_parsed(line) for line in lines if line]
        intact = [row for row in rows if row is not None]
        if damaged := len(rows) - len(intact):
            log.warning("%s: %d damaged line(s) left out; recomputed", self.path, damaged)
        return intact

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows in one write. They are on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The leading line break ends a line that a kill cut short.
        text = "\n" + "".join(_line(row) for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace all rows, atomically."""
        with files.atomic(self.path) as partial:
            Journal(partial).append(rows)


def _line(row: Mapping[str, Any]) -> str:
    """Write a row as a line, with the checksum of its text as the last field."""
    text = json.dumps(row, ensure_ascii=False)
    return f'{text[:-1]}{_CHECK}{crc32(text.encode()):08x}"}}\n'


def _parsed(line: str) -> dict[str, Any] | None:
    """Read the row of a line; None if the checksum does not fit."""
    text, _, check = line.rpartition(_CHECK)
    text += "}"
    if check != f'{crc32(text.encode()):08x}"}}':
        return None
    return json.loads(text)
