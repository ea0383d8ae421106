"""Rows that do not compare never meet in a table, and rows of an earlier version are named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rows_fixture import make_rows

from proxykv.report.tables import read_rows
from proxykv.runtime.errors import ConfigError


def written(folder: Path, **changes: str) -> list[Path]:
    """Two tasks' files of rows, the second with other values in some columns."""
    rows = pd.DataFrame(make_rows())
    both = []
    for task, values in (("one", {}), ("two", changes)):
        both.append(folder / f"{task}.parquet")
        rows.assign(task=task, **values).to_parquet(both[-1])
    return both


@pytest.mark.parametrize("column", ["target_digest", "proxy_digest", "method_digest"])
def test_rows_of_two_states_are_refused_in_one_line(tmp_path: Path, column: str) -> None:
    assert len(read_rows(written(tmp_path)))
    paths = written(tmp_path, **{column: "changed"})
    with pytest.raises(ConfigError, match="run the same snakemake command again") as refused:
        read_rows(paths)
    message = str(refused.value)
    assert all(str(path) in message for path in paths)
    assert column in message and "changed" in message and "\n" not in message


def test_a_method_may_have_another_state_in_each_family(tmp_path: Path) -> None:
    """It is fitted for each."""
    other = written(tmp_path, method_digest="fitted for the other", family="other")
    assert set(read_rows(other).family) == {"tiny", "other"}


@pytest.mark.parametrize("column", ["target_digest", "proxy_digest"])
def test_rows_of_an_earlier_version_are_named(tmp_path: Path, column: str) -> None:
    paths = written(tmp_path)
    pd.read_parquet(paths[1]).drop(columns=column).to_parquet(paths[1])
    with pytest.raises(ConfigError, match=f"{paths[1]}: an earlier version made it"):
        read_rows(paths)
