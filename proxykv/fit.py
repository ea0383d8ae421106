"""Fit what a method learns from stored scores."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from proxykv import catalog
from proxykv.scores import stored
from proxykv.screen import kept
from proxykv.spec import Run


def fit(run: Run, family: str, artefact: str) -> Path:
    """Fit a method of the run with the `fit` of its file; returns its folder.

    The run's `training` settings and the method's own parameters, which win, decide how. Training
    contexts that share text with an evaluation context are left out.
    """
    method = run.methods[artefact]
    files, pair = stored(run.score_lists(family))
    dropped = json.loads(run.dropped(family).read_text("utf-8"))
    clean = kept(files, dropped)
    corpus = catalog.digest(sorted(path.name for path in clean))
    screening = {**run.config["decontamination"], "dropped": dropped}
    identity = {**pair, "corpus": corpus, "decontamination": screening}
    out = run.artefact_dir(family, artefact)
    module = importlib.import_module(f"baselines.{method.base}")
    module.fit(clean, out, {"seed": run.seed, **run.training, **method.params}, identity)
    return out
