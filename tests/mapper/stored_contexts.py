"""Score files of made-up contexts, and ways to watch or stop what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.stored_scores import initial_mapper, load_scores

IDENTITY = {"family": "toy", "target_hash": "t", "proxy_hash": "p", "vocab_hash": "v"}
SMALL = {"conv_channels": 8, "time_width": 16, "time_dilations": (1, 4), "width": 16}
QUICK = TrainingSettings(
    steps=12,
    warmup=2,
    crop=48,
    val_contexts=2,
    log_every=2,
    eval_every=4,
    device="auto",  # where there is an accelerator, all of this holds there
    mapper=SMALL,
)


def write_scores(folder: Path, contexts: int = 8, n: int = 64) -> list[Path]:
    """Target heads that no linear map of one token can give: products and neighbours."""
    folder.mkdir(exist_ok=True)
    draws = torch.Generator().manual_seed(0)
    files = []
    for index in range(contexts):
        u = torch.randn(4, n, generator=draws)
        gated = [u[0] * u[1], u[2].roll(2), (u[1] * u[3]).roll(-1), u[0].maximum(u[3])]
        target = (2 * torch.stack(gated) - 2).sigmoid().reshape(2, 2, n)
        files.append(folder / f"{index:03d}.safetensors")
        proxy = (2 * u - 3).sigmoid().reshape(2, 2, n)
        stored = {"target": target.half(), "proxy": proxy.half()}
        save_file(stored, files[-1], metadata={"context_id": str(index)})
    return files


def log_lines(out: Path, split: str | None = None) -> list[dict[str, Any]]:
    """Records of a training log, of one split or of both, without the speed and the time."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("tokens_per_s", "created")}
        for line in lines
        if split in (None, line["split"])
    ]


class Reader:
    """Reads score files as training does and notes what is read.

    Attributes:
        windows: name and target scores of every window that a step read, in order.
        read_fully: name of every context that was read whole, in order.
    """

    def __init__(self, windows: int | None = None) -> None:
        """Raise KeyboardInterrupt when more than this number of `windows` are read."""
        self._most = windows
        self.windows: list[tuple[str, Tensor]] = []
        self.read_fully: list[str] = []

    def __call__(
        self,
        path: Path,
        signal: str,
        device: torch.device,
        crop: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read one context (see `load_scores`)."""
        scores = load_scores(path, signal, device, crop, generator)
        if crop is None:
            self.read_fully.append(path.name)
        elif len(self.windows) == self._most:
            raise KeyboardInterrupt
        else:
            self.windows.append((path.name, scores[1].cpu()))
        return scores


class Builder:
    """Builds a mapper as training does and keeps it, with its first weights.

    Attributes:
        module: the mapper, which is trained in place.
        initial: its parameters before the first step, by name.
    """

    def __init__(self) -> None:
        """Nothing is built yet."""
        self.module: Any = None
        self.initial: dict[str, Tensor] = {}

    def __call__(self, files: Sequence[Path], settings: Mapping[str, Any], signal: str) -> Any:
        """Build a mapper (see `initial_mapper`)."""
        self.module = initial_mapper(files, settings, signal)
        self.initial = {k: v.detach().clone() for k, v in self.module.named_parameters()}
        return self.module

    def moved(self) -> dict[str, Tensor]:
        """How far each parameter has moved since."""
        return {
            name: (parameter.detach().cpu() - self.initial[name]).abs()
            for name, parameter in self.module.named_parameters()
        }
