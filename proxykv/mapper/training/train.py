"""Train a mapper on stored scores: held-out contexts, seeded, resumable, logged step by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.stored_scores import (
    LoadContext,
    calibrate_quantiles,
    initial_mapper,
    load_scores,
)
from proxykv.mapper.training.checkpoint import Checkpoint
from proxykv.mapper.training.loop import TrainingData, TrainingState, evaluate, training_records
from proxykv.mapper.training.result import FittedResult, cut_log, write_result
from proxykv.model.devices import device_of
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

BuildModule = Callable[[Sequence[Path], Mapping[str, Any], str], Any]
"""Makes a module with `config`, `score` and `calibration` from score files, the settings `mapper`
and the `signal`."""


def train_mapper(
    score_files: Sequence[Path],
    out: Path,
    settings: TrainingSettings,
    identity: Mapping[str, Any],
    build: BuildModule = initial_mapper,
    load: LoadContext = load_scores,
) -> dict[str, Any]:
    """Train on stored scores; write the best weights, their card and `log.jsonl`.

    A killed run continues from `out/checkpoint` with the same result, bit for bit on the same
    machine and threads.

    Args:
        score_files: a file per context, with `target` [L, H, n] and what `load` reads.
        out: the folder to write to.
        settings: of the training.
        identity: entries of the card, all that decides the numbers besides settings and contexts:
            `family`, `target_hash`, `proxy_hash`, `vocab_hash`, `corpus`, `code`.
        build: makes the module to train.
        load: reads the module's input and the target's scores from a file.

    Returns:
        The card.

    Raises:
        ConfigError: for files or settings that cannot be used.
        FloatingPointError: naming the contexts, if the loss or its gradient is not finite.
    """
    train, held_out = split_contexts(score_files, settings.val_contexts)
    data = TrainingData(train, held_out, load, settings.reads, device_of(settings.device))
    state = _initial_state(data, settings, build)
    checkpoint = Checkpoint(out / "checkpoint", _run_digest(data, settings, identity))
    checkpoint.restore(state, str(data.device))
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.jsonl"
    cut_log(log, state.step)
    with torch.random.fork_rng(), log.open("a", encoding="utf-8", buffering=1) as lines:
        for record in training_records(state, data, settings):
            created = datetime.now(UTC).isoformat(timespec="seconds")
            lines.write(json.dumps({**record, "created": created}) + "\n")
            if record["split"] == "val":
                checkpoint.save(state)
    card = write_result(out, _fitted_result(state, data, settings, identity))
    checkpoint.remove()
    return card


def split_contexts(files: Sequence[Path], held_out: int) -> tuple[list[Path], list[Path]]:
    """Split contexts by the hash of their names.

    The split ignores the order of `files` and the seed: mappers trained with different seeds or
    settings are compared on the same held-out contexts.

    Args:
        files: score files.
        held_out: number of contexts to hold out.

    Returns:
        Training contexts and held-out contexts.

    Raises:
        ConfigError: if either part would be empty.
    """
    if not 0 < held_out < len(files):
        raise ConfigError(
            f"mapper training: cannot hold out {held_out} of {len(files)} contexts; "
            f"set val_contexts between 1 and {len(files) - 1}"
        )
    drawn = sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    return drawn[held_out:], drawn[:held_out]


def _initial_state(
    data: TrainingData, settings: TrainingSettings, build: BuildModule
) -> TrainingState:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = build(data.train, settings.mapper, settings.reads).to(data.device)
    optimizer = torch.optim.AdamW(
        module.parameters(), weight_decay=settings.weight_decay, fused=True
    )
    return TrainingState(module, optimizer)


def _run_digest(data: TrainingData, settings: TrainingSettings, identity: Mapping[str, Any]) -> str:
    """Digest of all that decides the numbers of a training run."""
    names = [path.name for path in (*data.train, *data.held_out)]
    return digest([asdict(settings), dict(identity), names])


def _fitted_result(
    state: TrainingState,
    data: TrainingData,
    settings: TrainingSettings,
    identity: Mapping[str, Any],
) -> FittedResult:
    """Give the module its best weights and calibrate it."""
    module, metrics = state.module, state.best.metrics
    module.load_state_dict(state.best_weights)
    if settings.calibrated:
        module.eval()
        calibrate_quantiles(module, data.train, data.load, data.signal, data.device)
        metrics = evaluate(module, data)
    return FittedResult(
        module=module,
        settings=settings,
        identity=identity,
        train_contexts=tuple(path.stem for path in data.train),
        val_contexts=tuple(path.stem for path in data.held_out),
        best_step=state.best.step,
        metrics=metrics,
    )
