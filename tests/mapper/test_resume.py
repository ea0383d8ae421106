"""A killed training continues where it was, with the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_contexts import IDENTITY, QUICK, Reader, log_lines, write_scores

from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.training.train import train_mapper


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_scores(tmp_path_factory.mktemp("stored") / "scores")


@pytest.fixture(scope="module")
def uninterrupted(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    train_mapper(files, out, QUICK, IDENTITY)
    return out


def killed(
    files: list[Path],
    out: Path,
    at: int,
    settings: TrainingSettings = QUICK,
    identity: Any = IDENTITY,
) -> None:
    """Train until step `at` reads its second context."""
    with pytest.raises(KeyboardInterrupt):
        train_mapper(files, out, settings, identity, load=Reader(settings.batch * at - 1))


def same(out: Path, other: Path) -> None:
    """Both folders hold the same card, weights and log."""
    assert (out / "card.json").read_text() == (other / "card.json").read_text()
    first, second = (load_file(folder / "weights.safetensors") for folder in (out, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_lines(out) == log_lines(other)
    assert {p.name for p in out.iterdir()} == {p.name for p in other.iterdir()}


@pytest.mark.parametrize(("at", "goes_on"), [(1, 1), (4, 1), (5, 5), (8, 5), (11, 9)])
def test_goes_on_bit_for_bit(
    files: list[Path], uninterrupted: Path, tmp_path: Path, at: int, goes_on: int
) -> None:
    killed(files, tmp_path, at)
    assert log_lines(tmp_path)[-1]["step"] == at - 1 if at > 1 else not log_lines(tmp_path)
    reader = Reader()
    train_mapper(files, tmp_path, QUICK, IDENTITY, load=reader)
    assert len(reader.windows) == QUICK.batch * (QUICK.steps - goes_on + 1)
    same(tmp_path, uninterrupted)


def test_goes_on_bit_for_bit_when_killed_twice(
    files: list[Path], uninterrupted: Path, tmp_path: Path
) -> None:
    killed(files, tmp_path, 6)
    killed(files, tmp_path, 6)  # of those left: step 10
    train_mapper(files, tmp_path, QUICK, IDENTITY)
    same(tmp_path, uninterrupted)


def test_a_line_of_the_log_that_is_cut_is_dropped(
    files: list[Path], uninterrupted: Path, tmp_path: Path
) -> None:
    killed(files, tmp_path, 6)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    train_mapper(files, tmp_path, QUICK, IDENTITY)
    same(tmp_path, uninterrupted)


class StopsAtCalibration(Reader):
    """Fails when a training context is read whole, which only the calibration does."""

    def __call__(self, path: Path, *arguments: Any) -> Any:
        read = super().__call__(path, *arguments)
        if self.read_fully and self.read_fully[-1] in {name for name, _ in self.windows}:
            raise KeyboardInterrupt
        return read


@pytest.mark.parametrize(
    "settings",
    [QUICK, replace(QUICK, steps=100, lr=1e-30, eval_every=2, patience=3)],
    ids=["last step", "no improvement"],
)
def test_killed_after_the_last_step_it_only_finishes(
    files: list[Path], tmp_path: Path, settings: TrainingSettings
) -> None:
    train_mapper(files, tmp_path / "whole", settings, IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        train_mapper(files, tmp_path / "cut", settings, IDENTITY, load=StopsAtCalibration())
    assert not (tmp_path / "cut" / "card.json").exists()
    reader = Reader()
    train_mapper(files, tmp_path / "cut", settings, IDENTITY, load=reader)
    assert reader.windows == []
    same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("other", ["settings", "identity", "contexts"])
def test_another_runs_checkpoint_is_ignored_and_named(
    files: list[Path],
    uninterrupted: Path,
    tmp_path: Path,
    other: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    settings, identity, out = QUICK, IDENTITY, tmp_path / "out"
    others = files
    if other == "settings":
        settings = replace(QUICK, lr=1e-2)
    elif other == "identity":  # scores that another target gives the same contexts
        identity = {**IDENTITY, "target_hash": "u"}
        others = write_scores(tmp_path / "scores")
        for path in others:
            stored = load_file(path)
            save_file({**stored, "target": 1 - stored["target"]}, path)
    else:
        others = files[:-1]
    killed(others, out, at=6, settings=settings, identity=identity)
    assert (out / "checkpoint").exists()
    train_mapper(files, out, QUICK, IDENTITY)
    same(out, uninterrupted)
    message = f"{out / 'checkpoint'}: of other settings, data or code; training starts at step 1"
    assert caplog.messages.count(message) == 1
