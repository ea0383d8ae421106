"""Fit what a method learns from stored scores."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from proxykv.config import catalog, paths
from proxykv.config.keys.code import fit_digest
from proxykv.config.run import ROLES, Run
from proxykv.mapper.corpus import fitted_on
from proxykv.mapper.fitted import copy_fitted
from proxykv.model.parallel import memory_for
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError
from proxykv.steps.extract import stored
from proxykv.steps.screen import kept


def fit(run: Run, family: str, fitted_id: str) -> Path:
    """Fit a method of the run with the function `fit` of its file, or copy it if it is fitted.

    It is fitted on the contexts of its parts and lengths of the corpus, except those that are held
    out and those that share text with an evaluation context. The method's parameters override the
    run's `training`.

    Args:
        run: the run.
        family: one of its families.
        fitted_id: id of a method that is fitted.

    Returns:
        The folder of the fitted method.

    Raises:
        ConfigError: if no context is left, or what is fitted already is for another pair.
    """
    method = run.fitted_method(fitted_id)
    out = paths.fitted_dir(run, family, fitted_id)
    if ready := run.ready(family, fitted_id):
        target, proxy = (run.model(family, role).pair_entries(role) for role in ROLES)
        return copy_fitted(ready, out, target | proxy)
    files, pair = stored(paths.score_lists(run, family))
    dropped = json.loads(paths.dropped(run, family).read_text("utf-8"))
    allowed = fitted_on(run, family, method)
    clean = [path for path in kept(files, dropped) if path.stem in allowed]
    if not clean:
        raise ConfigError(
            f"{fitted_id}: no context is left to fit on; widen its `corpus`, `lengths`"
        )
    corpus = digest(sorted(path.name for path in clean))
    screening = {**run.config["decontamination"], "dropped": dropped}
    lists = [json.loads(p.read_text("utf-8")) for p in paths.fitting_lists(run, family, fitted_id)]
    identity = {
        **pair,
        "corpus": corpus,
        "decontamination": screening,
        # A training that an edit of the code interrupted must not go on.
        "code": fit_digest(method),
        "stored_by": sorted({listed["made_by"] for listed in lists}),
    }
    module = importlib.import_module(catalog.module_of(method.base)[0])
    with memory_for(fitted_id, "`crop` or `batch` of its training, or the corpus' `lengths`"):
        module.fit(clean, out, {"seed": run.seed, **run.training, **method.params}, identity)
    return out
