"""Tables of records are found and read alike in folders, zips and the hub's cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proxykv.benchmarks.records import read_records
from proxykv.runtime.errors import ConfigError

# A separator that str.splitlines would cut at, a list, and a missing value.
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECORDS: list[dict[str, Any]] = [
    {"context": "one\u2028line", "answers": ["是", "b"], "all_classes": None},
    {"context": "two\nlines", "answers": ["c"], "all_classes": None},
]
JSONL = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def write(folder: Path, **files: str) -> None:
    """Write files whose names have `__` for `/` and end in their format: a__b_jsonl."""
    for name, text in files.items():
        path = folder / re.sub(r"_(jsonl|json|txt)$", r".\1", name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def parquet(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)


def read(folder: Path, name: str = "kv") -> list[dict[str, Any]]:
    return read_records({"path": str(folder)}, name)


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    write(tmp_path / "lines", data__kv_jsonl=JSONL, data__kv_e_jsonl="{}\n")
    write(tmp_path / "list", kv_json=json.dumps(RECORDS))
    parquet(tmp_path / "table" / "kv.parquet", RECORDS)
    for folder in ("lines", "list", "table"):
        assert read(tmp_path / folder) == RECORDS
    write(tmp_path / "object", kv_json=json.dumps(RECORDS[0]))
    assert read(tmp_path / "object") == RECORDS[:1]


def test_a_file_that_is_named_is_the_table(tmp_path: Path) -> None:
    write(tmp_path, other_jsonl=JSONL, kv_jsonl="{}")
    assert read(tmp_path / "other.jsonl") == read(tmp_path / "other.jsonl", "a/kv") == RECORDS


def test_shards_are_one_table_in_order(tmp_path: Path) -> None:
    for i in (1, 0):
        parquet(tmp_path / "kv" / f"test-{i:05d}-of-00002.parquet", RECORDS[i : i + 1])
    assert read(tmp_path) == RECORDS
    parquet(tmp_path / "kv" / "train-00000-of-00001.parquet", RECORDS)
    with pytest.raises(ConfigError, match=re.escape("(kv/test.parquet, kv/train.parquet)")):
        read(tmp_path)
    assert read(tmp_path, "kv/test") == RECORDS


def test_zips_are_looked_into(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/kv.jsonl", JSONL)
        archive.writestr("__MACOSX/data/._kv.jsonl", "rubbish")
    assert read(tmp_path) == RECORDS
    assert read(tmp_path / "data.zip") == RECORDS
    write(tmp_path, kv_jsonl='{"unpacked": true}')
    assert read(tmp_path) == [{"unpacked": True}]


def test_a_path_may_hold_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, data__kv_jsonl=JSONL)
    monkeypatch.setenv("RECORDS_HERE", str(tmp_path))
    assert read_records({"path": "$RECORDS_HERE/data"}, "kv") == RECORDS
    monkeypatch.delenv("RECORDS_HERE")
    with pytest.raises(ConfigError, match="set the environment variable"):
        read_records({"path": "$RECORDS_HERE/data"}, "kv")


def test_without_a_network_the_hub_is_one_line() -> None:
    with pytest.raises(ConfigError, match="or give a local `path`") as error:
        read_records({"hub": "someone/bench", "revision": "0" * 40}, "kv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"hub": "someone/bench"}, "give `path`, or `hub` with `revision`"),
        ({"path": "nowhere"}, "source nowhere: no such folder or file"),
        ({"path": "empty"}, "source empty: no kv.jsonl, .json or .parquet in it"),
        ({"path": "two"}, "several files fit 'kv' (a/kv.jsonl, b/kv.jsonl); narrow the path"),
        ({"path": "broken"}, "source broken: kv.jsonl, line 2: not JSON"),
        ({"path": "lists"}, "source lists: kv.jsonl, record 2: record: expected an object"),
        ({"path": "cut"}, "source cut: data.zip is not a complete zip file; fetch it again"),
    ],
)
def test_mistaken_sources_are_one_line(
    source: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, empty__other_jsonl="", two__a__kv_jsonl=JSONL, two__b__kv_jsonl=JSONL)
    write(tmp_path, broken__kv_jsonl='{"a": 1}\n{"a": \n')
    write(tmp_path, lists__kv_jsonl='{"a": 1}\n[]\n[{"a": 2}]\n')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "data.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        read_records(source, "kv")
    assert "\n" not in str(error.value)
