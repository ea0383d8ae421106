"""What differs in how runs were made: config, code, models, versions, machines."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.config.run import Run
from proxykv.report.tables import read_rows
from proxykv.report.tabulate import provenance

ABSENT = "–"
LEFT_OUT = ("rows", "created", "config_hash")
"""Facts of provenance that say nothing more than the config, or always differ."""


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder has it.

    Attributes:
        name: what the page calls it.
        config: contents of its `config.json`.
        methods: cards of its methods.
        rows: its rows.
    """

    name: str
    config: Mapping[str, Any]
    methods: MethodCards
    rows: pd.DataFrame


def read_run(folder: Path) -> StoredRun:
    """Read a run from `results/<run>`, or a copy of it.

    Args:
        folder: the run's folder.

    Raises:
        ConfigError: if it holds no run, or no rows.
    """
    run = Run.read(folder / "config.json", made=True)
    files = (folder / job.file("rows").relative_to(run.dir) for job in run.jobs())
    rows = read_rows(path for path in files if path.is_file())
    return StoredRun(str(folder), run.config, MethodCards.read(folder), rows)


def differences(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """Everything in config and provenance that is not the same in all runs.

    Args:
        runs: at least two.

    Returns:
        Columns `what`, then one for each run. Of lists only the entries that some run lacks are
        shown.
    """
    facts = [dict(_facts(run)) for run in runs]
    names = list(dict.fromkeys(name for made in facts for name in made))
    records = []
    for name in names:
        values = [made.get(name, ABSENT) for made in facts]
        if any(value != values[0] for value in values):
            shown = _without_shared(values) if isinstance(values[0], list) else map(str, values)
            records.append({"what": name, **{r.name: t for r, t in zip(runs, shown, strict=True)}})
    return pd.DataFrame(records, columns=["what", *(run.name for run in runs)])


def _facts(run: StoredRun) -> Iterator[tuple[str, Any]]:
    config = {key: value for key, value in run.config.items() if key != "run"}
    yield from _flat("config", config)
    for family, facts in provenance(run.rows).items():
        yield from _flat(f"rows of {family}", {k: v for k, v in facts.items() if k not in LEFT_OUT})


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what is in nested mappings; lists stay whole, as texts."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}: {key}", inner)
    elif isinstance(value, list):
        yield name, [v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in value]
    else:
        yield name, json.dumps(value)


def _without_shared(values: Sequence[Any]) -> Iterator[str]:
    lists = [value if isinstance(value, list) else [] for value in values]
    shared = set(lists[0]).intersection(*lists[1:])
    for value, listed in zip(values, lists, strict=True):
        rest = [item for item in listed if item not in shared]
        yield ABSENT if value == ABSENT else ", ".join(rest) or "(nothing else)"
