"""Train a mapper on stored scores: held-out contexts, JSONL log, resumable, seeded."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxykv.config.settings import TrainingSettings
from proxykv.mapper import tensor_file
from proxykv.mapper.fidelity import fidelity
from proxykv.mapper.hybrid import save_mapper
from proxykv.mapper.loss import hybrid_loss
from proxykv.mapper.stored_scores import Load, calibrated_mapper, load_scores, match_distributions
from proxykv.model.devices import device_of
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError

logger = logging.getLogger(__name__)

Build = Callable[[Sequence[Path], Mapping[str, Any], str], Any]
"""A module with a mapper's `config`, `score`, `calibration`; from files, `mapper` and `signal`."""
# The best checkpoint has the highest mean of these on held-out contexts.
CHOICE = ("mass@0.1", "mass@0.2", "mass@0.3")


def train_mapper(
    score_files: Sequence[Path],
    out: Path,
    config: TrainingSettings,
    identity: Mapping[str, Any],
    build: Build = calibrated_mapper,
    load: Load = load_scores,
) -> dict[str, Any]:
    """Train on stored scores and write the best mapper, its card and `log.jsonl` to `out`.

    Every score file holds `target` [L, H, n] and `proxy` [L_p, H_p, n]. `identity` goes into the
    card (`family`, `target_hash`, `proxy_hash`, `vocab_hash`, `corpus`). A killed run goes on
    from `out/checkpoint/` with the same result, bit for bit on the same machine and threads; the
    checkpoint of another run is ignored. Returns the card.

    Raises ConfigError for unusable files or settings, FloatingPointError, naming the contexts,
    when the loss or its gradient is not finite.
    """
    train, held_out = split_contexts(score_files, config.val_contexts)
    run = Trainer(out, config, identity, train, held_out, build, load)
    start = run.resume()
    with torch.random.fork_rng():
        run.fit(start)
    card = run.finish()
    shutil.rmtree(run.checkpoint.parent, ignore_errors=True)
    return card


def split_contexts(files: Sequence[Path], held_out: int) -> tuple[list[Path], list[Path]]:
    """Training and held-out contexts, chosen by the hash of a context's name.

    The choice ignores the order of `files` and the seed: mappers trained with different seeds or
    settings are compared on the same held-out contexts.
    """
    if not 0 < held_out < len(files):
        raise ConfigError(
            f"mapper training: cannot hold out {held_out} of {len(files)} contexts; "
            f"set val_contexts between 1 and {len(files) - 1}"
        )
    drawn = sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    return drawn[held_out:], drawn[:held_out]


def learning_rate(step: int, config: TrainingSettings) -> float:
    """Linear warm-up, then a cosine down to a twentieth; steps count from 1."""
    if step <= config.warmup:
        return config.lr * step / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


class Trainer:
    """One training run: what changes from step to step lives here and in its checkpoint.

    All randomness of a step is seeded by (seed, step), so no generator state needs keeping.
    """

    def __init__(
        self,
        out: Path,
        config: TrainingSettings,
        identity: Mapping[str, Any],
        train: list[Path],
        held_out: list[Path],
        build: Build,
        load: Load,
    ) -> None:
        self.out, self.config, self.identity = out, config, dict(identity)
        self.train, self.held_out, self.load = train, held_out, load
        self.device = device_of(config.device)
        self.log_file = out / "log.jsonl"
        self.checkpoint = out / "checkpoint" / "state.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.mapper = build(train, config.mapper, config.signal).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.mapper.parameters(), weight_decay=config.weight_decay, fused=True
        )
        self.best: dict[str, Any] = {"step": 0, "choice": -1.0, "metrics": {}}
        self.best_weights: dict[str, Tensor] = {}
        out.mkdir(parents=True, exist_ok=True)

    def fit(self, start: int) -> None:
        """Steps `start` + 1 to the last, with log lines, evaluations and checkpoints."""
        config = self.config
        with self.log_file.open("a", encoding="utf-8", buffering=1) as log:

            def tell(split: str, figures: Mapping[str, float]) -> None:
                line = {"step": step, "steps": config.steps, "split": split, **figures}
                log.write(json.dumps(line) + "\n")

            for step in range(start + 1, config.steps + 1):
                last, begun = step == config.steps, time.perf_counter()
                logged = last or step % config.log_every == 0
                figures, tokens = self.step(step, with_fidelity=logged)
                speed = tokens / (time.perf_counter() - begun)
                tell("train", {**figures, "tokens_per_s": speed})
                if last or step % config.eval_every == 0:
                    tell("val", metrics := self.evaluate(step))
                    self.report(step, figures["total"], metrics["mass@0.1"], speed)
                    if step - self.best["step"] >= config.patience * config.eval_every:
                        return
                if not last and step % config.eval_every == 0:
                    self.save(step)

    def report(self, step: int, loss: float, mass: float, speed: float) -> None:
        """Progress, in the job's log."""
        told = f"loss {loss:.3f}, held-out mass@0.1 {mass:.3f}, {speed:.0f} tokens/s"
        logger.info("step %d of %d: %s", step, self.config.steps, told)

    def step(self, step: int, with_fidelity: bool = False) -> tuple[dict[str, float], int]:
        """One optimiser step: figures for the log, and tokens seen.

        Losses are means over the batch, `fidelity` is its last context's.
        """
        config = self.config
        seed = config.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from the global generator
        figures: dict[str, float] = {}
        tokens = 0
        self.mapper.train()
        self.optimizer.zero_grad()
        first = (step - 1) * config.batch
        paths = [self._context(first + micro) for micro in range(config.batch)]
        for path in paths:
            seen, target = self._window(path, generator)
            logits = self.mapper(seen)
            total, terms = hybrid_loss(logits, target, config.weights, generator)
            if not total.isfinite():
                told = ", ".join(f"{name} {term.item():.3g}" for name, term in terms.items())
                raise FloatingPointError(
                    f"loss is not finite at step {step} on context {path.stem} ({told})"
                )
            (total / config.batch).backward()
            tokens += target.shape[-1]
            for name, value in {"total": total.detach(), **terms}.items():
                figures[name] = figures.get(name, 0.0) + value.item() / config.batch
        if with_fidelity:
            figures |= fidelity(logits.detach(), target)
        norm = torch.nn.utils.clip_grad_norm_(self.mapper.parameters(), config.clip)
        if not norm.isfinite():
            names = ", ".join(path.stem for path in paths)
            raise FloatingPointError(f"gradient is not finite at step {step} on contexts {names}")
        figures["lr"] = learning_rate(step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = figures["lr"]
        self.optimizer.step()
        return figures, tokens

    def _window(self, path: Path, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the module sees of a random window of a context, and the target's scores."""
        return self.load(path, self.config.signal, self.device, self.config.crop, generator)

    def _context(self, draw: int) -> Path:
        """The draw-th training context: every epoch is a fresh permutation."""
        epoch, index = divmod(draw, len(self.train))
        order = list(range(len(self.train)))
        random.Random(self.config.seed * 1_000_003 + epoch).shuffle(order)
        return self.train[order[index]]

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean fidelity on the held-out contexts; remembers the best weights."""
        self.mapper.eval()
        metrics = self._fidelity()
        choice = sum(metrics[name] for name in CHOICE) / len(CHOICE)
        if choice > self.best["choice"]:
            self.best = {"step": step, "choice": choice, "metrics": metrics}
            self.best_weights = {k: v.clone() for k, v in self.mapper.state_dict().items()}
        return metrics

    def _fidelity(self) -> dict[str, float]:
        """Mean over the held-out contexts."""
        figures = []
        for path in self.held_out:
            seen, target = self.load(path, self.config.signal, self.device)
            figures.append(fidelity(self.mapper.score(seen), target))
        return {name: sum(f[name] for f in figures) / len(figures) for name in figures[0]}

    def finish(self) -> dict[str, Any]:
        """Write the best mapper and its card."""
        self.mapper.load_state_dict(self.best_weights)
        metrics = self.best["metrics"]
        if self.config.calibrated:
            how = self.config.signal, self.device
            match_distributions(self.mapper.eval(), self.train, self.load, *how)
            metrics = self._fidelity()
        card = {
            **self.identity,
            "training": asdict(self.config),
            "train_contexts": sorted(path.stem for path in self.train),
            "val_contexts": sorted(path.stem for path in self.held_out),
            "best_step": self.best["step"],
            "metrics": metrics,
        }
        return save_mapper(self.out, self.mapper, card)

    def _digest(self) -> str:
        """What must agree for a checkpoint to be this run's."""
        names = [path.name for path in (*self.train, *self.held_out)]
        text = json.dumps([asdict(self.config), self.identity, names], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, step: int) -> None:
        """Checkpoint: all that the next steps depend on."""
        state = self.optimizer.state_dict()["state"]
        groups = {
            "model": self.mapper.state_dict(),
            "best": self.best_weights,
            "optimizer": {f"{i}.{k}": v for i, part in state.items() for k, v in part.items()},
        }
        about = {"step": str(step), "best": json.dumps(self.best), "run": self._digest()}
        tensor_file.save_groups(self.checkpoint, groups, about)

    def resume(self) -> int:
        """Load this run's checkpoint if there is one; return the last step done.

        The log is cut back to that step, so that no step is logged twice.
        """
        step = self._load()
        if self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            files.write_text(self.log_file, "".join(kept))
        return step

    def _load(self) -> int:
        about = tensor_file.read_metadata(self.checkpoint)
        if about.get("run") != self._digest():
            return 0
        groups = tensor_file.read_groups(self.checkpoint, str(self.device))
        self.mapper.load_state_dict(groups["model"])
        self.best, self.best_weights = json.loads(about["best"]), groups.get("best", {})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        parameters = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": parameters})
        return int(about["step"])
