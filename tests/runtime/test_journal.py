"""The journal survives kills and damage; tables appear whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import read_parquet, write_parquet

# U+2028 is a line break to str.splitlines, but not to the journal.
ROWS = [{"id": i, "text": f"é\u2028\n{i}", "retention": 0.1 * i} for i in range(4)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "new" / "folder" / "task.journal.jsonl")


def test_what_is_appended_is_read(journal: Journal) -> None:
    assert journal.read() == []
    journal.append(ROWS[:2])
    journal.append(ROWS[2:])
    assert journal.read() == ROWS


def test_rewrite_replaces_everything(journal: Journal) -> None:
    journal.append(ROWS)
    journal.rewrite(ROWS[1:3])
    assert journal.read() == ROWS[1:3]
    assert [path.name for path in journal.path.parent.iterdir()] == [journal.path.name]


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_last_line_cut_short_is_dropped_and_appending_goes_on(
    journal: Journal, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    journal.append(ROWS[:2])
    complete = journal.path.read_bytes()
    journal.path.write_bytes(complete[:-cut])
    left = ROWS[:2] if cut == 1 else ROWS[:1]  # the first byte from the end is the line break
    assert journal.read() == left
    journal.append(ROWS[2:])
    with caplog.at_level(logging.WARNING):
        assert journal.read() == left + ROWS[2:]
    assert ("1 damaged line(s)" in caplog.text) == (cut > 1)


def test_a_cut_inside_a_character_is_a_damaged_line(journal: Journal) -> None:
    journal.append(ROWS[:2])
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[: content.rindex("é".encode()) + 1])
    assert journal.read() == ROWS[:1]


def test_a_damaged_line_in_the_middle_is_dropped_with_a_warning(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    journal.append(ROWS)
    lines = journal.path.read_text("utf-8").split("\n")
    lines[2] = lines[2][:5] + "\0\0" + lines[2][9:]
    journal.path.write_text("\n".join(lines), "utf-8")
    assert journal.read() == [ROWS[0], *ROWS[2:]]
    assert "1 damaged line(s)" in caplog.text


def test_a_line_that_still_is_json_but_was_changed_is_dropped(journal: Journal) -> None:
    journal.append(ROWS)
    text = journal.path.read_text("utf-8")
    assert text.count('"id": 2') == 1
    journal.path.write_text(text.replace('"id": 2', '"id": 7'), "utf-8")
    assert journal.read() == [*ROWS[:2], ROWS[3]]


def test_other_programs_read_it_as_json_lines(journal: Journal) -> None:
    journal.append(ROWS)
    lines = [json.loads(line) for line in journal.path.read_text("utf-8").split("\n") if line]
    assert [{**line, "crc": None} for line in lines] == [{**row, "crc": None} for row in ROWS]


def test_a_table_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "rows.parquet"
    write_parquet(path, pd.DataFrame(ROWS))
    assert pd.read_parquet(path).to_dict("records") == ROWS
    before = path.read_bytes()

    def killed(self: pd.DataFrame, target: Path, **_: object) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        write_parquet(path, pd.DataFrame(ROWS[:1]))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("part", [0, 3, 0.5])
def test_a_damaged_table_is_named(tmp_path: Path, part: float) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, pd.DataFrame(ROWS))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if part < 1 else int(part)])
    with pytest.raises(ConfigError, match=r"rows.parquet: damaged .*; delete it"):
        read_parquet(path)


def test_a_missing_table_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "rows.parquet")
