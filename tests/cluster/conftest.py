"""A SLURM of one node with two fake GPUs, and copies of the project that use it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import one_node
import pytest
import yaml
from checkout import Checkout, copy_project

from proxykv.runtime.lock import Holder, Lock

DATASET = {"benchmark": "tiny", "contexts": 8, "lengths": [256]}
TASKS = ["single", "multikey", "vt"]
CONFIG = {
    "run": "cluster",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": ["full", "random", "kvzip", "prior"],
    "benchmarks": [{**DATASET, "tasks": TASKS}],
    "corpus": [{**DATASET, "tasks": ["single"], "contexts": 2}],
    "training": {"val_contexts": 1},
}
IMPATIENT = {"slurm-init-seconds-before-status-checks": 1, "seconds-between-status-checks": 1}

PATIENCE = 600
"""Seconds, many times what a quiet machine takes."""


class Copy(Checkout):
    """A copy of the project in which the tiny family asks for a GPU and the paper is small.

    Nothing else is changed but how often the profile looks after its jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.settings, self.started = folder, CONFIG, {}, []
        self.project = copy_project(folder)
        self.edit("config/families/tiny.yaml", lambda family: family["resources"].update(gpu=1))
        self.edit("slurm/config.yaml", lambda profile: profile.update(IMPATIENT))
        self.use(CONFIG, "config/paper.yaml")

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        content = yaml.safe_load((self.folder / name).read_text("utf-8"))
        change(content)
        (self.folder / name).write_text(yaml.safe_dump(content), "utf-8")

    def use(self, config: dict[str, Any], name: str) -> str:
        """Write a config file, the one that the questions below are about; its name."""
        self.config = config
        (self.folder / name).write_text(yaml.safe_dump(config), "utf-8")
        return name

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.settings}

    def predictions(self, task: str) -> Path:
        return self.folder / self.job(task).file("predictions")

    def until(self, workflow: subprocess.Popen[str], condition: Callable[[], object]) -> None:
        """Wait while the workflow runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if workflow.poll() is not None or time.monotonic() > end:
                workflow.kill()
                pytest.fail(workflow.communicate()[0] + self.logs())
            time.sleep(0.02)

    def writer(self, task: str) -> Holder | None:
        """Who answers a task's questions at this moment, if it has answered some."""
        journal = self.journal(task)
        holder = Lock(journal.with_name(journal.name + ".lock")).holder()
        at_work = holder and holder.alive and " answered\n" in self.log(task)
        return holder if at_work else None


def slurm_jobs(comment: str) -> list[dict[str, str]]:
    """SLURM's facts on the jobs, ended ones too, whose comment begins so."""
    command = ["scontrol", "--oneliner", "show", "jobs"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in listed.splitlines()]
    return [job for job in jobs if job.get("Comment", "").startswith(comment)]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running SLURM, to which this process's environment leads."""
    if gone := one_node.missing():
        why = f"no SLURM here ({', '.join(gone)}): see tests/cluster/one_node.py"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    with pytest.MonkeyPatch.context() as patch:
        try:
            for name, value in one_node.start(folder).items():
                patch.setenv(name, value)
            yield
        finally:
            one_node.stop(folder)


@pytest.fixture(scope="session")
def checkout(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy of the project."""
    made = Copy(tmp_path_factory.mktemp("copy"))
    yield made
    for workflow in made.started:
        workflow.kill()
