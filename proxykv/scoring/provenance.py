"""Where a number comes from: code, config, models, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from shutil import which
from typing import Any

import torch

from proxykv.config import catalog
from proxykv.config.keys.code import code_digest
from proxykv.config.models import heads
from proxykv.config.run import Run
from proxykv.kernels.choice import choose
from proxykv.model.model import Model


def provenance(run: Run, family: str, target: Model, entry: str) -> dict[str, Any]:
    """The columns of a row that say how it was made, but for the weights' digests.

    Args:
        run: the run.
        family: name of the family.
        target: the loaded target.
        entry: where the code begins that makes the row (see `code_digest`).
    """
    return {
        "target": _source(run.family(family)["target"]),
        "proxy": _source(run.family(family)["proxy"]),
        "seed": run.seed,
        "config_hash": run.digest,
        "code_hash": code_digest(entry),
        "commit": commit(),
        "device": device_name(target.device, len(target.devices)),
        "dtype": str(target.net.dtype).removeprefix("torch."),
        "kernels": kernels_of(target),
        "threads": torch.get_num_threads(),
        "versions": f"torch {version('torch')}, transformers {version('transformers')}",
    }


def kernels_of(target: Model) -> str:
    """Which implementation of the kernels the target runs on, and why."""
    head_size = heads(target.net.config.to_dict())["head_dim"]
    return str(choose(target.device, target.net.dtype, head_size))


def commit() -> str:
    """The checkout's commit, with `-dirty` where files differ from it; empty without git."""
    if not which("git"):  # as in the container
        return ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def device_name(device: torch.device, count: int = 1) -> str:
    """What a person calls devices: their type and the model of the processor.

    Args:
        device: one of them.
        count: how many alike there are.
    """
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}" + (f" x {count}" if count > 1 else "")
    return f"{device.type}: {platform.processor() or platform.machine()}"


def _source(model: dict[str, Any]) -> str:
    """A model's source in one word: hub name and revision, local folder, or file name."""
    if "hub" in model:
        return f"{model['hub']}@{model['revision'][:12]}"
    return model["path"] if "path" in model else model["wheels"]["file"]
