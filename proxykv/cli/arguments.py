"""What commands share: arguments, the lock of what they make, and the hardware they claim."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from proxykv.config.run import Run
from proxykv.runtime.gpu_claims import VISIBLE, claim
from proxykv.runtime.lock import Lock
from proxykv.runtime.yaml_file import read_yaml

log = logging.getLogger(__name__)

Command = Callable[[argparse.Namespace], None]
"""What a subcommand runs; its docstring is the help, its name (without "_") the subcommand's."""

Add = Callable[[Command], argparse.ArgumentParser]
"""Adds a subcommand and returns its parser."""


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the option that names the run's config."""
    default = os.environ.get("PROXYKV_CONFIG")
    command.add_argument(
        "--config",
        type=Path,
        default=default,
        required=default is None,
        help="results/<run>/config.json; otherwise $PROXYKV_CONFIG",
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


def read_run(path: Path) -> Run:
    """The run of a config that a user wrote, or of the one that a run stored.

    Raises:
        ConfigError: if it cannot be read, or is no valid config.
    """
    return Run(read_yaml(path))


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
