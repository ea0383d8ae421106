"""Tables on disk: whole or not there, and a clear word when one is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from pyarrow import ArrowException

from proxykv.runtime.errors import ConfigError


def write_parquet(path: Path, rows: pd.DataFrame) -> None:
    """Write a table; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            rows.to_parquet(file, index=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, or these columns of it.

    Raises:
        ConfigError: if the file is damaged.
    """
    try:
        return pd.read_parquet(path, columns=columns)
    except FileNotFoundError:
        raise
    except (ArrowException, OSError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); delete it, and the next run makes it again"
        ) from error
