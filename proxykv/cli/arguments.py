"""What commands share: names of configs and runs, locks of what they make, claimed hardware."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.gpu_claims import VISIBLE, claim
from proxykv.runtime.lock import Lock
from proxykv.runtime.yaml_file import read_yaml

log = logging.getLogger(__name__)

Command = Callable[[argparse.Namespace], None]
"""What a subcommand runs; its name (without "_") is the subcommand's.

The first line of its docstring is the help, the others are examples.
"""

Add = Callable[[Command], argparse.ArgumentParser]
"""Adds a subcommand and returns its parser."""


CONFIG = "PROXYKV_CONFIG"
"""Environment variable that names the run's config."""


def require_plain(words: Iterable[str]) -> None:
    """Refuse what would break the one line of a message, or be lost.

    Args:
        words: of the command line.

    Raises:
        ConfigError: if a word holds a character that cannot be printed, or is an option with the
            value `--`, which argparse drops.
    """
    for word in words:
        if not word.isprintable():
            raise ConfigError(f"{word!a}: holds a character that cannot be printed; correct it")
        if word.startswith("--") and word.endswith("=--"):
            raise ConfigError(f"{word}: `--` is no value; correct it")


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the option that names the run's config."""
    default = os.environ.get(CONFIG)
    command.add_argument(
        "--config",
        type=stored_config,
        default=default,
        required=default is None,
        help="name of a run in results/, its folder or its config.json; otherwise $PROXYKV_CONFIG",
    )


def add_hardware(command: argparse.ArgumentParser) -> None:
    """Add the options of `hardware`."""
    command.add_argument("--threads", type=_whole(1), help="CPU threads for torch")
    claimed = "GPUs to claim, 0 to hide all; by default what the family's file requests"
    command.add_argument("--gpus", type=_whole(0), help=claimed)


def _whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not too small."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return number


def run_folder(name: str) -> Path:
    """The folder of a run, named in full or as in `results/`; a preset's run has its name."""
    return Path(name) if "/" in name or Path(name).exists() else Path("results") / name


def stored_config(name: str) -> Path:
    """The config that a run stored, named by its file, the run's folder or the run's name."""
    folder = run_folder(name)
    if folder.is_file() or (folder.suffix == ".json" and not folder.is_dir()):
        return folder
    return folder / "config.json"


def config_file(name: str) -> Path:
    """The config file that a user means: a file, or a preset by its name.

    Raises:
        ConfigError: if there is none.
    """
    presets = catalog.ROOT / "config"
    for path in (Path(name), presets / f"{name}.yaml"):
        if path.exists():
            return path
    known = ", ".join(path.stem for path in sorted(presets.glob("*.yaml")))
    raise ConfigError(f"{name}: no such file, nor a preset ({known})")


def read_run(name: str) -> Run:
    """The run of a config that a user wrote, or of the one that a run stored.

    Args:
        name: a file, or the name of a preset.

    Raises:
        ConfigError: if it cannot be read, or is no valid config.
    """
    return Run(read_yaml(config_file(name)))


def alone(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of a file or folder, so that no other process makes it."""
    return Lock(path.with_name(path.name + ".lock")).held()


@contextmanager
def hardware(options: argparse.Namespace, run: Run) -> Iterator[None]:
    """Give the step its GPUs and threads, and log where it runs.

    Args:
        options: of the command line.
        run: whose family states how many GPUs the step uses.
    """
    import torch

    with ExitStack() as held:
        gpus = options.gpus
        if gpus is None:
            # All extractions have the same resources.
            step = options.step.__name__.strip("_").partition("_")[0]
            gpus = run.resources(options.family, step)["gpu"]
        held.enter_context(claim(gpus))
        if options.threads:
            torch.set_num_threads(options.threads)
        job, ids = os.environ.get("SLURM_JOB_ID", "-"), os.environ[VISIBLE]
        log.info("host %s, SLURM job %s, GPUs [%s]", socket.gethostname(), job, ids)
        yield
