"""Tables on disk: rows as Parquet, tables for readers as CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pyarrow import ArrowException

from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError


def write_parquet(path: Path, rows: pd.DataFrame) -> None:
    """Write rows, atomically.

    Args:
        path: the file; its folder is created.
        rows: the table; its index is not stored.
    """
    with files.atomic(path) as partial:
        rows.to_parquet(partial, index=False)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table for readers, with six significant digits, atomically.

    Args:
        path: the file; its folder is created.
        table: the table; its index is not stored.
    """
    files.write_text(path, table.to_csv(index=False, float_format="%.6g"))


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read rows from a Parquet file.

    Args:
        path: the file.
        columns: names of the columns; all by default.

    Raises:
        FileNotFoundError: if there is no such file.
        PermissionError: if this user may not read it.
        ConfigError: if the file is damaged.
    """
    files.require_readable(path)
    try:
        return pd.read_parquet(path, columns=columns)
    except FileNotFoundError:
        raise
    except (ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: damaged ({why}); delete it, and the next run makes it again"
        ) from error
