"""Write a run's tables, and what its rows were made with."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import cases, read_measurements, speedups
from proxykv.report.latex import latex
from proxykv.report.tables import TABLES, read_rows
from proxykv.runtime import files
from proxykv.runtime.parquet import write_csv

PROVENANCE = [
    "protocol",
    "target",
    "target_hash",
    "target_digest",
    "proxy",
    "proxy_hash",
    "proxy_digest",
    "seed",
    "config_hash",
    "code_hash",
    "commit",
    "device",
    "dtype",
    "kernels",
    "threads",
    "versions",
]


def write_tables(rows_paths: Sequence[Path], methods: MethodCards, out_dir: Path) -> list[Path]:
    """Write every table that follows from rows alone (see `write_table`).

    Args:
        rows_paths: files of rows.
        methods: cards of the run's methods.
        out_dir: where the files go.

    Returns:
        The files that were written.
    """
    rows = read_rows(rows_paths)
    return [
        path
        for name, table in TABLES.items()
        for path in write_table(out_dir / f"{name}.csv", table(rows, methods), methods)
    ]


def write_provenance(
    folder: Path,
    written: Sequence[Path],
    rows_paths: Sequence[Path],
    measured_paths: Sequence[Path] = (),
) -> Path:
    """Write `provenance.json`: what a folder's files were made of, and the digests of all.

    Args:
        folder: of the files.
        written: the files, complete.
        rows_paths: files of rows.
        measured_paths: files of measurements (`measurement_files`).

    Returns:
        The file.
    """
    facts = {
        "families": provenance(read_rows(rows_paths)),
        # Family, benchmark and task name a file, or family and scan.
        "rows_sha256": _digests(rows_paths, parts=3),
        "efficiency_sha256": _digests(measured_paths, parts=2),
        "files_sha256": _digests(written, parts=1),
    }
    path = folder / "provenance.json"
    files.write_json(path, facts)
    return path


def _digests(paths: Sequence[Path], parts: int) -> dict[str, str]:
    """SHA-256 by the last parts of a path; the folder on this machine is left out."""
    return {
        "/".join(path.parts[-parts:]): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def write_efficiency(run_dir: Path, methods: MethodCards) -> list[Path]:
    """Write the tables of time and memory (see `write_table`).

    Args:
        run_dir: the run's folder.
        methods: cards of the run's methods.

    Returns:
        The files that were written: none if the run measured nothing.
    """
    measured = read_measurements(run_dir)
    if measured.empty:
        return []
    tables = {"efficiency": cases(measured), "speedups": speedups(measured, methods)}
    return [
        path
        for name, table in tables.items()
        for path in write_table(run_dir / "tables" / f"{name}.csv", table, methods)
    ]


def write_table(path: Path, table: pd.DataFrame, methods: MethodCards) -> list[Path]:
    """Write a table as CSV and, unless it is the list of what exists, as LaTeX next to it.

    Args:
        path: the CSV file.
        table: the table.
        methods: cards of the run's methods.

    Returns:
        The files that were written.
    """
    write_csv(path, table)
    if path.stem == "coverage":
        return [path]
    files.write_text(path.with_suffix(".tex"), latex(path.stem, table, methods))
    return [path, path.with_suffix(".tex")]


def provenance(rows: pd.DataFrame) -> dict[str, Any]:
    """All distinct values of the provenance columns, per family, with dates and digests."""
    result: dict[str, Any] = {}
    for family, group in rows.groupby("family"):
        facts: dict[str, Any] = {c: sorted(map(str, group[c].unique())) for c in PROVENANCE}
        digests = group.groupby("method")["method_digest"].unique()
        facts["method_digest"] = {method: sorted(map(str, d)) for method, d in digests.items()}
        facts["created"] = [str(group.created.min()), str(group.created.max())]
        facts["rows"] = len(group)
        result[str(family)] = facts
    return result
