"""The how-to guides work as they stand: every block becomes a file or a setting, and all is run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml
from checkout import copy_project
from method_fixture import needs_kvpress

from proxykv.config import catalog

DATASET = {"benchmark": "tiny", "tasks": ["single"], "contexts": 2, "lengths": [96]}
CONFIG: dict[str, Any] = {
    "run": "guide",
    "families": ["tiny"],
    "methods": ["full"],
    "retentions": [0.3, 1.0],
    "benchmarks": [DATASET],
    "corpus": [{**DATASET, "contexts": 3}],
    "training": {"steps": 2, "warmup": 1, "val_contexts": 1, "crop": 64},
}

WORKFLOW = """
import sys
from pathlib import Path

import yaml

from proxykv.config.run import Run
from proxykv.steps.extract import extract
from proxykv.steps.fit import fit
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade
from proxykv.steps.plot import plot
from proxykv.steps.prepare import prepare
from proxykv.steps.report import report
from proxykv.steps.screen import screen
from proxykv.steps.tabulate import tabulate

run = Run(yaml.safe_load(Path(sys.argv[1]).read_text()))
run.write()
for family in run.families:
    for split in ("train", "eval"):
        for dataset in run.datasets(family, split):
            prepare(run, dataset)
    extract(run, family, 0)
    screen(run, family)
    for fitted_id in run.fitted_ids:
        fit(run, family, fitted_id)
for job in run.jobs():
    generate(run, job)
    grade(job)
for step in (tabulate, plot, report):
    step(run)
"""
"""All steps in one process, which is much faster than a process for each."""


class Block(NamedTuple):
    """A block of code, and the paragraph before it, if there is one."""

    before: str
    language: str
    text: str


class Guide:
    """A copy of the project in which a guide was followed."""

    def __init__(self, name: str, folder: Path) -> None:
        page = (catalog.ROOT / "docs" / "how-to" / f"{name}.md").read_text("utf-8")
        blocks = re.findall(r"((?:[^\n]+\n)*)\n```(\w+)\n(.*?)```", page, flags=re.DOTALL)
        assert len(blocks) == page.count("```") // 2
        self.blocks = [Block(*block) for block in blocks]
        self.folder = copy_project(folder)
        self.config = CONFIG
        for block in self.blocks:
            self.follow(block)
        (folder / "guide.yaml").write_text(yaml.safe_dump(self.config), "utf-8")

    def follow(self, block: Block) -> None:
        """Do with a block what the paragraph before it says; else it is a setting or a command."""
        sentence = " ".join(block.before.split())
        if found := re.search(r"Save this as `([^`]+)`[^`]*:$", sentence):
            path = self.folder / found[1]
            assert not path.exists()
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif found := re.search(r"Append this to `([^`]+)`:$", sentence):
            path = self.folder / found[1]
            path.write_text(f"{path.read_text('utf-8')}\n\n{block.text}", "utf-8")
        elif found := re.search(r"Add this to `(\w+)` in `([^`]+)`:$", sentence):
            path, start = self.folder / found[2], f"\n{found[1]} = {{\n"
            head, _, tail = path.read_text("utf-8").partition(start)
            path.write_text(head + start + block.text + tail, "utf-8")
        elif block.language == "yaml":
            # Settings of a whole run; later ones are added to earlier ones.
            self.config = merged(self.config, yaml.safe_load(block.text))
        else:
            assert block.language == "console", f"what is to be done with this?\n{block.text}"

    def python(self, module: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env={
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
                "PYTHONPATH": str(self.folder),
                "HF_HUB_OFFLINE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self) -> None:
        """Check the guide's config, then run it."""
        self.python("proxykv", "check", "guide.yaml")
        (self.folder / "workflow.py").write_text(WORKFLOW, "utf-8")
        self.python("workflow", "guide.yaml")

    def result(self, name: str) -> Path:
        return self.folder / "results" / "guide" / name

    def rows(self, **only: str) -> pd.DataFrame:
        paths = sorted(self.result("rows").rglob("*.parquet"))
        rows = pd.concat([pd.read_parquet(path) for path in paths])
        for column, value in only.items():
            rows = rows.loc[rows[column] == value]
        return rows


def merged(one: Any, other: Any) -> Any:
    """Settings of both: mappings are joined, lists are put together."""
    if isinstance(one, Mapping):
        both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys()}
        return {**one, **other, **both}
    return one + [item for item in other if item not in one] if isinstance(one, list) else other


@pytest.fixture(scope="module")
def method_guide(tmp_path_factory: pytest.TempPathFactory) -> Guide:
    guide = Guide("add-a-method", tmp_path_factory.mktemp("method"))
    guide.run()
    return guide


@pytest.fixture(scope="module")
def extend_guide(tmp_path_factory: pytest.TempPathFactory) -> Guide:
    guide = Guide("extend", tmp_path_factory.mktemp("extend"))
    guide.run()
    return guide


@needs_kvpress
def test_the_first_method_is_short(method_guide: Guide) -> None:
    code = [line for line in method_guide.blocks[0].text.splitlines() if line]
    assert len(code) <= 25


@needs_kvpress
def test_every_method_of_the_guide_has_rows(method_guide: Guide) -> None:
    rows = method_guide.rows()
    assert set(rows.groupby(["method", "scope"]).groups) == {
        *(
            ("full", "none"),
            ("knorm", "head"),
            ("knorm_global", "global"),
            ("knorm_square", "head"),
        ),
        *(("head_mean", "global"), ("latest", "global"), ("kvpress:KnormPress", "head")),
        *(("expected_global", "global"), ("adakv", "custom"), ("dms", "custom")),
    }
    exact = rows[~rows.method.isin(["full", "adakv", "dms"])]
    assert (exact.achieved_retention.sub(0.3).abs() < 1 / 64).all()
    assert rows[rows.method == "dms"].achieved_retention.between(0.05, 0.95).all()


@needs_kvpress
def test_methods_of_the_guide_do_what_it_says(method_guide: Guide) -> None:
    rows = method_guide.rows()
    answers = {method: list(part.prediction) for method, part in rows.groupby("method")}
    # A power keeps the order inside a head. kvpress' own Knorm keeps the same pairs.
    assert answers["knorm_square"] == answers["knorm"] == answers["kvpress:KnormPress"]


@needs_kvpress
def test_cards_and_comparisons_of_the_guide_reach_the_tables(method_guide: Guide) -> None:
    assert "Knorm, global" in method_guide.result("report/index.html").read_text("utf-8")
    paired = pd.read_csv(method_guide.result("tables/paired.csv"))
    pairs = set(zip(paired.method, paired.reference, strict=True))
    assert {("knorm_global", "knorm"), ("knorm_square", "knorm")} <= pairs


@needs_kvpress
def test_the_contract_of_methods_is_checked_for_the_guides(method_guide: Guide) -> None:
    (arguments,) = {
        found[1]
        for page in (catalog.ROOT / "docs" / "how-to" / "add-a-method.md",)
        if (found := re.search(r"`pytest ([^`]+)`", page.read_text("utf-8")))
    }
    output = method_guide.python("pytest", "-q", "-p", "no:cacheprovider", *shlex.split(arguments))
    assert re.search(r"^[1-9]\d* passed", output, re.MULTILINE)


def test_the_guides_benchmark_task_and_family_have_rows(extend_guide: Guide) -> None:
    rows = extend_guide.rows()
    cells = {tuple(cell) for cell in rows[["family", "benchmark", "task"]].to_numpy().tolist()}
    tasks = [("recall", "forward"), ("recall", "backward"), ("tiny", "single"), ("tiny", "one")]
    assert cells == {
        (family, *task) for family in extend_guide.config["families"] for task in tasks
    }
    assert (extend_guide.rows(task="one").question == 0).all()


def test_every_family_is_screened(extend_guide: Guide) -> None:
    config = {**CONFIG, "run": "families", "families": ["tiny", "mine"]}
    (extend_guide.folder / "families.yaml").write_text(yaml.safe_dump(config), "utf-8")
    rules = ("screen_tiny", "screen_mine", "--cores", "2", "--configfile", "families.yaml")
    extend_guide.python("snakemake", *rules)
    for family in ("tiny", "mine"):
        folder = extend_guide.folder / "results" / "families" / "mappers" / family
        assert (folder / "screening.json").is_file()


def test_commands_of_the_guide_run(extend_guide: Guide) -> None:
    text = "".join(block.text for block in extend_guide.blocks if block.language == "console")
    commands = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    assert commands
    for program, *arguments in map(shlex.split, commands):
        extend_guide.python(program, *arguments)  # fails with the command's own words


def test_the_guides_plot_is_drawn(extend_guide: Guide) -> None:
    assert extend_guide.result("figures/answer_length.svg").stat().st_size > 1000
    assert "Length of the answers" in extend_guide.result("report/index.html").read_text("utf-8")


def test_the_guides_loss_term_is_trained_with(extend_guide: Guide) -> None:
    log = extend_guide.result("mappers/tiny/proxykv_mae/log.jsonl").read_text("utf-8")
    first = json.loads(log.splitlines()[0])
    assert first["mae"] > 0
    # mse 20 and mae 5 are the weights that the guide gives.
    assert first["total"] == pytest.approx(20 * first["mse"] + 5 * first["mae"])
