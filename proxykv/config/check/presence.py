"""Whether all that a run starts from is there: text, records, shapes of models, ready mappers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxykv.config import sources
from proxykv.runtime.errors import ConfigError

if TYPE_CHECKING:
    from proxykv.config.run import Run


def presence_problems(run: Run) -> list[str]:
    """What is missing of all that a run starts from, a line each."""
    unset = sources.unset_variables(run.config)
    return [
        *(unset or sources.missing_paths(run.config)),
        *_folder_problems(run),
        *(problem for family in run.families for problem in _family_problems(run, family)),
    ]


def _folder_problems(run: Run) -> Iterator[str]:
    """A file where the run makes a folder."""
    for key, folder in (("run", run.dir), ("cache", run.cache)):
        if folder.exists() and not folder.is_dir():
            yield f"config.{key}: {folder} is a file; choose another name"


def _family_problems(run: Run, family: str) -> Iterator[str]:
    """Models without a shape, and methods that are said to be fitted and are not."""
    for role in ("target", "proxy"):
        try:
            run.model_shape(family, role)
        except ConfigError as error:
            yield str(error)
    for fitted_id in run.fitted_ids:
        ready = run.ready(family, fitted_id)
        if ready and not (ready / "card.json").is_file():
            yield (
                f"config.methods: {fitted_id}: nothing fitted in {ready}; `proxykv pull` "
                "it there, or correct `fitted`"
            )
