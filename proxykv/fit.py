"""Fit what a method learns from stored scores."""

from __future__ import annotations

import importlib
from pathlib import Path

from proxykv.scores import stored
from proxykv.spec import Run


def fit(run: Run, family: str, artefact: str) -> Path:
    """Fit a method of the run with the `fit` of its file; returns its folder.

    The run's `training` settings and the method's own parameters, which win, decide how.
    """
    method = run.methods[artefact]
    files, identity = stored(run.scores_dir(family) / "index.json")
    out = run.artefact_dir(family, artefact)
    module = importlib.import_module(f"baselines.{method.base}")
    module.fit(files, out, {"seed": run.seed, **run.training, **method.params}, identity)
    return out
