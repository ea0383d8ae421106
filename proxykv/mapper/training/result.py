"""What a training run leaves: its log, line by line, and the fitted module with its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.hybrid import save_mapper
from proxykv.runtime import files


@dataclass(frozen=True)
class FittedResult:
    """A trained module: how it was trained, on what, and how well.

    Attributes:
        module: with the best weights, calibrated if the settings ask for it.
        settings: of the training.
        identity: models, vocabulary and corpus that it was fitted on, for the card.
        train_contexts: names of the contexts that were trained on.
        val_contexts: names of the contexts that chose the best step.
        best_step: the step whose weights these are.
        metrics: mean fidelity on the held-out contexts, by name (see `fidelity`).
    """

    module: Any
    settings: TrainingSettings
    identity: Mapping[str, Any]
    train_contexts: tuple[str, ...]
    val_contexts: tuple[str, ...]
    best_step: int
    metrics: Mapping[str, float]


def write_result(folder: Path, result: FittedResult) -> dict[str, Any]:
    """Write the module's weights and its card into a folder; return the card.

    Args:
        folder: of the fitted method; it is created.
        result: what training found.
    """
    card = {
        **result.identity,
        "training": asdict(result.settings),
        "train_contexts": sorted(result.train_contexts),
        "val_contexts": sorted(result.val_contexts),
        "best_step": result.best_step,
        "metrics": result.metrics,
    }
    return save_mapper(folder, result.module, card)


def cut_log(path: Path, step: int) -> None:
    """Drop the lines after a step, and an incomplete last line.

    Args:
        path: a log with one JSON record a line; nothing happens if it does not exist.
        step: the last step that stays; a run that continues logs none twice.
    """
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        kept = [line for line in complete if json.loads(line)["step"] <= step]
        files.write_text(path, "".join(kept))
