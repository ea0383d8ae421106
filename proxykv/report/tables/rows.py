"""Rows of a run, checked: none twice, and none that do not compare."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from proxykv.report.tables.columns import MODELS, ROW_KEY, STATE
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import read_parquet


def read_rows(paths: Iterable[Path]) -> pd.DataFrame:
    """All rows of these Parquet files.

    Raises:
        ConfigError: if there is none, if one question was answered twice by one method at one
            retention, or if rows are mixed that do not compare: of two protocols, of two states of
            a model, or of two states of a method.
    """
    paths = sorted(paths)
    frames = {path: frame for path in paths if len(frame := read_parquet(path))}
    if not frames:
        raise ConfigError(f"no rows in {len(paths)} Parquet files: run `proxykv grade` first")
    for path, frame in frames.items():
        if lacks := [column for column in [*MODELS, "kernels"] if column not in frame]:
            raise ConfigError(
                f"{path}: an earlier version made it (no column {lacks[0]}); run the same "
                "snakemake command again, which makes it again, or give the run another name"
            )
    _refuse_mixed(frames)
    rows = pd.concat(frames.values(), ignore_index=True)
    twice = rows[rows.duplicated(ROW_KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise ConfigError(
            f"rows hold {row.method} at retention {row.retention} of {row.task} more than once "
            f"({row.context_id}): run `proxykv forget --method {row.method} --task {row.task}`"
        )
    if rows.protocol.nunique() > 1:
        raise ConfigError("rows mix query_agnostic and query_aware: give each a separate run")
    for family, ran in rows.kernels.str.extract(r"(\w+)", expand=False).groupby(rows.family):
        if ran.nunique() > 1:
            raise ConfigError(
                f"rows of {family} mix Triton kernels and the PyTorch reference, whose seconds do "
                "not compare: give each run another name"
            )
    return rows


def _refuse_mixed(frames: Mapping[Path, pd.DataFrame]) -> None:
    """Raise ConfigError, naming two files, if rows come from two states of a model or method."""
    made = pd.concat([frame[STATE].assign(path=str(path)) for path, frame in frames.items()])
    made = made.drop_duplicates()
    for column, who in {**dict.fromkeys(MODELS, "family"), "method_digest": "method"}.items():
        for _, group in made.groupby(["family", who] if who != "family" else ["family"]):
            states = group.drop_duplicates(column)
            if len(states) > 1:
                one, other = states.iloc[0], states.iloc[1]
                raise ConfigError(
                    f"{one.path} and {other.path}: rows of {who} {one[who]} with {column} "
                    f"{one[column]} and {other[column]} do not compare: the {who} has changed "
                    "between them; run the same snakemake command again, which computes the "
                    "older ones again"
                )
