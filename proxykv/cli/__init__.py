"""The command line: one subcommand for each step of the workflow, and commands for users.

Commands import what they need when they run: planning, tables and reports never load torch.
Imports every folder except `pretrain`.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import logging
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from textwrap import indent

import shtab

from proxykv.cli import checks, mappers, runs, start, steps
from proxykv.cli.arguments import CONFIG, Command, require_plain
from proxykv.runtime.errors import ConfigError

EXAMPLES = """
examples:
  proxykv run                                   the embedded models, in minutes on a CPU
  proxykv check paper                           a preset's jobs and estimated hours
  proxykv run paper -- --profile slurm          a preset on a cluster
  proxykv status --config paper --watch         progress, and the time left
  proxykv audit paper                           its scores and tables, computed by other code

`proxykv STEP --help` has more of them; docs/reference/cli.md has the exit statuses.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; a user's mistake is printed in one line, with exit status 2."""
    commands = parser()
    # Steps write to logs, where progress bars are noise.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # snakemake knows only this
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options, rest = commands.parse_known_args(words)
        if options.step is _lm_eval:
            options.arguments = rest  # lm-eval's own
        elif rest:
            commands.error(f"unrecognized arguments: {' '.join(rest)}")
        else:
            require_plain([*words, os.environ.get(CONFIG, "")])
        options.step(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"{error.filename}: no permission ({error.strerror}); see chmod", file=sys.stderr)
        return 2
    except (FileExistsError, NotADirectoryError) as error:
        print(f"{error.filename}: a file, but a folder is needed there", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"{error.filename}: too long for the name of a file", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    commands = argparse.ArgumentParser(
        prog="proxykv",
        description=(__doc__ or "").split("\n", 1)[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands.add_argument("--version", action="version", version=_versions())
    shtab.add_argument_to(commands, "--print-completion")
    parsers = commands.add_subparsers(title="subcommands", required=True, metavar="STEP")

    def add(command: Command) -> argparse.ArgumentParser:
        name = command.__name__.strip("_").replace("_", "-")
        about, _, examples = (inspect.getdoc(command) or "").partition("\n\n")
        sub = parsers.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"examples:\n{indent(examples, '  ')}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(step=command)
        return sub

    for group in (start, checks, steps, runs, mappers):
        group.add_commands(add)
    add(_lm_eval)
    return commands


def _versions() -> str:
    """What a bug report needs."""
    packages = ("torch", "transformers", "snakemake", "datasets", "pandas")
    listed = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"proxykv {version('proxykv')} (Python {platform.python_version()}, {listed})"


def _lm_eval(options: argparse.Namespace) -> None:
    """run lm-eval's command line with pruned contexts: --tasks … --model_args target=…,method=…

    proxykv lm-eval --tasks coqa --model_args target=models/mine,method=snapkv,retention=0.3
    """
    from proxykv.integrations.lm_eval_command import run

    run(options.arguments)
