"""An append-only file of finished work, so that a killed job goes on where it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

log = logging.getLogger(__name__)


class Journal:
    """Rows as JSON lines; the file outlives the table that is made of it."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, which need not exist yet."""
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole rows. A line that a kill cut short, or that is damaged, is left out."""
        if not self.path.exists():
            return []
        rows, damaged = [], 0
        for line in self.path.read_text("utf-8", errors="replace").split("\n"):
            if not line:
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                damaged += 1
        if damaged:
            log.warning("%s: %d damaged line(s) left out; recomputed", self.path, damaged)
        return rows

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows in one write, on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The leading line break ends a line that a kill cut short.
        text = "\n" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace the whole content, atomically."""
        partial = self.path.with_name(self.path.name + ".partial")
        partial.unlink(missing_ok=True)
        Journal(partial).append(rows)
        partial.replace(self.path)


def write_parquet(path: Path, rows: pd.DataFrame) -> None:
    """Write a table; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    rows.to_parquet(partial, index=False)
    partial.replace(path)
