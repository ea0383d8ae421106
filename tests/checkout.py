"""A folder in which the workflow runs, and what tests ask about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from proxykv import catalog
from proxykv.cells import Cell
from proxykv.spec import Run


class Checkout:
    """The project's workflow and models, with a config, a cache and results of its own."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self.started: list[subprocess.Popen[str]] = []
        (folder / "models").symlink_to(catalog.ROOT / "models")

    @property
    def run(self) -> Run:
        return Run(self.config)

    def arguments(self, *arguments: str) -> list[str]:
        """Those of snakemake, for the config as it is now; targets come first."""
        path = self.folder / f"{self.config['run']}.yaml"
        path.write_text(yaml.safe_dump(self.config), "utf-8")
        return [
            *arguments,
            *("--snakefile", str(catalog.ROOT / "Snakefile"), "--configfile", str(path)),
            *("--cores", "1"),
        ]

    def snakemake(self, *arguments: str) -> str:
        """Run the workflow; what it said."""
        return self.python("snakemake", *self.arguments(*arguments))

    def python(self, module: str, *arguments: str) -> str:
        """Run a module; what it said."""
        done = self.start(module, *arguments)
        said, _ = done.communicate()
        assert done.returncode == 0, said + self.logs()
        return said

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

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(catalog.ROOT)}

    def logs(self) -> str:
        found = sorted((self.folder / self.run.dir / "logs").rglob("*.all"))
        return "".join(f"\n== {path.name}\n{path.read_text('utf-8')}" for path in found)

    def cell(self, task: str) -> Cell:
        """The only family's and benchmark's job of a task."""
        return next(cell for cell in self.run.cells() if cell.task == task)

    def journal(self, task: str) -> Path:
        return self.folder / self.cell(task).journal

    def entries(self, task: str) -> list[dict[str, Any]]:
        """Everything in a journal, duplicates included."""
        lines = self.journal(task).read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def rows_file(self, task: str) -> str:
        return str(self.cell(task).file("rows"))

    def rows(self, task: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / self.rows_file(task))

    def log(self, task: str) -> str:
        """What all attempts at answering a task's questions logged."""
        cell = self.cell(task)
        name = f"{cell.family}-{cell.benchmark}-{task}.log.all"
        path = self.folder / self.run.dir / "logs" / "generate" / name
        return path.read_text("utf-8") if path.exists() else ""

    def planned(self, *arguments: str) -> list[str]:
        """Rules of the jobs that a dry run would start, with their wildcards' tasks."""
        said = self.snakemake("-n", *arguments)
        jobs, rule = [], ""
        for line in map(str.strip, said.splitlines()):
            if line.startswith(("rule ", "localrule ")):
                rule = line.split()[1].rstrip(":")
                jobs.append(rule)
            elif line.startswith("wildcards:") and "task=" in line:
                jobs[-1] = f"{rule} {line.rsplit('task=', 1)[1].split(',')[0]}"
        return sorted(job for job in jobs if job != "all")
