"""Files of records and texts that cannot be read are refused: file, line, what to mend."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records_fixture import RECORD, refused

from proxykv.benchmarks import sources as text_sources
from proxykv.benchmarks.records import read_records
from proxykv.config.sources import missing_paths

GOOD = json.dumps(RECORD)
FILES = {
    "UTF-16": (GOOD.encode("utf-16"), "qa.jsonl: not UTF-8", "convert it to UTF-8"),
    "UTF-16 without a mark": ("是".encode("utf-16-le") + b"\xff", "qa.jsonl: not UTF-8", ""),
    "Latin-1": ('{"a": "Gepäck"}'.encode("latin-1"), "qa.jsonl: not UTF-8", ""),
    "empty": (b"", "no records in qa.jsonl", ""),
    "blank": (b"\n \n\n", "no records in qa.jsonl", ""),
    "a long integer": (b'{"a": 1}\n{"a": ' + b"9" * 5000 + b"}", "qa.jsonl, line 2: not JSON", ""),
    "not a number": (b'{"a": NaN}', "line 1: not JSON (NaN is no JSON number)", ""),
    "infinite": (b'{"a": -Infinity}', "-Infinity is no JSON number", ""),
    "nested without end": (b"[" * 100_000, "line 1: not JSON", ""),
    "cut": (GOOD[:-9].encode(), "qa.jsonl, line 1: not JSON", ""),
    "no objects": (b'"text"\n', "qa.jsonl, record 1: record: expected an object", "'text'"),
    "numbers": (b"[1, 2]", "qa.jsonl, record 1: record: expected an object, found [1, 2]", ""),
}


@pytest.mark.parametrize("kind", FILES)
def test_unreadable_lines(kind: str, tmp_path: Path) -> None:
    data, *messages = FILES[kind]
    (tmp_path / "qa.jsonl").write_bytes(data)
    line = refused(lambda: read_records({"path": str(tmp_path)}, "qa"))
    assert all(message in line for message in messages), line


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.99])
def test_a_cut_parquet_is_named(share: float, tmp_path: Path) -> None:
    path = tmp_path / "qa.parquet"
    pq.write_table(pa.Table.from_pylist([RECORD] * 99), path)
    assert len(read_records({"path": str(path)}, "qa")) == 99
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "qa.parquet: cannot be read" in refused(lambda: read_records({"path": str(path)}, "qa"))


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "qa.parquet"
    pq.write_table(pa.table({"a": ["text " * 99] * 99}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[40:80] = bytes(40)
    path.write_bytes(data)
    assert "qa.parquet: cannot be read" in refused(lambda: read_records({"path": str(path)}, "qa"))


def test_a_damaged_zip_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("qa.jsonl", GOOD)
    path.write_bytes(path.read_bytes().replace(b"pear", b"plum", 1))
    assert "qa.jsonl: cannot be read" in refused(lambda: read_records({"path": str(path)}, "qa"))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text(GOOD, "utf-8-sig")
    assert read_records({"path": str(tmp_path)}, "qa") == [RECORD]
    (tmp_path / "qa.jsonl").unlink()
    (tmp_path / "qa.json").write_text(f"[{GOOD}]", "utf-8-sig")
    assert read_records({"path": str(tmp_path)}, "qa") == [RECORD]


def test_links_are_followed_and_broken_ones_named(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "qa.jsonl").write_text(GOOD, "utf-8")
    place = tmp_path / "data"
    place.mkdir()
    source = {"path": str(place)}
    (place / "linked").symlink_to(tmp_path / "elsewhere")
    (place / "round").symlink_to(place)  # a folder that holds itself
    assert read_records(source, "qa") == [RECORD]
    (place / "linked").unlink()
    (place / "qa.jsonl").symlink_to("nowhere.jsonl")
    assert "qa.jsonl: cannot be read (" in refused(lambda: read_records(source, "qa"))
    (tmp_path / "gone").symlink_to("nowhere")
    line = refused(lambda: read_records({"path": str(tmp_path / "gone")}, "qa"))
    assert "a link to nowhere, which is not there" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text(GOOD, "utf-8")
    path.chmod(0)
    line = refused(lambda: read_records({"path": str(tmp_path)}, "qa"))
    assert "qa.jsonl: cannot be read (" in line


TEXTS: dict[str, tuple[bytes, str]] = {
    "a.jsonl": (b'{"text": "One."}\n{"text": 2}', "a.jsonl, record 2: text: expected a text"),
    "b.jsonl": (b'{"body": "One."}', "b.jsonl, record 1: text: expected a text, found no such"),
    "c.jsonl": (b'{"text": ', "c.jsonl, line 1: not JSON"),
    "d.txt": ("是".encode("utf-16"), "d.txt: UTF-16; convert it to UTF-8"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_a_folder(name: str, tmp_path: Path) -> None:
    data, message = TEXTS[name]
    (tmp_path / name).write_bytes(data)
    source = {"kind": "folder", "path": str(tmp_path), "files": "*"}
    assert message in refused(lambda: text_sources.load([source], "eval", tmp_path))


def test_texts_behind_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for i in range(8):
        (tmp_path / "elsewhere" / f"{i}.txt").write_text("One.", "utf-8-sig")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    source = {"kind": "folder", "path": str(tmp_path / "data"), "files": "*.txt"}
    both = [text_sources.load([source], split, tmp_path) for split in ("train", "eval")]
    assert [document.text for found in both for document in found] == ["One."] * 8
    (tmp_path / "data" / "broken.txt").symlink_to("nowhere")
    assert "broken.txt: cannot be read" in refused(
        lambda: text_sources.load([source], "eval", tmp_path)
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"_id": 1, "_id": 2}', "line 1: not JSON (the key '_id' is listed twice)"),
        ('{"_id": 1, "m": {"x": 1, "x": 1}}', "not JSON (the key 'x' is listed twice)"),
        ('{"_id": 1, "x": 1e999}', "not JSON (1e999 is no JSON number)"),
        ('{"_id": 1, "\\ud800": 1}', "'\\ud800' (the key): expected text, found half of a surr"),
    ],
)
def test_json_that_readers_take_in_several_ways(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "t.jsonl").write_text(line + "\n", "utf-8")
    assert problem in refused(lambda: read_records({"path": str(tmp_path)}, "t"))


@pytest.mark.parametrize(
    "path", ["", "~nobody-of-this-name/x", "x" * 5000, "a\0b", 3], ids=lambda path: str(path)[:9]
)
def test_paths_that_cannot_be_are_one_line(path: Any) -> None:
    line = refused(lambda: read_records({"path": path}, "t"))
    assert line.startswith(f"source {path}: ")
    options = {"source": {"path": path}}
    config = {"benchmarks": [{"benchmark": "scbench", "options": options}], "methods": []}
    (missing,) = missing_paths(config)
    assert missing.startswith(f"config.benchmarks[0].options: path {path!r}: ")


def test_a_link_to_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "t.jsonl").symlink_to("pipe")
    assert "no t.jsonl, .json" in refused(lambda: read_records({"path": str(tmp_path)}, "t"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_holds_a_file_twice(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        for text in ("first", "second"):
            archive.writestr("t.jsonl", json.dumps({"_id": text}))
    line = refused(lambda: read_records({"path": str(tmp_path)}, "t"))
    assert line.endswith("a.zip holds t.jsonl 2 times; keep one")
