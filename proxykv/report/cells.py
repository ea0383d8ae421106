"""Tables of the page: a cell holds its value, its text and its hover text."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from proxykv.report.plots import Look
from proxykv.report.tables.columns import POOLS


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        value: what is sorted and copied.
        spread: shown in small print, such as an interval.
        hover: shown when the pointer is over the cell.
        share: length of the bar behind the text, in [0, 1]; None for no bar.
    """

    text: str
    value: float | str | None = None
    spread: str = ""
    hover: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """One table of the page.

    Attributes:
        id: of the HTML table.
        caption: of the table.
        heads: titles of the columns.
        rows: the cells of each row.
        looks: look of the method of each row; None if the row has none.
        metric: where tables differ only in this, the page shows one at a time.
    """

    id: str
    caption: str
    heads: list[str]
    rows: list[list[TableCell]]
    looks: list[Look | None] = field(default_factory=list)
    metric: str = ""


@dataclass(frozen=True)
class Metric:
    """How one number of the leaderboard or of the tasks' table is shown.

    Attributes:
        title: full name.
        short: name in the heads of columns.
        value: column of the value.
        low: column of the interval's lower end.
        high: column of the interval's upper end.
        digits: digits after the point.
        scale: factor of the shown value.
        bar: value of a full bar; None for no bars.
        smallest: whether the smallest value is best.
    """

    title: str
    short: str
    value: str
    low: str
    high: str
    digits: int = 3
    scale: float = 1.0
    bar: float | None = None
    smallest: bool = False


SCORE = Metric("Score", "Score", "mean", "ci_low", "ci_high", bar=1)
RECOVERY = Metric(
    "Recovery, % of the oracle",
    "Recovery %",
    "recovery",
    "recovery_low",
    "recovery_high",
    1,
    100,
    100,
)
FIXED = Metric("Score, corrected metric", "Corrected", "fixed", "fixed_low", "fixed_high", bar=1)
KL = Metric("KL, nats per token", "KL", "kl", "kl_low", "kl_high", smallest=True)
NLL = Metric("NLL, nats per token", "NLL", "nll", "nll_low", "nll_high", smallest=True)
PERCENT = Metric("% of full cache", "% of full", "pct_of_full", "", "", 1, bar=100)


def matrix(
    table: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    id: str,
    caption: str,
    styles: Mapping[str, Look],
    lead: Sequence[str] = (),
) -> list[Table]:
    """One table per metric: a row per method, a column per retention.

    Args:
        table: a leaderboard, or one per task.
        metrics: what to show of it.
        id: of the table in the page.
        caption: of the table.
        styles: looks of the methods, in the order of the rows.
        lead: columns before the method's, a row for each of their values.
    """
    retentions = sorted(table.retention.unique())
    place = (*lead, "method", "retention")
    points = {tuple(r[c] for c in place): r for r in table.to_dict("records")}
    keys, row_looks = _keys(table, styles, lead)
    heads = [*(name.capitalize() for name in lead), "Method", *(f"ρ {rho:g}" for rho in retentions)]
    tables = []
    for metric in metrics:
        rows = [
            [
                *_names(key, look),
                *(_cell(points.get((*key[:-1], rho)), metric) for rho in retentions),
            ]
            for key, look in zip(keys, row_looks, strict=True)
        ]
        name = f"{id}-{metric.value}"
        tables.append(Table(name, caption, heads, rows, row_looks, metric.title))
    return tables


def pooled(
    table: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    id: str,
    caption: str,
    styles: Mapping[str, Look],
) -> Table:
    """The summary: a row per method, a column per metric and pool of retentions.

    Args:
        table: the summary of one family and benchmark.
        metrics: metrics to show.
        id: of the HTML table.
        caption: of the table.
        styles: looks by method.
    """
    pools = [pool for pool in POOLS if (table["pool"] == pool).any()]
    points = {(r["method"], r["pool"]): r for r in table.to_dict("records")}
    keys, row_looks = _keys(table, styles, ())
    rows = [
        [*_names(key, look), *(_cell(points.get((key[0], p)), m) for p in pools for m in metrics)]
        for key, look in zip(keys, row_looks, strict=True)
    ]
    heads = ["Method", *(f"{m.short}, ρ {pretty(p)}" for p in pools for m in metrics)]
    return Table(id, caption, heads, rows, row_looks)


def plain(
    table: pd.DataFrame,
    *,
    id: str,
    caption: str,
    styles: Mapping[str, Look],
    show: Mapping[str, Callable[[Any], str]],
) -> Table:
    """The rows and columns of a table.

    Args:
        table: what to show.
        id: of the table in the page.
        caption: of the table.
        styles: looks of the methods in its column `method`.
        show: formatters of columns by name; the others are shown as text.
    """
    heads = [name.replace("_", " ") for name in table.columns]
    rows, row_looks = [], []
    for record in table.to_dict("records"):
        rows.append([TableCell(_text(v, show.get(str(c))), _value(v)) for c, v in record.items()])
        row_looks.append(styles.get(record.get("method", "")))
    return Table(id, caption, heads, rows, row_looks)


def pretty(pool: str) -> str:
    """The label of a pool of retentions for readers: "<=0.3" becomes "≤ 0.3"."""
    return pool.replace("<=", "≤ ").replace("<", "< ")


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Fixed-point text with a true minus, "–" where undefined.

    Args:
        value: the number.
        digits: digits after the point.
        sign: whether positive numbers get a plus.
    """
    if pd.isna(value):
        return "–"
    rounded = round(value, digits) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _keys(
    table: pd.DataFrame, styles: Mapping[str, Look], lead: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[Look | None]]:
    """Row keys (lead columns, method, scope) in the methods' order, and the methods' looks."""
    columns = [*lead, "method", "scope"]
    keys = [tuple(map(str, k)) for k in table[columns].drop_duplicates().itertuples(index=False)]
    order = list(styles)
    keys.sort(key=lambda key: (*key[:-2], order.index(key[-2])))
    return keys, [styles[key[-2]] for key in keys]


def _names(key: tuple[str, ...], look: Look | None) -> list[TableCell]:
    *lead, method, scope = key
    label = look.label if look else method
    # Scope is part of a method's name: shown unless the label contains it.
    known = scope == "none" or scope in label
    name = TableCell(label, label, "" if known else scope, hover=f"{method}, scope {scope}")
    return [*(TableCell(part, part) for part in lead), name]


def _cell(row: Mapping[Any, Any] | None, metric: Metric) -> TableCell:
    if row is None:  # not run, or the full cache's column
        return TableCell("", None)
    if pd.isna(row[metric.value]):
        return TableCell("–", None, hover="undefined")
    value = metric.scale * row[metric.value]
    parts = [f"{metric.title} {number(value, metric.digits)}"]
    spread = ""
    if metric.low and pd.notna(row[metric.low]):
        low, high = metric.scale * row[metric.low], metric.scale * row[metric.high]
        spread = f"±{number((high - low) / 2, metric.digits)}"
        parts.append(f"95 % CI {number(low, metric.digits)} to {number(high, metric.digits)}")
    elif metric.low:
        parts.append("interval undefined")
    kept = number(100 * row["achieved_retention"], metric.digits)
    parts.append(f"{row['n_contexts']} contexts, {kept} % of the pairs kept")
    share = min(1.0, max(0.0, value / metric.bar)) if metric.bar else None
    return TableCell(number(value, metric.digits), value, spread, "\n".join(parts), share)


def _text(value: Any, show: Callable[[Any], str] | None) -> str:
    if show:
        return show(value)
    if isinstance(value, float):
        return "–" if pd.isna(value) else f"{value:g}"
    return str(value)


def _value(value: Any) -> float | str | None:
    if isinstance(value, str):
        return value
    return None if pd.isna(value) else float(value)
