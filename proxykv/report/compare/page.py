"""The page about several runs, and its tables as CSV."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv import __version__
from proxykv.report.build import page_template
from proxykv.report.cells import Table, number, plain, pretty
from proxykv.report.compare.made import StoredRun, differences, read_run
from proxykv.report.compare.pairs import paired, shared
from proxykv.report.plots import Look, looks
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import write_csv


def compare_runs(folders: Sequence[Path], out_dir: Path) -> Path:
    """Write a page about runs, and its tables as CSV. Every run is compared with the first.

    Args:
        folders: of the runs, at least two.
        out_dir: where `index.html`, `made.csv`, `shared.csv` and `paired.csv` go.

    Returns:
        The page.

    Raises:
        ConfigError: if there are not two runs, or a folder holds none.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("proxykv compare: give the folders of two or more different runs")
    runs = [read_run(folder) for folder in folders]
    first, *others = runs
    made = differences(runs)
    tables = {
        name: pd.concat(
            [make(first.rows, run.rows).assign(run=run.name) for run in others], ignore_index=True
        )
        for name, make in (("shared", shared), ("paired", paired))
    }
    for name, table in {"made": made, **tables}.items():
        write_csv(out_dir / f"{name}.csv", table)
    page = out_dir / "index.html"
    styles = _styles(runs)
    html = page_template("compare.html.j2").render(
        runs=[run.name for run in runs],
        made=plain(made, id="made", caption="What differs", styles={}, show={}),
        shared=_shared(tables["shared"]),
        paired=_paired(tables["paired"], styles),
        version=__version__,
    )
    files.write_text(page, html)
    return page


def _styles(runs: Sequence[StoredRun]) -> dict[str, Look]:
    found: dict[str, Look] = {}
    for run in runs:
        found = looks(run.methods, run.rows.method.unique()) | found
    return found


def _shared(table: pd.DataFrame) -> Table:
    show = dict.fromkeys(("same_text_%", "same_kept_pairs_%"), lambda value: number(value, 1))
    columns = ["run", *(c for c in table.columns if c != "run")]
    caption = "Contexts and answers that the first run and another share"
    return plain(table[columns], id="shared", caption=caption, styles={}, show=show)


def _paired(table: pd.DataFrame, styles: Mapping[str, Look]) -> list[Table]:
    """One table for each metric."""
    kinds = {"score": "Score (higher is better)", "kl": "KL in nats per token (lower is better)"}
    show: dict[str, Callable[[Any], str]] = {
        **dict.fromkeys(("difference", "ci_low", "ci_high"), lambda v: number(v, sign=True)),
        **dict.fromkeys(("p", "p_holm", "mde"), number),
        "method": lambda method: styles[method].label,
        "retention": pretty,
    }
    tables = []
    for metric, title in kinds.items():
        part = table[table.metric == metric].drop(columns="metric")
        columns = ["run", *(c for c in part.columns if c != "run")]
        if table.run.nunique() == 1:
            columns.remove("run")
        tables.append(
            plain(
                part[columns], id=f"paired-{metric}", caption=title, styles=styles, show=show
            )
        )  # fmt: skip
    return tables
