"""Commands of the workflow: one for each rule."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from proxykv.cli.arguments import Add, Command, add_config, add_hardware, alone, hardware
from proxykv.config import paths
from proxykv.config.run import ROLES, Run
from proxykv.runtime.errors import ConfigError


def add_commands(add: Add) -> None:
    """Add this module's subcommands."""
    for step, arguments in STEPS.items():
        command = add(step)
        for argument in arguments:
            choices = ROLES if argument == "role" else None
            command.add_argument(argument, choices=choices, help=ARGUMENTS[argument])
        add_config(command)
        if step in WITH_HARDWARE:
            add_hardware(command)


def _convert(options: argparse.Namespace) -> None:
    """fetch a model and convert it to a local safetensors folder"""
    from proxykv.steps.convert import convert

    run = Run.read(options.config)
    model = run.family(options.family)[options.role]
    folder = run.model(options.family, options.role).folder
    with alone(folder):
        convert(model, folder)


def _prepare(options: argparse.Namespace) -> None:
    """make the dataset of a task"""
    from proxykv.steps.prepare import prepare

    run = Run.read(options.config)
    prepare(run, run.dataset(options.path))


def _extract(options: argparse.Namespace) -> None:
    """store both models' scores of the training contexts"""
    from proxykv.steps.extract import extract

    run = Run.read(options.config)
    shard, path = _shard(options, paths.score_lists(run, options.family))
    with hardware(options, run), alone(path):
        extract(run, options.family, shard)


def _extract_inputs(options: argparse.Namespace) -> None:
    """store inputs of the target's layers on the training contexts"""
    from proxykv.steps.extract import extract_inputs

    run = Run.read(options.config)
    shard, path = _shard(options, paths.input_lists(run, options.family))
    with hardware(options, run), alone(path):
        extract_inputs(run, options.family, shard)


def _extract_signal(options: argparse.Namespace) -> None:
    """store a signal of the proxy on the training contexts"""
    from proxykv.steps.extract import extract_signal

    run = Run.read(options.config)
    signal = run.stored_signal(options.signal)
    shard, path = _shard(options, paths.signal_lists(run, options.family, signal))
    with hardware(options, run), alone(path):
        extract_signal(run, options.family, signal, shard)


def _shard(options: argparse.Namespace, files: Sequence[Path]) -> tuple[int, Path]:
    """Index and file of the shard that the command line names, by its number."""
    for index, file in enumerate(files):
        if options.shard == str(index + 1):
            return index, file
    raise ConfigError(f"no shard {options.shard!r}; the corpus has {len(files)}, numbered from 1")


def _screen(options: argparse.Namespace) -> None:
    """find training contexts that share text with evaluation contexts"""
    from proxykv.steps.screen import screen

    screen(Run.read(options.config), options.family)


def _fit(options: argparse.Namespace) -> None:
    """fit a method (train a mapper) on stored scores"""
    from proxykv.steps.fit import fit

    run = Run.read(options.config)
    run.family(options.family)  # before the lock's file is called after them
    run.fitted_method(options.method)
    with hardware(options, run), alone(paths.fitted_dir(run, options.family, options.method)):
        fit(run, options.family, options.method)


def _generate(options: argparse.Namespace) -> None:
    """answer a task's questions with every method at every retention"""
    from proxykv.steps.generate import generate

    run = Run.read(options.config)
    with hardware(options, run):
        generate(run, run.job(options.family, options.benchmark, options.task))


def _fidelity(options: argparse.Namespace) -> None:
    """compare every method's scores of a task's contexts with the oracle's; nothing is answered"""
    from proxykv.steps.fidelity.scores import fidelity

    run = Run.read(options.config)
    with hardware(options, run):
        fidelity(run, run.job(options.family, options.benchmark, options.task))


def _score_fidelity(options: argparse.Namespace) -> None:
    """write the table of what `fidelity` found"""
    from proxykv.steps.fidelity.scores import score_fidelity

    score_fidelity(Run.read(options.config))


def _efficiency(options: argparse.Namespace) -> None:
    """measure time and memory of a scan's requests"""
    from proxykv.config.efficiency import measuring_job, resources
    from proxykv.steps.efficiency import efficiency

    run = Run.read(options.config)
    job = measuring_job(run, options.family, options.scan)
    if options.gpus is None:
        options.gpus = resources(run, job)["gpu"]
    with hardware(options, run):
        efficiency(run, job)


def _grade(options: argparse.Namespace) -> None:
    """score a task's predictions"""
    from proxykv.steps.grade import grade

    run = Run.read(options.config)
    grade(run.job(options.family, options.benchmark, options.task))


def _transfer(options: argparse.Namespace) -> None:
    """test fitted methods on held-out contexts of each part of the corpus"""
    from proxykv.steps.fidelity.transfer import transfer

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


ARGUMENTS = {
    "family": "a model pair of the run",
    "role": "`target` or `proxy`",
    "path": "the dataset's file in the cache",
    "shard": "number of a part of the corpus, from 1",
    "signal": "name of a signal that a method of the run reads",
    "method": "id of a method that is fitted",
    "benchmark": "a benchmark of the run",
    "task": "a task of the benchmark, or a shard of one",
    "scan": "name of a scan under `efficiency`",
}
"""What the arguments of the steps mean."""

STEPS: dict[Command, Sequence[str]] = {
    _convert: ("family", "role"),
    _prepare: ("path",),
    _extract: ("family", "shard"),
    _extract_inputs: ("family", "shard"),
    _extract_signal: ("family", "signal", "shard"),
    _screen: ("family",),
    _fit: ("family", "method"),
    _generate: ("family", "benchmark", "task"),
    _fidelity: ("family", "benchmark", "task"),
    _score_fidelity: (),
    _efficiency: ("family", "scan"),
    _grade: ("family", "benchmark", "task"),
    _transfer: (),
    _tabulate: (),
    _plot: (),
    _report: (),
}
"""Steps with their arguments."""

WITH_HARDWARE = (
    *(_extract, _extract_inputs, _extract_signal, _fit),
    *(_generate, _fidelity, _efficiency),
)
