"""A new term of the loss is one function: config, checks, log and training know it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from checkout import copy_project

TERM = '''

@loss_term(0.0)
def level_loss(logits: Logits, target: Logits, generator: torch.Generator) -> Scalar:
    """Squared distance of the mean logit from 3."""
    return (logits.mean() - 3).square()
'''
CODE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from proxykv.config.run import Run

run = Run(json.loads(Path("config.json").read_text()))
from proxykv.mapper import proxykv
files = [Path(f"{i}.safetensors") for i in range(3)]
for i, path in enumerate(files):
    scores = torch.rand(2, 2, 40, generator=torch.Generator().manual_seed(i))
    save_file({"target": scores, "proxy": scores.clone()}, path)
proxykv.fit(files, Path("out"), {**run.training, **run.methods["proxykv"].params}, {})
"""


def test_one_function_is_a_term_that_a_config_can_weigh(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    source = project / "proxykv" / "mapper" / "loss.py"
    source.write_text(source.read_text("utf-8") + TERM, "utf-8")
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 3, "lengths": [40]}
    config = {
        "run": "r",
        "families": ["tiny"],
        "retentions": [0.5, 1.0],
        "methods": ["full", "proxykv"],
        "benchmarks": [dataset],
        "corpus": [dataset],
        "training": {"steps": 2, "val_contexts": 1, "warmup": 0, "weights": {"level": 1.0}},
    }
    work = tmp_path / "work"
    work.mkdir()
    (work / "config.json").write_text(json.dumps(config))
    subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(project)},
        check=True,
    )
    lines = [json.loads(line) for line in (work / "out" / "log.jsonl").read_text().splitlines()]
    first, second = (line for line in lines if line["split"] == "train")
    assert first["total"] == first["level"] > second["level"] > 0
    assert first.keys() >= {"bin", "mse", "fine", "global", "cos"}
    assert json.loads((work / "out" / "card.json").read_text())["training"]["weights"] == {
        "level": 1.0
    }
