"""Copies of models on a machine's own disk."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import other_user
import pytest

from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.model.loading import load
from proxykv.runtime import scratch
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.scratch import VARIABLE, local


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, on a disk that many machines share."""
    made = tmp_path / "shared" / "tiny" / "target"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's own disk."""
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    monkeypatch.setenv(VARIABLE, "$NODE_DISK/models")
    return tmp_path / "node" / "models"


def test_without_the_setting_nothing_is_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert local(folder) == folder


def test_jobs_of_a_machine_share_a_copy(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []

    def copytree(source: Path, to: Path) -> None:
        copied.append(source)
        copy(source, to)

    copy = shutil.copytree
    monkeypatch.setattr(scratch.shutil, "copytree", copytree)
    with ThreadPoolExecutor() as jobs:
        first, second = jobs.map(local, [folder, folder])
    assert first == second and first.parent == place and copied == [folder]
    assert (first / "model.safetensors").read_bytes() == b"weights"


def test_other_weights_are_another_copy(folder: Path, place: Path) -> None:
    first = local(folder)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", (1, 1))
    second = local(folder)
    assert (first / "model.safetensors").read_bytes() == b"weights"
    assert (second / "model.safetensors").read_bytes() == b"WEIGHTS"


def test_what_a_killed_job_has_copied_is_copied_again(folder: Path, place: Path) -> None:
    copy = local(folder)
    partial = copy.rename(copy.with_name(copy.name + ".partial"))
    (partial / "model.safetensors").write_bytes(b"wei")
    assert (local(folder) / "model.safetensors").read_bytes() == b"weights"
    assert not partial.exists()


def test_a_full_disk_and_an_unknown_place_are_named(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.shutil, "copytree", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*unset PROXYKV_SCRATCH"):
        local(folder)
    monkeypatch.delenv("NODE_DISK")
    with pytest.raises(ConfigError, match="a variable in it is not set"):
        local(folder)


def test_models_are_loaded_from_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(catalog.ROOT)
    run = Run(
        {
            "run": "scratch",
            "families": ["tiny"],
            "retentions": [0.5, 1.0],
            "methods": ["full"],
            "benchmarks": [{"benchmark": "tiny", "tasks": ["vt"], "contexts": 1, "lengths": [64]}],
        }
    )
    model = load(run, "tiny", "target")
    assert Path(str(model.net.name_or_path)).parent == place
    monkeypatch.delenv(VARIABLE)
    assert model.digest == load(run, "tiny", "target").digest


@other_user.needs_root
def test_a_copy_that_another_user_made_is_not_used(folder: Path, place: Path) -> None:
    copy = local(folder)
    os.chown(copy, other_user.NOBODY, -1)
    with pytest.raises(ConfigError, match="belongs to another user; set PROXYKV_SCRATCH"):
        local(folder)
