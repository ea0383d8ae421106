"""How far what is fitted carries over: every fitted method on every held-out part and length.

Held-out contexts are those of the corpus on which nothing is fitted (`held_out`), neither to choose
a step. Their scores are stored with the others', so that no model runs here and nothing is decoded.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pandas as pd

from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import contexts
from proxykv.mapper.fidelity import fidelity, rank_correlation
from proxykv.report.plots import draw_figure
from proxykv.report.stats import mean_ci
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import write_csv
from proxykv.steps.extract import stored

ALL = "all"
KEYS = ["family", "method", "fitted_on", "fitted_lengths", "part", "length", "metric", "retention"]
COLUMNS = [*KEYS, "mean", "ci_low", "ci_high", "n_contexts", "tokens"]


def transfer(run: Run) -> None:
    """Write `tables/fidelity.csv` (see `fidelity_table`) and draw it."""
    path = run.dir / "tables" / "fidelity.csv"
    write_csv(path, fidelity_table(run))
    # No rows: nothing has been decoded.
    draw_figure("transfer", pd.DataFrame(), run.dir, run.dir / "figures")


def fidelity_table(run: Run) -> pd.DataFrame:
    """Mean fidelity (see `proxykv.mapper.fidelity`) by method, part of corpus and length.

    `fitted_on` and `fitted_lengths` say what the method has seen; `length` and these are `all`
    where nothing is singled out; `retention` is empty for the rank correlation; `tokens` is how
    many of a context's tokens were compared, on average. Intervals are over contexts.

    Raises:
        ConfigError: if nothing is held out, or nothing is fitted.
    """
    figures = pd.DataFrame([row for family in run.families for row in _figures(run, family)])
    if figures.empty:
        raise ConfigError(
            "config.corpus: no context is held out of it, or no method is fitted; give its entries "
            "`held_out`, the contexts per task to be tested on"
        )
    both = pd.concat([figures.assign(length=ALL), figures])
    records = []
    for keys, part in both.groupby(KEYS, sort=False, dropna=False):
        mean = mean_ci([part["value"].to_numpy()])
        records.append([*keys, *mean, len(part), part["tokens"].mean()])
    return pd.DataFrame(records, columns=COLUMNS)


def _figures(run: Run, family: str) -> Iterator[dict[str, Any]]:
    """Every figure of every fitted method on every held-out context."""
    files = {path.stem: path for path in stored(paths.score_lists(run, family))[0]}
    for fitted_id in run.fitted_ids:
        method = run.methods[fitted_id]
        fitting = importlib.import_module(catalog.module_of(method.base)[0])
        predict = fitting.predictor(paths.fitted_dir(run, family, fitted_id), method.params)
        for context in contexts(run, family):
            if not context.held_out:
                continue
            predicted, target = predict(files[context.name])
            figures = fidelity(predicted, target)
            figures["rank_correlation"] = rank_correlation(predicted, target)
            for name, value in figures.items():
                metric, _, retention = name.partition("@")
                yield {
                    "family": family,
                    "method": fitted_id,
                    "fitted_on": " ".join(method.corpus) or ALL,
                    "fitted_lengths": " ".join(map(str, method.lengths)) or ALL,
                    "part": context.part,
                    "length": str(context.length),
                    "metric": metric,
                    "retention": float(retention) if retention else None,
                    "value": value,
                    "tokens": target.shape[-1],
                }
