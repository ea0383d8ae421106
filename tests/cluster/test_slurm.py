"""`snakemake --cores all --profile slurm` on a real SLURM: a run that is shot at on its way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from itertools import combinations

import one_node
import pandas as pd
import pytest
from conftest import CONFIG, TASKS, Copy, slurm_jobs

from proxykv.runtime.lock import Holder

PROFILE = ["--cores", "all", "--profile", "slurm"]
MEASURED = ["prefill_seconds", "score_seconds", "decode_seconds", "created", "config_hash"]
"""Columns in which two runs of the same thing differ."""


@pytest.fixture(scope="module")
def local(checkout: Copy) -> dict[str, pd.DataFrame]:
    """Rows of a run without SLURM, on a machine with two GPUs."""
    name = checkout.use({**CONFIG, "run": "local"}, "local.yaml")
    checkout.settings = {"CUDA_VISIBLE_DEVICES": "0,1"}
    targets = [checkout.rows_file(task) for task in TASKS]
    command = [*targets, "--cores", "2", "--resources", "gpu=2", "--configfile", name]
    checkout.python("snakemake", *command)
    checkout.settings = {}
    gpus = [re.findall(r"SLURM job (\S+), GPUs \[(.*)\]", checkout.log(task)) for task in TASKS]
    assert {tuple(starts) for starts in gpus} <= {(("-", "0"),), (("-", "1"),)}
    return {task: checkout.rows(task) for task in TASKS}


@pytest.fixture(scope="module")
def workflow_log(checkout: Copy, local: object) -> str:
    """What was said of a run that lost two jobs, its node for a while, and snakemake itself.

    The node is drained at work: what runs there continues, and the retry of a killed job waits.
    """
    checkout.use(CONFIG, "config/paper.yaml")
    node = f"NodeName={one_node.node()}"

    def kill_and_drain(holder: Holder) -> None:
        admin("scontrol", "update", node, "State=DRAIN", "Reason=test")
        os.kill(holder.pid, signal.SIGKILL)

    shots: dict[str, Callable[[Holder], object]] = {
        "vt": kill_and_drain,
        "multikey": lambda holder: admin("scancel", str(holder.slurm_job)),
        # It still runs when people come back to what a killed snakemake has left.
        "single": lambda holder: os.kill(holder.pid, signal.SIGSTOP),
    }
    workflow = checkout.start("snakemake", *PROFILE)

    def shot() -> bool:
        for task in list(shots):
            if holder := checkout.writer(task):
                shots.pop(task)(holder)
        return not shots

    def retries() -> list[dict[str, str]]:
        shot()
        return slurm_jobs("rule_generate_wildcards_tiny_tiny_vt")[1:]

    checkout.until(workflow, retries)
    assert [job["JobState"] for job in retries()] == ["PENDING"]
    admin("scontrol", "update", node, "State=RESUME")
    checkout.until(workflow, shot)

    def retries_have_ended() -> bool:
        """Snakemake knows of it: what it does not know to be complete, it would refuse first."""
        log = max((checkout.folder / ".snakemake" / "log").iterdir()).read_text("utf-8")
        return len(re.findall(r"Finished jobid: \d+ \(Rule: generate\)", log)) == 2

    checkout.until(workflow, retries_have_ended)
    workflow.kill()
    first, _ = workflow.communicate()

    refused = checkout.start("snakemake", *PROFILE)
    assert "Directory cannot be locked" in refused.communicate()[0]
    return first + checkout.python("proxykv", "recover", "snakemake", *PROFILE)


def admin(*command: str) -> None:
    subprocess.run(command, check=True)


def test_the_rows_equal_those_of_a_local_run(
    workflow_log: str, checkout: Copy, local: dict[str, pd.DataFrame]
) -> None:
    for task in TASKS:
        ours, theirs = (t.drop(columns=MEASURED) for t in (checkout.rows(task), local[task]))
        pd.testing.assert_frame_equal(ours, theirs)
        assert len(set(ours["context_id"])) == 8
    assert (checkout.folder / checkout.run.dir / "report" / "index.html").exists()


def test_no_context_was_answered_twice_and_none_is_lost(workflow_log: str, checkout: Copy) -> None:
    for task in TASKS:
        log = checkout.log(task)
        assert len(re.findall(r"host \S+, SLURM job \d+", log)) > 1, "there were two attempts"
        answered = checkout.contexts(task, "answered")
        assert len(answered) == len(set(answered)), log
        # A kill can fall between a context's last byte in the journal and its line in the log.
        assert len(answered) >= 7, log
        contexts = set(answered) | set(checkout.contexts(task, "was done"))
        assert contexts == set(checkout.rows(task)["context_id"])


def test_the_jobs_of_a_killed_snakemake_end_before_others_start(
    workflow_log: str, checkout: Copy
) -> None:
    orphan, second = slurm_jobs("rule_generate_wildcards_tiny_tiny_single")
    assert (orphan["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")
    assert second["StartTime"] >= orphan["EndTime"]


def test_model_jobs_have_gpus_of_their_own_and_no_other_job_has_one(
    workflow_log: str, checkout: Copy
) -> None:
    with_gpu = [job for job in slurm_jobs("rule_") if job.get("TresPerJob") == "gres:gpu:1"]
    names = {re.sub("_wildcards.*", "", job["Comment"]) for job in with_gpu}
    assert names == {"rule_fit", "rule_generate"}
    assert {job["Partition"] for job in with_gpu} == {"gpu"}
    others = [job for job in slurm_jobs("rule_") if job not in with_gpu]
    assert {job["Partition"] for job in others} == {"cpu"}
    assert not [job for job in others if "gpu" in str(job)]

    gpu_of = dict(re.findall(r"SLURM job (\d+), GPUs \[(.*)\]", checkout.logs()))
    assert set(gpu_of.values()) == {"0", "1"}
    generating = [job for job in with_gpu if job["Comment"].startswith("rule_generate")]
    run_in_parallel = [
        (one, other)
        for one, other in combinations(generating, 2)
        if one["StartTime"] < other["EndTime"] and other["StartTime"] < one["EndTime"]
    ]
    assert run_in_parallel, "two jobs fit on the node at the same time"
    for one, other in run_in_parallel:
        assert gpu_of[one["JobId"]] != gpu_of[other["JobId"]]


def test_a_retry_asks_for_half_as_much_memory_and_time_again(workflow_log: str) -> None:
    killed, second = slurm_jobs("rule_generate_wildcards_tiny_tiny_vt")[:2]
    # How the second ends is left open: it may be among what the killed snakemake leaves behind.
    assert killed["JobState"] == "FAILED"
    assert (killed["MinMemoryNode"], second["MinMemoryNode"]) == ("2000M", "3000M")
    assert (killed["TimeLimit"], second["TimeLimit"]) == ("00:30:00", "00:45:00")


def test_only_local_rules_run_outside_slurm(workflow_log: str, checkout: Copy) -> None:
    assert set(re.findall(r"^localrule (\w+):", workflow_log, re.MULTILINE)) <= {"all", "prepare"}
    assert "SLURM job -" not in checkout.logs()


def test_small_jobs_share_submissions(workflow_log: str) -> None:
    assert len(slurm_jobs("rule_grade")) < len(TASKS)
    assert len(slurm_jobs("rule_report_plot_report_tabulate")) == 1
