"""The command line: one subcommand per step of the workflow, and what people call by hand.

Steps import what they need when they run: planning, tables and reports never load torch.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from proxykv.config import catalog, paths
from proxykv.config.cards import methods_table
from proxykv.config.check import card_problems
from proxykv.config.estimate import estimate, table, total
from proxykv.config.run import ROLES, Run
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.gpu_claims import VISIBLE, claim
from proxykv.runtime.lock import Lock

log = logging.getLogger(__name__)

Step = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; a user's mistake is printed in one line, with exit status 2."""
    commands = parser()
    options, rest = commands.parse_known_args(arguments)
    if options.step is _lm_eval:
        options.arguments = rest  # lm-eval's own
    elif rest:
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    # Steps write to logs, where progress bars are noise.
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options.step(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"{error.filename}: no permission ({error.strerror}); see chmod", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    commands = argparse.ArgumentParser(
        prog="proxykv", description=(__doc__ or "").split("\n", 1)[0]
    )
    steps = commands.add_subparsers(title="subcommands", required=True, metavar="STEP")

    def add(step: Step) -> argparse.ArgumentParser:
        name = step.__name__.strip("_").replace("_", "-")
        sub = steps.add_parser(name, help=(step.__doc__ or "").strip())
        sub.set_defaults(step=step)
        return sub

    add(_methods)
    checked = add(_check)
    checked.add_argument("configfile", nargs="?", help="config of a run")
    checked.add_argument("--family", help="verify a family's models instead, without a GPU")
    for step, arguments in STEPS.items():
        _add_arguments(add(step), step, arguments)
    add(_audit).add_argument("folder", type=Path, help="results/<run>")
    add(_recover).add_argument("command", nargs=argparse.REMAINDER, help="snakemake …")
    forget = add(_forget)
    _needs_config(forget)
    for name in ("family", "benchmark", "task", "method"):
        forget.add_argument(f"--{name}", help=f"drop rows of this {name} only")
    forget.add_argument("--fitted", action="store_true", help="fit the method again, too")
    add(_lm_eval)
    return commands


def _add_arguments(command: argparse.ArgumentParser, step: Step, arguments: Sequence[str]) -> None:
    """Add the arguments and options of a step that works on a run's config."""
    for argument in arguments:
        command.add_argument(argument, choices=ROLES if argument == "role" else None)
    _needs_config(command)
    if step is _status:
        command.add_argument("--json", action="store_true", help="for programs")
    if step in (_extract, _extract_inputs, _fit, _generate):
        command.add_argument("--threads", type=int, help="CPU threads for torch")
        claimed = "GPUs to claim, 0 to hide all; by default what the family's file requests"
        command.add_argument("--gpus", type=int, help=claimed)


def _needs_config(command: argparse.ArgumentParser) -> None:
    default = os.environ.get("PROXYKV_CONFIG")
    command.add_argument(
        "--config",
        type=Path,
        default=default,
        required=default is None,
        help="results/<run>/config.json; otherwise $PROXYKV_CONFIG",
    )


def _check(options: argparse.Namespace) -> None:
    """check a config and print its jobs and estimated hours, or verify a family's models"""
    if (options.family is None) == (options.configfile is None):
        raise ConfigError("proxykv check: give a config file, or --family with a family's name")
    if options.family:
        from proxykv.model.verify import verify

        cache = Path(catalog.schema("config")["properties"]["cache"]["default"])
        for line in verify(options.family, cache):
            print(line)
        return
    run = Run(_yaml(Path(options.configfile)))
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


def _methods(options: argparse.Namespace) -> None:
    """print a table of all methods, read from the cards in their files"""
    if problems := card_problems():
        raise ConfigError("\n".join(problems))
    print(*methods_table(), sep="\n")


def _convert(options: argparse.Namespace) -> None:
    """fetch a model and convert it to a local safetensors folder"""
    from proxykv.steps.convert import convert

    run = Run.read(options.config)
    model = run.family(options.family)[options.role]
    folder = run.model(options.family, options.role).folder
    with _alone(folder):
        convert(model, folder)


def _prepare(options: argparse.Namespace) -> None:
    """make the dataset of a task (path: its file in the cache)"""
    from proxykv.steps.prepare import prepare

    run = Run.read(options.config)
    prepare(run, run.dataset(options.path))


def _extract(options: argparse.Namespace) -> None:
    """store both models' scores of the training contexts"""
    from proxykv.steps.extract import extract

    run, shard = Run.read(options.config), int(options.shard) - 1
    with _hardware(options, run), _alone(paths.score_lists(run, options.family)[shard]):
        extract(run, options.family, shard)


def _extract_inputs(options: argparse.Namespace) -> None:
    """store inputs of the target's layers on the training contexts"""
    from proxykv.steps.extract import extract_inputs

    run, shard = Run.read(options.config), int(options.shard) - 1
    with _hardware(options, run), _alone(paths.input_lists(run, options.family)[shard]):
        extract_inputs(run, options.family, shard)


def _screen(options: argparse.Namespace) -> None:
    """find training contexts that share text with evaluation contexts"""
    from proxykv.steps.screen import screen

    screen(Run.read(options.config), options.family)


def _fit(options: argparse.Namespace) -> None:
    """fit a method (train a mapper) on stored scores"""
    from proxykv.steps.fit import fit

    run = Run.read(options.config)
    with _hardware(options, run), _alone(paths.fitted_dir(run, options.family, options.method)):
        fit(run, options.family, options.method)


def _generate(options: argparse.Namespace) -> None:
    """answer a task's questions with every method at every retention"""
    from proxykv.steps.generate import generate

    run = Run.read(options.config)
    with _hardware(options, run):
        generate(run, run.job(options.family, options.benchmark, options.task))


def _grade(options: argparse.Namespace) -> None:
    """score a task's predictions"""
    from proxykv.steps.grade import grade

    run = Run.read(options.config)
    grade(run.job(options.family, options.benchmark, options.task))


def _transfer(options: argparse.Namespace) -> None:
    """test fitted methods on held-out contexts of each part of the corpus"""
    from proxykv.steps.transfer import transfer

    transfer(Run.read(options.config))


def _tabulate(options: argparse.Namespace) -> None:
    """write the run's tables"""
    from proxykv.steps.tabulate import tabulate

    tabulate(Run.read(options.config, made=True))


def _plot(options: argparse.Namespace) -> None:
    """draw the run's figures"""
    from proxykv.steps.plot import plot

    plot(Run.read(options.config, made=True))


def _report(options: argparse.Namespace) -> None:
    """write the run's report"""
    from proxykv.steps.report import report

    report(Run.read(options.config, made=True))


def _audit(options: argparse.Namespace) -> None:
    """recompute a run's scores and tables by other code, and print what differs"""
    from proxykv.runs.audit import audit

    found = audit(options.folder)
    print(*found.findings, found.summary, sep="\n")
    if found.findings:
        sys.exit(1)


def _status(options: argparse.Namespace) -> None:
    """show the progress of each fit and each job"""
    from proxykv.runs.status import fits, status, status_table

    run = Run.read(options.config)
    progress = {"fits": fits(run), "jobs": status(run)}
    if options.json:
        print(json.dumps(progress, indent=2))
    else:
        print("\n\n".join(status_table(records) for records in progress.values() if records))


def _forget(options: argparse.Namespace) -> None:
    """drop rows, so that the next run computes them again"""
    from proxykv.runs.status import forget

    names = ("family", "benchmark", "task", "method")
    only = {name: value for name in names if (value := getattr(options, name))}
    dropped = forget(Run.read(options.config), only, options.fitted)
    print(f"{dropped} rows dropped")


def _recover(options: argparse.Namespace) -> None:
    """after snakemake was killed: end its remaining jobs, unlock, run the command again"""
    from proxykv.runs.recover import recover

    sys.exit(recover(options.command))


def _lm_eval(options: argparse.Namespace) -> None:
    """run lm-eval's command line with pruned contexts: --tasks … --model_args target=…,method=…"""
    from proxykv.integrations.lm_eval import run

    run(options.arguments)


STEPS: dict[Step, Sequence[str]] = {
    _convert: ("family", "role"),
    _prepare: ("path",),
    _extract: ("family", "shard"),
    _extract_inputs: ("family", "shard"),
    _screen: ("family",),
    _fit: ("family", "method"),
    _generate: ("family", "benchmark", "task"),
    _grade: ("family", "benchmark", "task"),
    _transfer: (),
    _tabulate: (),
    _plot: (),
    _report: (),
    _status: (),
}
"""Steps that work on a run's config, with their arguments."""


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _alone(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of a file or folder, so that no other process makes it."""
    return Lock(path.with_name(path.name + ".lock")).held()


@contextmanager
def _hardware(options: argparse.Namespace, run: Run) -> Iterator[None]:
    """Give the step its GPUs and threads, and log where it runs."""
    import torch

    with ExitStack() as held:
        gpus = options.gpus
        if gpus is None:
            gpus = run.resources(options.family, options.step.__name__.strip("_"))["gpu"]
        held.enter_context(claim(gpus))
        if options.threads:
            torch.set_num_threads(options.threads)
        job, ids = os.environ.get("SLURM_JOB_ID", "-"), os.environ[VISIBLE]
        log.info("host %s, SLURM job %s, GPUs [%s]", socket.gethostname(), job, ids)
        yield
