"""Scans of time and memory in a config: their cases, and one clear line for each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from valid_config import valid

from proxykv.config.check import config_problems
from proxykv.config.efficiency import measuring_job, measuring_jobs, resources
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError

SCAN: dict[str, Any] = {
    "name": "latency",
    "methods": ["full", "kvzip", "proxykv"],
    "schedules": ["sequential", "parallel"],
    "lengths": [256, 64, 65536],
    "retentions": [0.1, 0.3],
    "batches": [1, 4],
}


def config(**changes: Any) -> dict[str, Any]:
    scan = {key: value for key, value in {**SCAN, **changes}.items() if value is not None}
    return {**valid(), "efficiency": [scan]}


def test_cases_of_a_scan() -> None:
    (job,) = measuring_jobs(Run(config()))
    # Lengths above the family's window are left out; the full cache has no retention.
    assert {case.tokens for case in job.cases} == {64, 256}
    of_one = [c for c in job.cases if (c.tokens, c.batch) == (64, 4)]
    assert [(c.method, c.schedule, c.retention) for c in of_one] == [
        ("full", "sequential", 1.0),
        ("kvzip", "sequential", 0.1),
        ("proxykv", "sequential", 0.1),
        ("proxykv", "parallel", 0.1),
        ("kvzip", "sequential", 0.3),
        ("proxykv", "sequential", 0.3),
        ("proxykv", "parallel", 0.3),
    ]
    assert job.scan.repeats == 5 and job.inputs == "random"
    assert str(job.file) == "results/test/efficiency/tiny/latency.parquet"


def test_inputs_are_the_runs_own_data() -> None:
    run = Run(config(inputs={"benchmark": "tiny", "tasks": ["single"]}))
    (job,) = measuring_jobs(run)
    assert list(job.datasets) == run.datasets("tiny", "eval")
    assert job.inputs == "tiny: single"


def test_a_scan_decides_the_number_of_gpus() -> None:
    run = Run(config(families=["llama-3"], weights="random", gpus=2, methods=["full", "kvzip"]))
    (job,) = measuring_jobs(run)
    assert job.family == "llama-3" and resources(run, job)["gpu"] == 2
    with pytest.raises(ConfigError, match="measures no llama-3 other; known: llama-3 latency"):
        measuring_job(run, "llama-3", "other")


WHERE = "config.efficiency[0]"
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "few repeats": ({"repeats": 4}, f"{WHERE}.repeats: 4 is less than the minimum of 5"),
    "retention 1": (
        {"retentions": [1.0]},
        f"{WHERE}.retentions[0]: 1.0 is greater than or equal to the maximum of 1",
    ),
    "no lengths": ({"lengths": None}, f"{WHERE}: 'lengths' is a required property"),
    "twice": ({"retentions": [0.1, 0.1]}, f"{WHERE}.retentions: 0.1 is listed 2 times"),
    "nearly twice": (
        {"retentions": [0.1, 0.1000000001]}, f"{WHERE}.retentions: 0.1 is listed 2 times"
    ),
    "batches without end": (
        {"batches": [10**9]},
        f"{WHERE}.batches[0]: 1000000000 is greater than the maximum of 1024",
    ),
    "answers without end": (
        {"new_tokens": 10**9},
        f"{WHERE}.new_tokens: 1000000000 is greater than the maximum of 65536",
    ),
    "questions without end": (
        {"question_tokens": 65537},
        f"{WHERE}.question_tokens: 65537 is greater than the maximum of 65536",
    ),
    "unknown method": (
        {"methods": ["full", "kvzipp"]},
        f"{WHERE}.methods: the run has no method 'kvzipp'; did you mean 'kvzip'?",
    ),
    "no full cache": (
        {"methods": ["kvzip"]},
        f"{WHERE}.methods: 'full' is missing; add it: speed-ups over the prefill need it",
    ),
    "unknown task": (
        {"inputs": {"benchmark": "tiny", "tasks": ["vt"]}},
        f"{WHERE}.inputs: `benchmarks` of the run lack tiny/vt; known: single",
    ),
    "real inputs for random weights": (
        {"weights": "random", "inputs": {"benchmark": "tiny", "tasks": ["single"]}},
        f"{WHERE}.inputs: random weights read random ids; remove `inputs`, or `weights`",
    ),
    "unknown family": (
        {"families": ["tinny"]},
        f"{WHERE}.families: no file config/families/tinny.yaml; did you mean 'tiny'?",
    ),
    "another family with trained weights": (
        {"families": ["llama-3"]},
        f"{WHERE}.families: 'llama-3' is not a family of the run, which fits no method for it; "
        "add it to `families` or choose weights: random",
    ),
    "unknown architecture": (
        {"families": ["qwen-coder"], "weights": "random", "lengths": [64]},
        f"{WHERE}.weights: config/families/qwen-coder.yaml.target has no 'architecture', which "
        "random weights need; add it",
    ),
    "GPUs of a CPU": (
        {"gpus": 2}, f"{WHERE}.gpus: family 'tiny' runs on the CPU; remove `gpus`"
    ),
    "lengths beyond the window": (
        {"lengths": [65536]},
        f"{WHERE}.lengths: family 'tiny' may see no more than 8192 tokens (max_context of its "
        "file); add a shorter length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str) -> None:
    changes, line = MISTAKES[name]
    assert line in config_problems(config(**changes))


def test_names_differ() -> None:
    twice = config()
    twice["efficiency"] *= 2
    assert "config.efficiency: 'latency' is listed 2 times" in config_problems(twice)


def test_layer_inputs_need_trained_weights() -> None:
    changed = config(weights="random", methods=["full", "surrogate"])
    changed["methods"].append("surrogate")
    (line,) = config_problems(changed)
    assert line == (
        f"{WHERE}.methods: 'surrogate' is fitted on the target's layer inputs, which random "
        "weights lack; remove it or choose weights: trained"
    )
