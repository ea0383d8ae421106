"""A folder in which the workflow runs, and what tests ask about it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import baselines
from proxykv.config import catalog, signature
from proxykv.config.jobs import Job
from proxykv.config.keys import code
from proxykv.config.run import Run

CONTEXTS = 5
TASKS = ["single", "vt"]
ABLATION = {"id": "linear", "base": "proxykv", "params": {"mapper": {"variant": "linear"}}}
METHODS = ["full", "snapkv", "kvzip", "proxykv", "cross_kvzip_budget", "linear"]
DATASET = {"benchmark": "tiny", "contexts": CONTEXTS, "lengths": [96]}
CONFIG: dict[str, Any] = {
    "run": "dag",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": [*METHODS[:-1], ABLATION],
    "benchmarks": [{**DATASET, "tasks": TASKS}],
    "corpus": [{**DATASET, "tasks": ["single"], "contexts": 3}],
    "training": {"steps": 3, "warmup": 1, "val_contexts": 1, "crop": 64},
}
"""Everything the workflow has, as small as can be."""


class Checkout:
    """The project's workflow and models, with its own config, cache and results."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self.project = catalog.ROOT
        self.started: list[subprocess.Popen[str]] = []
        self.transcript = ""
        (folder / "models").symlink_to(catalog.ROOT / "models")

    def copy(self, folder: Path) -> Checkout:
        """Another folder with the same content, to continue from."""
        made = Checkout(folder, deepcopy(self.config))
        for part in ("results", "cache", ".snakemake"):
            shutil.copytree(self.folder / part, folder / part)
        return made

    @property
    def run(self) -> Run:
        return Run(self.config)

    def arguments(self, *arguments: str) -> list[str]:
        """Those of snakemake, for the config as it is now; targets come first."""
        path = self.folder / f"{self.config['run']}.yaml"
        path.write_text(yaml.safe_dump(self.config), "utf-8")
        return [
            *arguments,
            *("--snakefile", str(self.project / "Snakefile"), "--configfile", str(path)),
            *("--cores", "2"),
        ]

    def snakemake(self, *arguments: str) -> str:
        """Run the workflow; what it said."""
        return self.python("snakemake", *self.arguments(*arguments))

    def python(self, module: str, *arguments: str) -> str:
        """Run a module; what it said."""
        done = self.start(module, *arguments)
        output, _ = done.communicate()
        assert done.returncode == 0, output + self.logs()
        return output

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a module; what it says goes to the pipe."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def on_a_terminal(self, **env: str) -> str:
        """Run the workflow by `proxykv run` on a terminal; what it said."""
        *options, config, cores, number = self.arguments()
        options.remove("--configfile")
        unset = ("TQDM_DISABLE", "NO_COLOR")
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "proxykv", "run", config, "--", *options, cores, number],
            cwd=self.folder,
            env={k: v for k, v in self.environment.items() if k not in unset} | env,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
            while text := terminal.read(1 << 16):  # at its end, reading from a terminal fails
                said += text
        output = said.decode().replace("\r\n", "\n")
        assert process.wait() == 0, output + self.logs()
        return output

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.project)}

    def logs(self) -> str:
        found = sorted((self.folder / self.run.dir / "logs").rglob("*.all"))
        return "".join(f"\n== {path.name}\n{path.read_text('utf-8')}" for path in found)

    def job(self, task: str) -> Job:
        """The only family's and benchmark's job of a task or shard."""
        return next(job for job in self.run.jobs() if job.name == task)

    def journal(self, task: str) -> Path:
        return self.folder / self.job(task).journal

    def entries(self, task: str) -> list[dict[str, Any]]:
        """Everything in a journal, duplicates included."""
        lines = self.journal(task).read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def rows_file(self, task: str) -> str:
        return str(self.job(task).file("rows"))

    def rows(self, task: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / self.rows_file(task))

    def log(self, task: str) -> str:
        """What all attempts at answering a task's questions logged."""
        path = self.log_file(task)
        return path.read_text("utf-8") if path.exists() else ""

    def log_file(self, task: str) -> Path:
        job = self.job(task)
        name = f"{job.family}-{job.benchmark}-{task}.log.all"
        return self.folder / self.run.dir / "logs" / "generate" / name

    def contexts(self, task: str, what: str) -> list[str]:
        """Contexts of which a task's log says `what`, in its order."""
        return re.findall(rf"contexts: (\S+) {what}$", self.log(task), re.MULTILINE)

    def planned(self, *arguments: str) -> list[str]:
        """Jobs that a dry run would start: their rules, with the task or method they are for."""
        output = self.snakemake("-n", *arguments)
        jobs = []
        for line in map(str.strip, output.splitlines()):
            if line.startswith(("rule ", "localrule ")):
                jobs.append(line.split()[1].rstrip(":"))
            elif found := re.match("wildcards:.*(?:task|method)=([^,]+)", line):
                jobs[-1] += f" {found[1]}"
        return sorted(job for job in jobs if job != "all")


def copy_project(folder: Path) -> Path:
    """A copy of the project's files, as a clone would have them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (catalog.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((catalog.ROOT / name).read_bytes())
    return folder


def forget_files() -> None:
    """Read every file of the catalogue again, as the next process would."""
    for cached in chain.from_iterable(
        vars(module).values() for module in (catalog, code, signature)
    ):
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


@pytest.fixture
def linked_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: a checkout whose methods are links, so that files can be added."""
    for name in ("config", "workflow", "proxykv", "models"):
        (tmp_path / name).symlink_to(catalog.ROOT / name)
    (tmp_path / "baselines").mkdir()
    for path in (catalog.ROOT / "baselines").glob("*.py"):
        (tmp_path / "baselines" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    monkeypatch.setattr(baselines, "__path__", [str(tmp_path / "baselines")])
    forget_files()
    yield tmp_path
    forget_files()


HOSTILE = 'it\'s a "folder" $(touch PWNED) `touch PWNED` {task}'
"""A name that a shell or a template would read as something else."""


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The workflow from its beginning to its end; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / HOSTILE
    folder.mkdir()
    made = Checkout(folder, CONFIG)
    made.transcript = made.on_a_terminal(TERM="xterm", NO_COLOR="1")
    return made


@pytest.fixture
def checkout(finished_run: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the finished run, to continue from."""
    made = finished_run.copy(tmp_path)
    yield made
    for process in made.started:
        process.kill()
