"""Commands that look after a run: its progress, its rows, its recovery, its audit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from proxykv.cli.arguments import Add, add_config, read_run, run_folder
from proxykv.config.run import Run

NARROWING = ("family", "benchmark", "task", "method")
"""Options of `forget` that say which rows."""

RUN = "name of a run in results/, or its folder"
RUNS = "names of two or more runs in results/, or their folders"


def add_commands(add: Add) -> None:
    """Add this module's subcommands."""
    status = add(_status)
    add_config(status)
    shown = status.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON, for programs")
    shown.add_argument(
        "--watch",
        nargs="?",
        const="10",
        metavar="SECONDS",
        help="repeat every so many seconds (10) until all is done, and show the time left",
    )
    add(_audit).add_argument("folder", type=run_folder, help=RUN)
    compared = add(_compare)
    compared.add_argument("folders", type=run_folder, nargs="+", help=RUNS)
    compared.add_argument(
        "--output", type=Path, default=Path("comparison"), help="folder to write (comparison)"
    )
    merged = add(_merge)
    merged.add_argument("folders", type=run_folder, nargs="+", help=RUNS)
    merged.add_argument(
        "--output", type=Path, required=True, help="folder to make: results/<new run>"
    )
    archived = add(_archive)
    archived.add_argument("folder", type=run_folder, help=RUN)
    archived.add_argument("file", type=Path, help="the archive to write, *.zip")
    for command in (_export, _import):
        packed = add(command)
        packed.add_argument("configfile", help="a config file, or the name of one in config/")
        packed.add_argument("file", type=Path, help="the file of rows, *.jsonl.gz")
    add(_recover).add_argument("command", nargs=argparse.REMAINDER, help="snakemake …")
    forget = add(_forget)
    add_config(forget)
    for name in NARROWING:
        forget.add_argument(f"--{name}", help=f"drop rows of this {name} only")
    forget.add_argument("--fitted", action="store_true", help="fit the method again, too")


def _status(options: argparse.Namespace) -> None:
    """show the progress of each fit, each job and each scan of time and memory

    proxykv status --config tiny
    proxykv status --config results/paper/config.json --watch
    """
    from proxykv.runs.status import status_table
    from proxykv.runs.watch import progress, watch

    run = Run.read(options.config)
    if options.watch is not None:
        watch(run, options.watch, sys.stdout)
    elif options.json:
        print(json.dumps(progress(run), indent=2))
    else:
        print("\n\n".join(status_table(records) for records in progress(run).values() if records))


def _audit(options: argparse.Namespace) -> None:
    """recompute a run's scores and tables by other code, and print what differs

    proxykv audit tiny
    """
    from proxykv.runs.audit import audit

    found = audit(options.folder)
    print(*found.findings, found.summary, sep="\n")
    if found.findings:
        sys.exit(1)


def _compare(options: argparse.Namespace) -> None:
    """write one page about several runs: what differs in them, and paired differences

    proxykv compare signals transfer-signals --output comparison
    """
    from proxykv.report.compare import compare_runs

    print(compare_runs(options.folders, options.output))


def _merge(options: argparse.Namespace) -> None:
    """unite parts of one run that several machines made, tasks or methods each, in a new folder

    proxykv merge results/part1 results/part2 --output results/whole
    """
    from proxykv.runs.merge import merge

    config = merge(options.folders, options.output)
    for step in ("tabulate", "plot", "report"):
        print(f"proxykv {step} --config {config}")


def _archive(options: argparse.Namespace) -> None:
    """pack a finished run with checksums into one file for others (RO-Crate)

    proxykv archive paper paper.zip
    """
    from proxykv.runs.archive import archive

    print(f"{options.file}: {archive(options.folder, options.file)} files")


def _export(options: argparse.Namespace) -> None:
    """pack all rows of a run, finished or not, into one file with which another checkout goes on

    proxykv export paper rows.jsonl.gz
    """
    from proxykv.runs.journals import export_journals

    print(f"{options.file}: {export_journals(read_run(options.configfile), options.file)} rows")


def _import(options: argparse.Namespace) -> None:
    """add exported rows to a run, which then computes none that the same code and models made

    proxykv import paper rows.jsonl.gz
    """
    from proxykv.runs.journals import import_journals

    print(f"{import_journals(read_run(options.configfile), options.file)} rows added")


def _recover(options: argparse.Namespace) -> None:
    """after snakemake was killed: end its remaining jobs, unlock, run the command again

    proxykv recover snakemake --cores all --configfile config/paper.yaml
    """
    from proxykv.runs.recover import recover

    sys.exit(recover(options.command))


def _forget(options: argparse.Namespace) -> None:
    """drop rows, so that the next run computes them again

    proxykv forget --config tiny --method snapkv
    proxykv forget --config paper --benchmark ruler --task vt
    """
    from proxykv.runs.status import forget

    given = {name: getattr(options, name) for name in NARROWING}
    only = {name: value for name, value in given.items() if value is not None}
    dropped = forget(Run.read(options.config), only, options.fitted)
    print(f"{dropped} rows dropped")
