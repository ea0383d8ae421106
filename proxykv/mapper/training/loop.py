"""The training loop: one optimiser step after the other, and an evaluation every few steps."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.fidelity import fidelity
from proxykv.mapper.loss import hybrid_loss
from proxykv.mapper.stored_scores import LoadContext

logger = logging.getLogger(__name__)

SELECTION_METRICS = ("mass@0.1", "mass@0.2", "mass@0.3")
"""The best weights have the highest mean of these on the held-out contexts."""
FINAL_RATE = 0.05
"""Learning rate of the last step, as a share of the highest."""
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class TrainingData:
    """Stored contexts, and how they are read.

    Attributes:
        train: score files of the contexts that are trained on.
        held_out: score files of the contexts that choose the best step.
        load: reads the module's input and the target's scores from a score file.
        signal: the kind of input that `load` reads.
        device: where the module is trained.
    """

    train: Sequence[Path]
    held_out: Sequence[Path]
    load: LoadContext
    signal: str
    device: torch.device


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
        step: the step after which it was made; 0 before the first one.
        criterion: mean of `SELECTION_METRICS`.
        metrics: mean fidelity on the held-out contexts, by name.
    """

    step: int = 0
    criterion: float = -1.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class TrainingState:
    """All that changes from step to step.

    No generator is part of it: what a step draws is seeded by the run's seed and the step.

    Attributes:
        module: the module in training; it has `score` and gives logits when called.
        optimizer: its optimiser.
        step: optimiser steps done.
        best: the best evaluation so far.
        best_weights: the module's weights at that step, by name.
    """

    module: Any
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: Best = Best()
    best_weights: Mapping[str, Tensor] = field(default_factory=dict)


def training_records(
    state: TrainingState, data: TrainingData, settings: TrainingSettings
) -> Iterator[dict[str, Any]]:
    """Train until the last step, or until nothing improves.

    Args:
        state: where to start; it is changed in place, and whole whenever a record is yielded.
        data: contexts to train on and to evaluate on.
        settings: of the training.

    Yields:
        A record for the log after every step (`split` is `train`: learning rate, tokens per second,
        loss and its terms as means over the batch, and now and then the fidelity of the batch's
        last context) and after every evaluation (`val`: mean fidelity of the held-out contexts).

    Raises:
        FloatingPointError: naming the contexts, if the loss or its gradient is not finite.
    """
    while not _finished(state, settings):
        state.step += 1
        last, about = state.step == settings.steps, {"step": state.step, "steps": settings.steps}
        logged = last or state.step % settings.log_every == 0
        values = _optimiser_step(state, data, settings, with_fidelity=logged)
        yield {**about, "split": "train", **values}
        if last or state.step % settings.eval_every == 0:
            metrics = evaluate(state.module, data)
            _remember_best(state, metrics)
            logger.info(
                "step %d of %d: loss %.3f, held-out mass@0.1 %.3f, %.0f tokens/s",
                *(state.step, settings.steps),
                *(values["total"], metrics["mass@0.1"], values["tokens_per_s"]),
            )
            yield {**about, "split": "val", **metrics}


def evaluate(module: Any, data: TrainingData) -> dict[str, float]:
    """Mean fidelity of a module on the held-out contexts, by name (see `fidelity`).

    Args:
        module: a mapper or a surrogate.
        data: the stored contexts.
    """
    module.eval()
    found = []
    for path in data.held_out:
        features, target = data.load(path, data.signal, data.device)
        found.append(fidelity(module.score(features), target))
    return {name: sum(metrics[name] for metrics in found) / len(found) for name in found[0]}


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Learning rate of a step: a linear warm-up, then a cosine down to a twentieth.

    Args:
        step: of the optimiser, counted from 1.
        settings: of the training; `lr` is the highest rate.
    """
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    progress = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.lr * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def batch_files(files: Sequence[Path], step: int, settings: TrainingSettings) -> list[Path]:
    """Training contexts of a step. Every epoch has a new random order.

    Args:
        files: score files of all training contexts.
        step: of the optimiser, counted from 1.
        settings: of the training; `seed` decides the orders.
    """
    first = (step - 1) * settings.batch
    return [_drawn(files, first + i, settings.seed) for i in range(settings.batch)]


def _drawn(files: Sequence[Path], draw: int, seed: int) -> Path:
    epoch, index = divmod(draw, len(files))
    order = list(range(len(files)))
    random.Random(seed * _SEED_STRIDE + epoch).shuffle(order)
    return files[order[index]]


def _finished(state: TrainingState, settings: TrainingSettings) -> bool:
    without_improvement = state.step - state.best.step
    return (
        state.step >= settings.steps
        or without_improvement >= settings.patience * settings.eval_every
    )


def _optimiser_step(
    state: TrainingState, data: TrainingData, settings: TrainingSettings, with_fidelity: bool
) -> dict[str, float]:
    """Train on one batch of random windows; return the values for the log."""
    began, tokens = time.perf_counter(), 0
    seed = settings.seed * _SEED_STRIDE + state.step
    draws = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout draws from the global generator
    state.module.train()
    state.optimizer.zero_grad()
    values: dict[str, float] = {}
    paths = batch_files(data.train, state.step, settings)
    for path in paths:
        features, target = data.load(path, data.signal, data.device, settings.crop, draws)
        logits = state.module(features)
        total, terms = hybrid_loss(logits, target, settings.weights, draws)
        _require_finite_loss(total, terms, state.step, path)
        (total / settings.batch).backward()
        tokens += target.shape[-1]
        for name, value in {"total": total.detach(), **terms}.items():
            values[name] = values.get(name, 0.0) + value.item() / settings.batch
    if with_fidelity:
        values |= fidelity(logits.detach(), target)
    values["lr"] = learning_rate(state.step, settings)
    _update(state, values["lr"], settings.clip, paths)
    values["tokens_per_s"] = tokens / (time.perf_counter() - began)
    return values


def _require_finite_loss(total: Tensor, terms: Mapping[str, Tensor], step: int, path: Path) -> None:
    if not total.isfinite():
        listed = ", ".join(f"{name} {term.item():.3g}" for name, term in terms.items())
        raise FloatingPointError(
            f"loss is not finite at step {step} on context {path.stem} ({listed})"
        )


def _update(state: TrainingState, rate: float, clip: float, paths: Sequence[Path]) -> None:
    """Change the weights by their gradients, which are cut to a norm of `clip`."""
    norm = torch.nn.utils.clip_grad_norm_(state.module.parameters(), clip)
    if not norm.isfinite():
        names = ", ".join(path.stem for path in paths)
        raise FloatingPointError(f"gradient is not finite at step {state.step} on contexts {names}")
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()


def _remember_best(state: TrainingState, metrics: Mapping[str, float]) -> None:
    criterion = sum(metrics[name] for name in SELECTION_METRICS) / len(SELECTION_METRICS)
    if criterion > state.best.criterion:
        state.best = Best(state.step, criterion, metrics)
        state.best_weights = {k: v.clone() for k, v in state.module.state_dict().items()}
