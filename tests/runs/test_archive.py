"""A finished run as one file: complete, with checksums that hold, and nothing overwritten."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from proxykv.runs.archive import MANIFEST, archive
from proxykv.runtime.errors import ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "small"
    texts = {
        "report/index.html": "<p>ρ</p>",
        "rows/tiny/tiny/vt.parquet": "rows",
        "tables/leaderboard.csv": "method,score\n",
        "logs/fit/tiny.log": "09:00 step 1",
        "logs/report.log": "09:01",
        "predictions/tiny/tiny/vt.journal.jsonl": "{}",
        "mappers/tiny/proxykv.lock": "",
        "config.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def test_an_archive_holds_the_results_and_their_checksums(run: Path, tmp_path: Path) -> None:
    packed = tmp_path / "out" / "small.zip"
    assert archive(run, packed) == 5
    with zipfile.ZipFile(packed) as file:
        kept = set(file.namelist()) - {MANIFEST, "ro-crate-metadata.json"}
        lines = [line.split("  ") for line in file.read(MANIFEST).decode().splitlines()]
        sums = {name: hashlib.sha256(file.read(name)).hexdigest() for name in kept}
        crate = json.loads(file.read("ro-crate-metadata.json"))["@graph"]
    assert kept == {
        "CITATION.cff",
        "config.json",
        "report/index.html",
        "rows/tiny/tiny/vt.parquet",
        "tables/leaderboard.csv",
    }
    assert {name: checksum for checksum, name in lines} == sums
    assert {e["@id"]: e["sha256"] for e in crate if "sha256" in e} == sums
    assert next(e for e in crate if e["@id"] == "./")["name"] == "ProxyKV run small"


def test_what_is_there_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "old.zip").write_text("old", "utf-8")
    for name in ("old.zip", "small.tar"):
        with pytest.raises(ConfigError, match=f"{name}: give the name of a new file"):
            archive(run, tmp_path / name)
    assert (tmp_path / "old.zip").read_text("utf-8") == "old"


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(ConfigError, match="no finished run"):
        archive(tmp_path, tmp_path / "run.zip")
    assert not (tmp_path / "run.zip").exists()


def test_what_a_link_leads_to_is_not_published(run: Path, tmp_path: Path) -> None:
    (run / "tables" / "same.csv").symlink_to("leaderboard.csv")
    archive(run, tmp_path / "with-a-link.zip")
    (tmp_path / "secret").write_text("mine", "utf-8")
    (run / "tables" / "key.csv").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"key.csv: a link out of the run"):
        archive(run, tmp_path / "run.zip")
    assert not (tmp_path / "run.zip").exists()


def test_a_name_cannot_add_a_line_to_the_manifest(run: Path, tmp_path: Path) -> None:
    (run / "tables" / f"a\n{'0' * 64}  config.json").touch()
    with pytest.raises(ConfigError, match="a line of the manifest cannot hold this") as refused:
        archive(run, tmp_path / "run.zip")
    assert len(str(refused.value).splitlines()) == 1
