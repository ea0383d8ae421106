"""What comes from the hub is of a pinned commit, and is what the hub has published."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from proxykv.runtime import hub
from proxykv.runtime.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE, SMALL = b"weights", b"{}"
SHA256 = hashlib.sha256(LARGE).hexdigest()
BLOB = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
"""What `git hash-object` says of a file with the content of SMALL."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache: links from names to contents that are named by their hashes."""
    snapshot = tmp_path / "snapshots" / COMMIT
    (snapshot / "part").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for name, content, listed in (("part/a.parquet", LARGE, SHA256), ("b.json", SMALL, BLOB)):
        (tmp_path / "blobs" / listed).write_bytes(content)
        (snapshot / name).symlink_to(tmp_path / "blobs" / listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the hub's metadata about its files: commit, hash, time."""
    made = tmp_path / "model"
    about = made / ".cache" / "huggingface" / "download"
    about.mkdir(parents=True)
    for name, content, listed in (("a.safetensors", LARGE, SHA256), ("b.json", SMALL, BLOB)):
        (made / name).write_bytes(content)
        (about / f"{name}.metadata").write_text(f"{COMMIT}\n{listed}\n1.0\n", "utf-8")

    def download(*_: Any, local_dir: Path, ignore_patterns: list[str], **__: Any) -> str:
        assert ignore_patterns == ["*/*"]
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return made


def test_published_files_are_accepted(cache: Path) -> None:
    found = hub.download("org/name", COMMIT, ["*"], kind="dataset")
    assert found == cache / "snapshots" / COMMIT


@pytest.mark.parametrize("listed", [SHA256, BLOB])
def test_another_content_is_refused(cache: Path, listed: str) -> None:
    (cache / "blobs" / listed).write_bytes(b"other")
    with pytest.raises(ConfigError, match="is not the published file") as error:
        hub.download("org/name", COMMIT, ["*"], kind="dataset")
    assert str(cache / "blobs" / listed) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_of_a_folder_are_checked_alike(folder: Path) -> None:
    arguments: Any = ("org/name", COMMIT, ["*"])
    assert hub.download(*arguments, kind="model", folder=folder) == folder
    (folder / "a.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"a\.safetensors is not the published file"):
        hub.download(*arguments, kind="model", folder=folder)


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "", COMMIT[:12], COMMIT.upper(), COMMIT + "\n"]
)
def test_only_a_commit_pins(revision: str) -> None:
    with pytest.raises(ConfigError, match="is not a commit") as error:
        hub.download("org/name", revision, ["*"], kind="dataset")
    assert len(str(error.value).splitlines()) == 1


def test_offline_the_reason_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in (hub.unreachable("org/name", COMMIT) or "")
