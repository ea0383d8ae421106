"""Commands that begin: a working directory, a run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from proxykv.cli.arguments import Add, config_file
from proxykv.runtime.yaml_file import read_yaml

QUIET = ("--quiet", "rules", "host", "reason")


def add_commands(add: Add) -> None:
    """Add this module's subcommands."""
    add(_init).add_argument("folder", type=Path, help="a new folder")
    run = add(_run)
    run.add_argument(
        "preset",
        nargs="?",
        default="config.yaml",
        help="a config file, or the name of one in config/ (default: config.yaml)",
    )
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="after `--`: snakemake's own")


def _init(options: argparse.Namespace) -> None:
    """write a working directory for an installed package: Snakefile, configs, methods

    proxykv init work
    """
    from proxykv.runs.working_directory import write_working_directory

    write_working_directory(options.folder)
    print(f"{options.folder} is ready: cd {options.folder} && proxykv run")


def _run(options: argparse.Namespace) -> None:
    """run the workflow of a config with all cores; snakemake's arguments follow `--`

    proxykv run
    proxykv run paper -- --profile slurm --dry-run
    proxykv run my.yaml -- --cores 4 --keep-going
    """
    given = [word for word in (options.preset, *options.arguments) if word != "--"]
    preset = given.pop(0) if given and not given[0].startswith("-") else "config.yaml"
    config = config_file(preset)
    read_yaml(config)  # in one line what snakemake says in many
    command = [sys.executable, "-m", "snakemake", *QUIET, "--configfile", str(config)]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--cores", "all", *given])
