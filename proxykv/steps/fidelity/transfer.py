"""Transfer of fitted methods: fidelity of each on every held-out part and length of the corpus.

Held-out contexts (`held_out` of the corpus) are neither fitted on nor used to choose a step. Their
scores are stored too, so no model runs here and nothing is decoded.
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
from proxykv.report.tabulate import write_table
from proxykv.runtime.errors import ConfigError
from proxykv.steps.extract import stored

ALL = "all"
KEYS = ["family", "method", "fitted_on", "fitted_lengths", "part", "length", "metric", "retention"]
COLUMNS = [*KEYS, "mean", "ci_low", "ci_high", "n_contexts", "tokens"]


def transfer(run: Run) -> None:
    """Write `fidelity` (see `fidelity_table`) as a table and draw it."""
    write_table(run.dir / "tables" / "fidelity.csv", fidelity_table(run), run.cards)
    # No rows: nothing has been decoded.
    draw_figure("transfer", pd.DataFrame(), run.dir, run.dir / "figures")


def fidelity_table(run: Run) -> pd.DataFrame:
    """Mean fidelity (see `proxykv.mapper.fidelity`) by method, part of corpus and length.

    `fitted_on` and `fitted_lengths` are the parts and lengths that the method was fitted on. They
    and `length` are `all` where the row covers all. `retention` is empty for the rank correlation.
    `tokens` is the mean number of compared tokens of a context. Intervals are over contexts.

    Raises:
        ConfigError: if nothing is held out, or nothing is fitted.
    """
    values = pd.DataFrame([row for family in run.families for row in _fidelities(run, family)])
    if values.empty:
        raise ConfigError(
            "config.corpus: no context is held out of it, or no method is fitted; give its entries "
            "`held_out`, the contexts per task to be tested on"
        )
    both = pd.concat([values.assign(length=ALL), values])
    records = []
    for keys, part in both.groupby(KEYS, sort=False, dropna=False):
        mean = mean_ci([part["value"].to_numpy()])
        records.append([*keys, *mean, len(part), part["tokens"].mean()])
    return pd.DataFrame(records, columns=COLUMNS)


def _fidelities(run: Run, family: str) -> Iterator[dict[str, Any]]:
    """Fidelity of every fitted method on every held-out context, a row for each metric."""
    files = {path.stem: path for path in stored(paths.score_lists(run, family))[0]}
    for fitted_id in run.fitted_ids:
        method = run.methods[fitted_id]
        fitting = importlib.import_module(catalog.module_of(method.base)[0])
        predict = fitting.predictor(paths.fitted_dir(run, family, fitted_id), method.params)
        for context in contexts(run, family):
            if not context.held_out:
                continue
            predicted, target = predict(files[context.name])
            metrics = fidelity(predicted, target)
            metrics["rank_correlation"] = rank_correlation(predicted, target)
            for name, value in metrics.items():
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
