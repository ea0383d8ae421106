"""The command line: one subcommand per step of the workflow, and what people call by hand.

Steps import what they need when they run: planning, tables and reports never load torch.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from proxykv import catalog
from proxykv.spec import ConfigError, Run

Step = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; a user's mistake is printed as it is, with exit status 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.step is _lm_eval:
        options.arguments = rest  # lm-eval's own
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Steps write to logs, where progress bars are noise.
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options.step(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proxykv", description=(__doc__ or "").split("\n", 1)[0])
    steps = parser.add_subparsers(title="subcommands", required=True, metavar="STEP")

    def add(step: Step, *arguments: str) -> argparse.ArgumentParser:
        name = step.__name__.strip("_").replace("_", "-")
        sub = steps.add_parser(name, help=(step.__doc__ or "").strip())
        sub.set_defaults(step=step)
        for argument in arguments:
            sub.add_argument(argument)
        return sub

    checked = add(_check)
    checked.add_argument("configfile", nargs="?", help="config of a run")
    checked.add_argument("--family", help="verify a family's models instead, without a GPU")
    for step, arguments in {
        _convert: ("family", "role"),
        _data: ("path",),
        _scores: ("family", "shard"),
        _screen: ("family",),
        _fit: ("family", "method"),
        _generate: ("family", "benchmark", "task"),
        _grade: ("family", "benchmark", "task"),
        _table: (),
        _plot: (),
        _report: (),
        _status: (),
    }.items():
        sub = add(step, *arguments)
        sub.add_argument("--config", type=Path, required=True, help="results/<run>/config.json")
        sub.add_argument("--threads", type=int, default=None, help="CPU threads for torch")
    forget = add(_forget)
    forget.add_argument("--config", type=Path, required=True, help="results/<run>/config.json")
    forget.add_argument("--method", required=True, help="drop this method's rows")
    forget.add_argument("--task", help="of this task only")
    add(_lm_eval)
    return parser


def _check(options: argparse.Namespace) -> None:
    """check a config file and say what the run would consist of, or verify a family's models"""
    if (options.family is None) == (options.configfile is None):
        raise ConfigError("proxykv check: give a config file, or --family with a family's name")
    if options.family:
        from proxykv.pair import verify

        cache = Path(catalog.schema("config")["properties"]["cache"]["default"])
        for line in verify(options.family, cache):
            print(line)
        return
    run = Run(_yaml(Path(options.configfile)))
    run.require_variables()
    rows = len(run.methods) - 1, len(run.retentions) - 1
    print(
        f"{options.configfile}: ok; run {run.name!r}: {len(run.cells())} jobs, "
        f"{rows[0]} methods x {rows[1]} retentions + full cache"
    )


def _convert(options: argparse.Namespace) -> None:
    """fetch a model and convert it to a local safetensors folder"""
    from proxykv.convert import convert

    run = Run.read(options.config)
    model = run.family(options.family)[options.role]
    convert(model, run.model_dir(options.family, options.role))


def _data(options: argparse.Namespace) -> None:
    """make the dataset that belongs to a path of the run"""
    from proxykv.data import make_dataset

    run = Run.read(options.config)
    both = [d for f in run.families for split in ("eval", "train") for d in run.datasets(f, split)]
    make_dataset(run, next(d for d in both if str(d.path) == options.path))


def _scores(options: argparse.Namespace) -> None:
    """store both models' scores of the training contexts"""
    from proxykv.scores import extract

    _set_threads(options.threads)
    extract(Run.read(options.config), options.family, int(options.shard) - 1)


def _screen(options: argparse.Namespace) -> None:
    """find training contexts that share text with evaluation contexts"""
    from proxykv.screen import screen

    screen(Run.read(options.config), options.family)


def _fit(options: argparse.Namespace) -> None:
    """fit a method (train a mapper) on stored scores"""
    from proxykv.fit import fit

    _set_threads(options.threads)
    fit(Run.read(options.config), options.family, options.method)


def _generate(options: argparse.Namespace) -> None:
    """answer a task's questions with every method at every retention"""
    from proxykv.generate import generate

    _set_threads(options.threads)
    run = Run.read(options.config)
    generate(run, run.cell(options.family, options.benchmark, options.task))


def _grade(options: argparse.Namespace) -> None:
    """score a task's predictions"""
    from proxykv.grade import grade

    run = Run.read(options.config)
    grade(run.cell(options.family, options.benchmark, options.task))


def _table(options: argparse.Namespace) -> None:
    """write the run's tables"""
    from proxykv.ablations import write_ablations
    from proxykv.tables import write_tables

    run = Run.read(options.config)
    write_tables([cell.file("rows") for cell in run.cells()], run.dir / "tables")
    write_ablations(run.dir)


def _plot(options: argparse.Namespace) -> None:
    """draw the run's figures"""
    from proxykv.plots import draw_figures

    run = Run.read(options.config)
    draw_figures(run.dir, run.dir / "figures")


def _report(options: argparse.Namespace) -> None:
    """write the run's report"""
    from proxykv.report.build import build_report

    run = Run.read(options.config)
    build_report(run.dir, run.dir / "report" / "index.html")


def _status(options: argparse.Namespace) -> None:
    """show how far each job of the run is"""
    from proxykv.progress import status

    print(status(Run.read(options.config)))


def _forget(options: argparse.Namespace) -> None:
    """drop a method's rows, so that the next run computes exactly those again"""
    from proxykv.progress import forget

    dropped = forget(Run.read(options.config), options.method, options.task)
    print(f"{dropped} rows dropped")


def _lm_eval(options: argparse.Namespace) -> None:
    """run lm-eval's command line with pruned contexts: --tasks … --model_args target=…,method=…"""
    from proxykv.integrations.lm_eval import run

    run(options.arguments)


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _set_threads(threads: int | None) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
