"""Commands that look at configs, families and methods before anything runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxykv.cli.arguments import Add, read_run
from proxykv.config import catalog
from proxykv.config.cards import methods_table
from proxykv.config.check import card_problems
from proxykv.config.cost.estimate import device_of, estimate, table, total
from proxykv.config.cost.operations import Operations
from proxykv.config.cost.placement import memory_table
from proxykv.config.cost.requests import requests_table
from proxykv.runtime.errors import ConfigError


def add_commands(add: Add) -> None:
    """Add this module's subcommands."""
    add(_methods)
    checked = add(_check)
    checked.add_argument(
        "configfile", nargs="?", help="a config file, or the name of one in config/"
    )
    checked.add_argument("--family", help="verify a family's models instead, without a GPU")


def _methods(options: argparse.Namespace) -> None:
    """print a table of all methods, read from the cards in their files"""
    if problems := card_problems():
        raise ConfigError("\n".join(problems))
    print(*methods_table(), sep="\n")


def _check(options: argparse.Namespace) -> None:
    """check a config and print its jobs and estimated hours, or verify a family's models

    proxykv check paper
    proxykv check my.yaml
    proxykv check --family qwen-coder
    """
    if (options.family is None) == (options.configfile is None):
        raise ConfigError("proxykv check: give a config file, or --family with a family's name")
    if options.family is not None:
        from proxykv.model.verify import verify

        cache = Path(catalog.schema("config")["properties"]["cache"]["default"])
        for line in verify(options.family, cache):
            print(line)
        return
    from proxykv.config.cost.measured import measured_table

    run = read_run(options.configfile)
    run.require_sources()
    rows = len(run.methods) - 1, len(run.retentions) - 1
    parts = estimate(run)
    print(
        f"{options.configfile}: ok; run {run.name!r}: {len(run.jobs())} jobs, "
        f"{rows[0]} methods x {rows[1]} retentions + full cache",
        *table(parts),
        total(parts),
        sep="\n",
    )
    for family in run.families:
        longest, device = run.family(family)["max_context"], device_of(run, family, "generate")
        print(*requests_table(Operations.of(run, family), family, longest, device), sep="\n")
        for line in (*measured_table(run, family), *memory_table(run.with_shapes(family))):
            print(line)
