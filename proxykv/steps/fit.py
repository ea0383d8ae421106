"""Fit what a method learns from stored scores."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError
from proxykv.steps.corpus import fitted_on
from proxykv.steps.scores import stored
from proxykv.steps.screen import kept


def fit(run: Run, family: str, artefact: str) -> Path:
    """Fit a method of the run with the `fit` of its file; returns its folder.

    The run's `training` settings and the method's own parameters, which win, decide how. Training
    contexts that share text with an evaluation context are left out, and what the method or the
    corpus excludes. Raises ConfigError if none is left.
    """
    method = run.fitted(artefact)
    files, pair = stored(run.score_lists(family))
    dropped = json.loads(run.dropped(family).read_text("utf-8"))
    wanted = fitted_on(run, family, method)
    clean = [path for path in kept(files, dropped) if path.stem in wanted]
    if not clean:
        raise ConfigError(
            f"{artefact}: no context is left to fit on; widen its `corpus`, `lengths`"
        )
    corpus = digest(sorted(path.name for path in clean))
    screening = {**run.config["decontamination"], "dropped": dropped}
    identity = {**pair, "corpus": corpus, "decontamination": screening}
    out = run.artefact_dir(family, artefact)
    module = importlib.import_module(catalog.module_of(method.base)[0])
    module.fit(clean, out, {"seed": run.seed, **run.training, **method.params}, identity)
    return out
