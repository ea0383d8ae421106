"""The workflow itself, on the tiny family: complete, idempotent, exact in what it does again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from checkout import (
    CONFIG,
    CONTEXTS,
    DATASET,
    METHODS,
    TASKS,
    Checkout,
    copy_project,
    forget_files,
)

from proxykv.benchmarks.examples import read_jsonl
from proxykv.cli import main
from proxykv.config import catalog, paths
from proxykv.config.check import schema_problems
from proxykv.mapper.corpus import context_name
from proxykv.report.tables.columns import LEADERBOARD_COLUMNS
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal

REPORTING = ["plot", "report", "tabulate"]
CHAINS = [f"{rule} {task}" for rule in ("generate", "grade") for task in TASKS]


def keys(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(e["context_id"], e["question"], e["method"], e["retention"]) for e in entries]


def test_a_run_is_complete(finished_run: Checkout) -> None:
    folder = finished_run.folder / finished_run.run.dir
    expected = [
        *("config.json", "report/index.html", "tables/leaderboard.csv", "tables/provenance.json"),
        "tables/ablations.csv",
        *("figures/accuracy_retention.svg", "figures/pareto.svg"),
        *(f"mappers/tiny/{method}/card.json" for method in ("proxykv", "linear")),
        *(f"predictions/tiny/tiny/{task}.parquet" for task in TASKS),
    ]
    assert [path for path in expected if not (folder / path).stat().st_size] == []
    assert not list(finished_run.folder.rglob("*.partial"))
    assert not list(finished_run.folder.parent.rglob("PWNED"))  # what its folder is called
    page = (folder / "report" / "index.html").read_text("utf-8")
    assert re.search(r"audited: \d{3,} cells, \d{3} scores and \d{3} rows, no findings", page)
    leaderboard = pd.read_csv(folder / "tables" / "leaderboard.csv")
    assert list(leaderboard.columns) == LEADERBOARD_COLUMNS
    assert set(leaderboard["method"]) == set(METHODS)
    for task in TASKS:
        rows = finished_run.rows(task)
        assert len(rows) == len(rows[["context_id", "question"]].drop_duplicates()) * len(METHODS)
        assert len(set(rows["context_id"])) == CONTEXTS
        for row in rows.to_dict("records"):
            row["references"] = list(row["references"])
            assert schema_problems(row, "row", task) == []
        assert all(rows["achieved_retention"] <= rows["retention"])
        assert set(rows.loc[rows["method"] == "full", "retention"]) == {1.0}
        assert rows["commit"].str.fullmatch(r"[0-9a-f]{12}(-dirty)?").all()


SAID = r"""
Assuming unrestricted shared filesystem usage\.
Building DAG of jobs\.\.\.
Using shell: \S+
Provided cores: 2
Rules claiming more threads will be scaled down\.
Conda environments: ignored
Job stats:
job +count
-+  -+
\w+ +\d+
\[.+\]
Finished jobid: \d+ \(Rule: \w+\)
\d+ of \d+ steps \(\d+%\) done
Report: results/dag/report/index\.html
Elapsed time: [\d:.]+
Complete log\(s\): .+\.snakemake\.log
"""


def test_a_run_says_what_is_done_and_nothing_else(finished_run: Checkout) -> None:
    """On a terminal, with `NO_COLOR`; steps log plain lines with their time."""
    lines = finished_run.transcript.splitlines()
    said = "|".join(SAID.strip().split("\n"))
    assert [line for line in lines if line and not re.fullmatch(said, line)] == []
    logged = finished_run.logs().replace("\n== ", "\n00:00:00 ").splitlines()
    assert len(logged) > 30
    assert [line for line in logged if not re.fullmatch(r"(\d\d:){2}\d\d [ -~]+|", line)] == []


def test_a_second_call_does_nothing(finished_run: Checkout) -> None:
    said = finished_run.on_a_terminal(TERM="xterm")
    assert "Nothing to be done" in said
    assert "\x1b[33m" in said  # colours, where they are not refused


@pytest.mark.parametrize(
    ("forgotten", "scheduled"),
    [
        (["--task", "vt"], ["generate vt", "grade vt"]),
        (["--task", "vt", "--method", "snapkv"], ["generate vt", "grade vt"]),
        (["--method", "snapkv"], CHAINS),
        (["--benchmark", "tiny"], CHAINS),
        (["--method", "linear"], CHAINS),
        (["--method", "linear", "--fitted"], ["fit linear", *CHAINS]),
    ],
)
def test_what_is_forgotten_is_scheduled_and_what_depends_on_it(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, forgotten: list[str], scheduled: list[str]
) -> None:
    monkeypatch.chdir(checkout.folder)
    assert main(["forget", "--config", str(checkout.run.dir / "config.json"), *forgotten]) == 0
    assert checkout.planned() == sorted([*scheduled, *REPORTING])


@pytest.fixture
def shapeless(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A family whose models are replaced by small ones, and so without its shape."""
    name, kept = "qwen-coder", checkout.project
    checkout.project = copy_project(checkout.folder / "shapeless")
    path = checkout.project / "config" / "families" / f"{name}.yaml"
    path.write_text(re.sub("  shape: .*\n", "", path.read_text("utf-8")), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "ROOT", checkout.project)
        forget_files()
        yield name
    forget_files()
    checkout.project = kept


def test_one_family_can_be_forgotten(
    checkout: Checkout, shapeless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is taken for finished."""
    monkeypatch.chdir(checkout.folder)
    other = shapeless
    checkout.config["families"] = ["tiny", other]
    run = checkout.run
    jobs = [job for job in run.jobs() if job.family == other]
    for role in ("target", "proxy"):
        model = run.model(other, role)
        shutil.copytree(Path("models") / "tiny" / role, model.folder)
        provenance = {"digests": asdict(model.digests)}
        (model.folder / "provenance.json").write_text(json.dumps(provenance), "utf-8")
    for path in [
        *(data.path for split in ("train", "eval") for data in run.datasets(other, split)),
        *(*paths.score_lists(run, other), paths.screening(run, other), paths.dropped(run, other)),
        *(paths.fitted_dir(run, other, fitted_id) / "card.json" for fitted_id in run.fitted_ids),
        *(job.file(kind) for kind in ("predictions", "rows") for job in jobs),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for job in jobs:
        Journal(job.journal).append([{"family": other, "task": job.task}])
    checkout.snakemake("--touch")
    assert checkout.planned() == []
    run.write()
    config = str(run.dir / "config.json")
    assert main(["forget", "--config", config, "--family", other]) == 0
    families = re.findall("family=([^,\n]+)", checkout.snakemake("-n"))
    assert families == [other] * len(CHAINS)


def test_one_tasks_answers_can_be_forced_again(checkout: Checkout) -> None:
    """Its rows, tables and report follow; nothing is fitted, no other task is answered."""
    job = checkout.job("vt")
    predictions, rows = str(job.file("predictions")), str(job.file("rows"))
    answered = ["generate vt", "grade vt"]
    assert checkout.planned("-R", predictions) == sorted([*answered, *REPORTING])
    assert checkout.planned(rows, "-R", predictions) == answered
    assert checkout.planned(rows) == []


def test_one_task_needs_its_own_jobs_and_the_fits(tmp_path: Path) -> None:
    """The command of a fresh checkout that names one file of rows."""
    fresh = Checkout(tmp_path, CONFIG)
    planned = fresh.planned(str(fresh.job("vt").file("rows")))
    assert not {"generate single", "grade single"} & set(planned)
    assert {"generate vt", "grade vt", "fit proxykv", "fit linear", "extract"} <= set(planned)
    assert not {"tabulate", "plot", "report"} & set(planned)


def test_a_benchmark_is_a_target(checkout: Checkout) -> None:
    assert checkout.planned("tiny", "-R", "grade") == ["grade single", "grade vt", "tiny"]


def step(checkout: Checkout, *arguments: str) -> None:
    """What a job of the workflow calls, without its start-up time."""
    assert main([*arguments, "--config", str(checkout.run.write())]) == 0


def test_another_retention_computes_only_that(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout.folder)
    before = checkout.entries("vt")
    checkout.config["retentions"] = [0.1, 0.3, 1.0]
    assert checkout.planned() == sorted([*CHAINS, *REPORTING])
    step(checkout, "generate", "tiny", "tiny", "vt")
    entries = checkout.entries("vt")
    assert entries[: len(before)] == before
    assert {(e["method"], e["retention"]) for e in entries[len(before) :]} == {
        (method, 0.3) for method in METHODS if method != "full"
    }
    assert len(set(keys(entries))) == len(entries)


def add_method(config: dict[str, Any]) -> None:
    config["methods"] += [{"id": "prior_again", "base": "prior", "params": {"draw": "mean"}}]


def add_task(config: dict[str, Any]) -> None:
    config["benchmarks"].append({**DATASET, "tasks": ["multikey"]})


def add_task_and_retention(config: dict[str, Any]) -> None:
    add_task(config)
    config["retentions"] = [0.1, 0.3, 1.0]


def another_run(config: dict[str, Any]) -> None:
    config["run"] = "another"


FITS = ["fit linear", "fit proxykv"]
# Its contexts are compared with the corpus; what they do not change is not fitted again.
ADDED = ["prepare multikey", "screen_tiny", "generate multikey", "grade multikey"]


@pytest.mark.parametrize(
    ("change", "scheduled"),
    [
        (add_method, ["fit prior_again", *CHAINS]),
        (add_task, ADDED),
        (add_task_and_retention, [*ADDED, *CHAINS]),
        # Models, data and scores are shared.
        (another_run, ["screen_tiny", *FITS, *CHAINS]),
    ],
)
def test_what_is_added_is_scheduled_and_nothing_else(
    checkout: Checkout, change: Callable[[dict[str, Any]], None], scheduled: list[str]
) -> None:
    change(checkout.config)
    assert checkout.planned() == sorted([*scheduled, *REPORTING])


def test_mappers_are_fitted_again_where_other_contexts_are_dropped(checkout: Checkout) -> None:
    (checkout.folder / paths.dropped(checkout.run, "tiny")).write_text(
        '["tiny-single-train-0-00000"]'
    )
    assert checkout.planned() == sorted([*FITS, *CHAINS, *REPORTING])


def test_a_task_with_training_text_is_refused_and_the_same_command_fits_again(
    checkout: Checkout,
) -> None:
    """What was fitted before the task was added has seen its text."""
    (train,) = checkout.run.datasets("tiny", "train")
    contaminated = read_jsonl(checkout.folder / train.path)[0]
    sample = {"context": contaminated.context, "input": "?", "answers": ["a"], "all_classes": None}
    sample |= {"_id": "seen", "dataset": "hotpotqa", "language": "en", "length": 96}
    (checkout.folder / "hotpotqa.jsonl").write_text(json.dumps(sample), "utf-8")
    task = {"benchmark": "longbench", "tasks": ["hotpotqa"]}
    checkout.config["benchmarks"].append(
        {**task, "options": {"source": {"path": "hotpotqa.jsonl"}}}
    )

    refused = checkout.start("snakemake", *checkout.arguments())
    refused.communicate()
    assert refused.returncode != 0
    assert "share text with what it was fitted on; run the same command again" in checkout.logs()
    report = checkout.folder / checkout.run.dir / "report" / "index.html"
    assert "hotpotqa" not in report.read_text("utf-8")

    # Its scores are gone: whatever would fit on it fails.
    (list_of_scores,) = paths.score_lists(checkout.run, "tiny")
    scores = checkout.folder / list_of_scores.with_name(f"{context_name(contaminated)}.safetensors")
    scores.unlink()
    checkout.snakemake()
    card = checkout.folder / paths.fitted_dir(checkout.run, "tiny", "proxykv") / "card.json"
    fitted = json.loads(card.read_text("utf-8"))
    assert fitted["decontamination"]["dropped"] == [context_name(contaminated)]
    others = {context_name(example) for example in read_jsonl(checkout.folder / train.path)}
    fitted_on = {*fitted["train_contexts"], *fitted["val_contexts"]}
    assert fitted_on == others - {context_name(contaminated)}
    assert set(checkout.rows("hotpotqa")["method"]) == set(METHODS)
    assert "hotpotqa" in report.read_text("utf-8")


def test_a_new_family_brings_its_own_jobs_only(checkout: Checkout) -> None:
    checkout.config["families"] = ["tiny", "qwen-coder"]
    output = checkout.snakemake("-n")
    assert "family=qwen-coder" in output
    assert "family=tiny" not in output


def test_a_proxy_of_two_families_scores_once(checkout: Checkout) -> None:
    """Scores of the second family wait for those of the first, which hold the proxy's."""
    checkout.config["families"] = ["tiny", "tiny-32k"]
    first, second = (str(*paths.score_lists(checkout.run, f)) for f in ("tiny", "tiny-32k"))

    def families(*arguments: str) -> list[str]:
        output = checkout.snakemake("-n", *arguments)
        return re.findall(r"rule extract:.*?family=([^,]+),", output, re.DOTALL)

    assert families(second) == ["tiny-32k"]  # the first family's are there
    (checkout.folder / first).unlink()
    assert sorted(families(second)) == ["tiny", "tiny-32k"]
    assert families(first) == ["tiny"]


def test_code_is_rerun_for_what_it_does_not_for_how_it_reads(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout.folder)
    checkout.project = copy_project(tmp_path / "project")
    scorer = checkout.project / "baselines" / "snapkv.py"
    text = scorer.read_text("utf-8")
    scorer.write_text(text + "\n# A remark.\n", "utf-8")
    assert checkout.planned() == []
    scorer.write_text(text + "\nUNUSED = 1\n", "utf-8")
    assert checkout.planned() == sorted([*CHAINS, *REPORTING])
    before = checkout.entries("vt")
    monkeypatch.setattr(catalog, "ROOT", checkout.project)
    step(checkout, "generate", "tiny", "tiny", "vt")
    entries = checkout.entries("vt")
    assert entries[: len(before)] == before
    assert sorted(keys(entries[len(before) :])) == sorted(
        keys([entry for entry in before if entry["method"] == "snapkv"])
    )


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""
"""Runs a command; prints its seconds of CPU time and its peak memory in kilobytes."""


def test_the_papers_grid_is_planned_in_seconds(checkout: Checkout) -> None:
    # As people type it, in the checkout itself: the profile names the config.
    arguments = ["--cores", "all", "--profile", "slurm", "-n", "--quiet", "rules"]
    # A small process in between: a child's peak memory counts that of the process that forked it.
    planning = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, "-m", "snakemake", *arguments],
        cwd=catalog.ROOT,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert planning.returncode == 0, planning.stdout + planning.stderr
    assert int(re.findall(r"^total +(\d+)$", planning.stdout, re.MULTILINE)[0]) > 500
    seconds, kilobytes = map(float, planning.stdout.split()[-2:])
    assert seconds < 30
    assert kilobytes < 1e6


def test_a_mapper_that_is_fitted_already_needs_no_corpus(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is copied, and prunes as in the run that fitted it."""
    monkeypatch.chdir(checkout.folder)
    fitted = checkout.folder / paths.fitted_dir(checkout.run, "tiny", "proxykv")
    before = checkout.rows("single")
    pulled = {"id": "pulled", "base": "proxykv", "fitted": "mappers/{family}"}
    checkout.config |= {"run": "pulled", "corpus": [], "methods": ["full", pulled]}
    with pytest.raises(ConfigError, match="pulled: nothing fitted in mappers/tiny; `proxykv pull`"):
        checkout.run.require_sources()
    shutil.copytree(fitted, checkout.folder / "mappers" / "tiny")
    assert checkout.planned() == sorted(["fit pulled", *CHAINS, *REPORTING])
    step(checkout, "fit", "tiny", "pulled")
    for task in TASKS:
        for part in ("generate", "grade"):
            step(checkout, part, "tiny", "tiny", task)
    for reporting in REPORTING:
        step(checkout, reporting)
    was, now = (
        [
            (row["context_id"], row["question"], row["retention"], row["prediction"], row["kl"])
            for row in rows.to_dict("records")
            if row["method"] == method
        ]
        for rows, method in ((before, "proxykv"), (checkout.rows("single"), "pulled"))
    )
    assert now == was
    assert len(now) >= CONTEXTS


def test_shards_share_a_tasks_contexts(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other shards answer nothing again; the rows are all there, and reported once."""
    monkeypatch.chdir(checkout.folder)
    before = checkout.rows("single")
    checkout.config["benchmarks"] = [
        {**DATASET, "tasks": ["single"], "shards": 2},
        {**DATASET, "tasks": ["vt"]},
    ]
    names = [job.name for job in checkout.run.jobs()]
    assert names == ["single@0", "single@1", "vt"]
    shards = [f"{rule} {name}" for rule in ("generate", "grade") for name in names[:2]]
    assert checkout.planned() == sorted([*shards, *REPORTING])
    for name in names[:2]:
        step(checkout, "generate", "tiny", "tiny", name)
        assert not checkout.journal(name).exists()
        step(checkout, "grade", "tiny", "tiny", name)
    for reporting in REPORTING:
        step(checkout, reporting)
    after = pd.concat([checkout.rows(name) for name in names[:2]]).to_dict("records")
    assert sorted(map(str, after)) == sorted(map(str, before.to_dict("records")))
