"""One thread, offline; properties drawn alike each time; shapes checked at run time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", OMP_NUM_THREADS="1")
if not Path("/dev/nvidiactl").exists():  # no GPU: Triton's interpreter runs the kernels
    os.environ["TRITON_INTERPRET"] = "1"  # before torch imports Triton

import jaxtyping
import pytest
import torch
from hypothesis import settings

pytest_plugins = ["method_fixture", "checkout", "finished_run"]
torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("tests")
SHAPED = {
    "kernels": (
        "attention",
        "layout",
        "likelihood",
        "masked_attention",
        "ragged_attention",
        "replay",
        "replay_scores",
    ),
    "model": ("caches", "decode", "greedy", "prefill"),
    "scoring": ("hidden_states", "kvzip", "proxy", "selection"),
    "mapper": ("fidelity", "hybrid", "layer_inputs", "loss", "proxykv"),
}
# Before any test module imports the package.
jaxtyping.install_import_hook(
    ["baselines", *(f"proxykv.{folder}.{name}" for folder in SHAPED for name in SHAPED[folder])],
    "shape_check.typechecked",
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations go unchecked, as outside the tests: for what callers get wrong at run time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as a short `make run` leaves it: with a mapper of the tiny family."""
    from proxykv.config import catalog
    from proxykv.config.run import Run
    from proxykv.steps.extract import extract
    from proxykv.steps.fit import fit
    from proxykv.steps.prepare import prepare
    from proxykv.steps.screen import screen

    root = tmp_path_factory.mktemp("trained")
    (root / "models").symlink_to(catalog.ROOT / "models")
    tasks = {"benchmark": "tiny", "tasks": ["single", "multikey"], "contexts": 8, "lengths": [96]}
    run = Run(
        {
            "run": "tiny",
            "families": ["tiny"],
            "methods": ["full", "proxykv"],
            "retentions": [0.5, 1.0],
            "benchmarks": [tasks],
            "corpus": [tasks],
            "training": {"steps": 60, "val_contexts": 2, "eval_every": 60},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for split in ("train", "eval"):
            for dataset in run.datasets("tiny", split):
                prepare(run, dataset)
        extract(run, "tiny", 0)
        screen(run, "tiny")
        fit(run, "tiny", "proxykv")
    return root
