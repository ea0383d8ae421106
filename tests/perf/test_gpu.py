"""`perf/gpu.sh`: every section runs in miniature; what fails or runs out of time is a line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from perf.gpu.candidates import plan_pays_from
from perf.gpu.rows import BARS, limit, peaks, verdict
from perf.gpu.runner import SECTIONS
from proxykv.config.catalog import ROOT
from proxykv.kernels.choice import choose
from proxykv.model.devices import device_of


def run(out: Path, *options: str, code: int = 0, **variables: str) -> dict[str, Any]:
    """The document of a run in miniature, which ends with an exit code."""
    command = [ROOT / "perf" / "gpu.sh", "--miniature", "--out", out, *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith((out / "table.md").read_text("utf-8") + "\n")
    return json.loads((out / "results.json").read_text("utf-8"))


def test_every_section_runs_and_a_failing_one_is_a_line(tmp_path: Path) -> None:
    found = run(tmp_path, code=1, KVPRESS_PYTHON="false")
    trouble = {section["section"]: section["trouble"] for section in found["sections"]}
    assert list(trouble) == list(SECTIONS)
    assert trouble.pop("versus_kvpress").startswith("failed")
    assert not any(trouble.values()), trouble
    assert {row["section"] for row in found["rows"]} == set(trouble)
    assert set(found["not_measured"]) <= {"… of which scores: llama-3.1 target, 64k"}
    ran = str(choose(device_of("auto"), torch.float32, 16))
    for row in found["rows"]:
        if row["verdict"]:
            assert (row["verdict"], row["kernels"]) == ("miniature", ran)
        assert row["limit"] is None or row["limit"] > 0
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert [line[3:] for line in log.splitlines() if line.startswith("== ")] == list(SECTIONS)
    table = (tmp_path / "table.md").read_text("utf-8")
    assert all(name in table for name in (*BARS, *found["versions"], *found["formulas"]))


def test_without_time_there_is_a_table_of_what_was_not_measured(tmp_path: Path) -> None:
    found = run(tmp_path, "--minutes", "0")
    assert {section["trouble"] for section in found["sections"]} == {"not run: the time was up"}
    assert found["not_measured"] == list(BARS)


TOKEN = "a token: pruned, 64k, ρ 0.1"
PEAKS: list[dict[str, Any]] = [
    {"what": "matrix product", "values": [799.0, 800, 801]},
    {"what": "copy", "values": [2.5]},
]


def row(what: str, unit: str, value: float, kernels: str = "triton (Triton 3.6.0)") -> Any:
    return {"what": what, "unit": unit, "values": [value], "kernels": kernels, "flops": 0} | {
        "bytes": 5e9
    }


def test_limits_are_work_over_measured_peaks() -> None:
    peak = peaks(PEAKS)
    assert limit(row(TOKEN, "ms", 1), peak) == pytest.approx(2)
    assert limit({**row(TOKEN, "s", 1), "flops": 8e12}, peak) == pytest.approx(0.01)
    assert limit(row(TOKEN, "ms", 1), {}) is None


@pytest.mark.parametrize(
    ("case", "obstacle", "expected"),
    [
        (row(TOKEN, "ms", 2.3), "", "met"),
        (row(TOKEN, "ms", 2.5), "", "missed"),
        (row(TOKEN, "ms", 2.3, "reference (no NVIDIA GPU)"), "", "reference ran"),
        (row(TOKEN, "ms", 2.3), "not an H100", "not an H100"),
        (row("best full / pruned: 64k, ρ 0.1", "×", 1.3), "", "met"),
        (row("best full / pruned: 64k, ρ 0.1", "×", 1.1), "", "missed"),
        (row("another case", "ms", 1), "", ""),
    ],
)
def test_verdicts_compare_with_the_bar(case: Any, obstacle: str, expected: str) -> None:
    assert verdict(case, limit(case, peaks(PEAKS)) if case["unit"] != "×" else None, obstacle) == (
        expected
    )


def test_a_plan_pays_where_all_layers_save_its_time() -> None:
    """At 16k, 32 layers save 2 ms each; at 1.25 times the length 1.25² as much: 100 ms."""
    assert plan_pays_from(16_000, 32, flash=5, planned=3, plan=100) == pytest.approx(20_000)
    assert plan_pays_from(16_000, 32, flash=5, planned=3, plan=-1) == 0
    assert plan_pays_from(16_000, 32, flash=3, planned=3, plan=100) is None
