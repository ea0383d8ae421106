"""Tables for papers, in LaTeX (booktabs): the best value is bold, a tie with it is underlined.

A tie is a value whose 95 % interval holds the best one. The full cache, which prunes nothing, takes
no part. A document needs the package `booktabs`, and `longtable` for what is longer than a page;
labels that are not in Latin letters need LuaLaTeX.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.cells import KL, RECOVERY, SCORE, Metric, number, pretty
from proxykv.report.tables.columns import CELL, POOLS

PAGE = 50
"""Lines of a table on one page."""
WIDE = 40
"""Signs from which on the lines of a text are broken."""
GRIDS: Mapping[str, tuple[Sequence[str], str, Sequence[Metric]]] = {
    "leaderboard": (CELL, "retention", [SCORE]),
    "per_task": ([*CELL, "task"], "retention", [SCORE]),
    "summary": (CELL, "pool", [SCORE, RECOVERY, KL]),
}
"""Tables with a line per method: what they are grouped by, what is across, and the numbers."""
COLUMNS = {
    "quality_cost": [*CELL, "method", "prefills", "seconds", "mean", "recovery", "kl"],
    "paired": [*CELL, "metric", "method", "reference", "retention", "difference", "ci_low",
               "ci_high", "p_holm"],
    "efficiency": ["family", "scan", "method", "schedule", "batch", "retention", "tokens",
                   "cache_seconds", "first_token_seconds", "request_seconds", "target_peak_bytes"],
    "speedups": ["family", "scan", "method", "schedule", "batch", "retention", "against", "mean",
                 "median", "best", "lengths"],
    "paper": ["says", "family", "task", "at_least", "at_most", "unit", "found", "found_low",
              "found_high", "verdict"],
}  # fmt: skip
"""Columns of the other tables; all of a table that is not named here."""
BEST, TIE = "textbf:--rwrap;", "underline:--rwrap;"
MATHS = {"<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$", "−": "$-$", "×": r"$\times$",
         "ρ": r"$\rho$", "λ": r"$\lambda$", "→": r"$\to$"}  # fmt: skip


def latex(name: str, table: pd.DataFrame, methods: MethodCards) -> str:
    """A table of a run as LaTeX.

    Args:
        name: of the table, such as `leaderboard`.
        table: the table.
        methods: cards of the run's methods, which give their labels.
    """
    if name in GRIDS and len(table):
        return _write(*_grid(table, methods, *GRIDS[name]))
    shown = table[COLUMNS.get(name, list(table.columns))].copy()
    for column in {"method", "reference", "against"} & set(shown):
        shown[column] = [methods.card(method).label for method in shown[column]]
    shown = shown.drop(columns=_same(shown, ["family", "benchmark", "scan"]))
    return _write(shown.rename(columns=lambda column: column.replace("_", " ")))


def _same(shown: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns that have one value, which tells no two lines apart."""
    return [name for name in columns if name in shown and shown[name].nunique() == 1]


def _grid(
    table: pd.DataFrame,
    methods: MethodCards,
    lead: Sequence[str],
    across: str,
    metrics: Sequence[Metric],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Texts and marks: a line per method, best first; a column per metric and value of `across`."""
    by = [*lead, "method", "scope"]
    ranked = table.groupby(by)["mean"].mean().reset_index()
    ranked = ranked.sort_values([*lead, "mean"], ascending=[True] * len(lead) + [False])
    labels = [_label(methods, m, s) for m, s in zip(ranked.method, ranked["scope"], strict=True)]
    lines = pd.MultiIndex.from_frame(ranked[by])
    shown = ranked[list(lead)].assign(Method=labels).reset_index(drop=True)
    marks = pd.DataFrame("", index=shown.index, columns=shown.columns)
    for at in list(POOLS) if across == "pool" else sorted(table[across].unique()):
        part = table[table[across] == at].set_index(by)
        for metric in metrics:
            head = _head(across, at, metric, len(metrics))
            column = _column(part, lead, metric, methods).reindex(lines, fill_value="")
            shown[head], marks[head] = column["text"].to_numpy(), column["mark"].to_numpy()
    same = _same(shown, lead)
    return shown.drop(columns=same), marks.drop(columns=same)


def _column(
    rows: pd.DataFrame, lead: Sequence[str], metric: Metric, methods: MethodCards
) -> pd.DataFrame:
    """Text and mark of one metric; the best is that of a group's methods that prune."""
    prunes = {m: methods.card(m).role != "reference" for m in rows.index.unique("method")}
    values = rows[metric.value]
    pruned = values[rows.index.get_level_values("method").map(prunes).to_numpy(bool)]
    bests = pruned.groupby(level=list(lead)).transform("min" if metric.smallest else "max")
    best = bests.reindex(rows.index)
    tie = (rows[metric.low] <= best) & (best <= rows[metric.high])
    texts = [number(metric.scale * value, metric.digits) for value in values]
    marked = np.select([values == best, tie], [BEST, TIE], "")
    return pd.DataFrame({"text": texts, "mark": marked}, index=rows.index)


def _head(across: str, at: Any, metric: Metric, metrics: int) -> str:
    place = f"ρ {pretty(at)}" if across == "pool" else f"ρ = {at:g}"
    return place if metrics == 1 else f"{metric.short}, {place}"


def _label(methods: MethodCards, method: str, scope: str) -> str:
    label = methods.card(method).label
    return label if scope == "none" or scope in label else f"{label} ({scope})"


def _write(shown: pd.DataFrame, marks: pd.DataFrame | None = None) -> str:
    style = (
        shown.style.hide(axis="index")
        .format(_text, escape="latex", na_rep="--")
        .format_index(_text, axis="columns", escape="latex")
    )
    if marks is not None:
        style = style.apply(lambda _: marks, axis=None)
    return style.to_latex(
        hrules=True,
        environment="longtable" if len(shown) > PAGE else None,
        column_format="".join(_format(shown[name]) for name in shown),
    )


def _format(column: pd.Series) -> str:
    if _numbers(column):
        return "r"
    return r"p{.3\linewidth}" if column.astype(str).str.len().max() > WIDE else "l"


def _numbers(column: pd.Series) -> bool:
    """Whether the column holds numbers, or texts of numbers."""
    texts = column.astype(str).str.replace("−", "-").replace({"": "nan", "–": "nan"})
    return bool(pd.to_numeric(texts, errors="coerce").notna().any())


def _text(value: Any) -> str:
    """A text in one line, with signs that LaTeX sets in maths; a number with four digits."""
    if not isinstance(value, str):
        return f"{value:.4g}"
    return "".join(MATHS.get(sign, sign) for sign in " ".join(value.split()))
