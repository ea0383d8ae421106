"""Tables of time and memory on the page: every number stands with the hardware that gave it."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.cells import Table, TableCell, number
from proxykv.report.efficiency import CASE, PREFILL, cases, read_measurements, speedups
from proxykv.report.plots import Look, looks

TIMES = {
    "cache_seconds": "to the cache, s",
    "first_token_seconds": "to the first token, s",
    "decode_seconds": "per token, s",
    "request_seconds": "request, s",
}


def efficiency_tables(run_dir: Path, methods: MethodCards) -> list[Table]:
    """Make the tables of the page.

    Args:
        run_dir: the run's folder.
        methods: cards of its methods.

    Returns:
        Speed-ups, then every case; no table if the run measured nothing.
    """
    measured = read_measurements(run_dir)
    if measured.empty:
        return []
    styles = looks(methods, measured.method.unique())
    return [
        _speedups(speedups(measured, methods), methods, styles),
        _cases(cases(measured), styles),
    ]


def _speedups(table: pd.DataFrame, methods: MethodCards, styles: Mapping[str, Look]) -> Table:
    names = {str(methods.only("oracle")): f"against {methods.label('oracle')}"}
    names[PREFILL] = "against the bare prefill"
    found = {(*(r[c] for c in CASE), r["against"]): r for r in table.to_dict("records")}
    rows, shown = [], []
    for key in dict.fromkeys(key[:-1] for key in found):
        record = dict(zip(CASE, key, strict=True))
        compared = [_ratio(found.get((*key, against))) for against in names]
        rows.append([*_named(record, styles), *compared])
        shown.append(styles[record["method"]])
    heads = ["Scan", "Method", "ρ", "Contexts", *names.values()]
    caption = "Speed-up until the pruned cache is ready: mean, median, best length"
    return Table("speedups", caption, heads, rows, shown)


def _ratio(record: Mapping[str, Any] | None) -> TableCell:
    if record is None:
        return TableCell("", None)
    text = " · ".join(f"{number(record[name], 2)}×" for name in ("mean", "median", "best"))
    used = f"{record['hardware']}; reference on {record['reference_hardware']}"
    low, high = number(record["ci_low"], 2), number(record["ci_high"], 2)
    hover = f"best at {record['best_tokens']} tokens, 95 % CI {low} to {high}"
    return TableCell(text, record["mean"], used, f"{hover}; {record['lengths']} lengths")


def _cases(table: pd.DataFrame, styles: Mapping[str, Look]) -> Table:
    rows, shown = [], []
    for record in table.to_dict("records"):
        peak = record["target_peak_bytes"] / 2**30
        kept, rate = record["kv_bytes"] / 2**20, record["contexts_per_second"]
        rows.append(
            [
                *_named(record, styles),
                TableCell(str(record["tokens"]), record["tokens"]),
                *(_time(record, name) for name in TIMES),
                TableCell(number(rate, 2), _known(rate)),
                TableCell(number(peak, 3), _known(peak)),
                TableCell(number(kept, 2), _known(kept)),
            ]
        )
        shown.append(styles[record["method"]])
    heads = ["Scan", "Method", "ρ", "Contexts", "Tokens", *TIMES.values(), "contexts/s"]
    caption = "Time and memory: medians of the repeats, with their range"
    return Table("cases", caption, [*heads, "peak, GiB", "kept KV, MiB"], rows, shown)


def _named(record: Mapping[str, Any], styles: Mapping[str, Look]) -> list[TableCell]:
    label = styles[record["method"]].label
    parallel = ", parallel" if record["schedule"] == "parallel" else ""
    scan = f"{record['family']} · {record['scan']}"
    return [
        TableCell(scan, scan),
        TableCell(label + parallel, label + parallel, record["hardware"]),
        TableCell(f"{record['retention']:g}", record["retention"]),
        TableCell(str(record["batch"]), record["batch"]),
    ]


def _time(record: Mapping[str, Any], name: str) -> TableCell:
    if record["status"] != "ok":
        return TableCell(record["status"], None)
    digits = 4 if name == "decode_seconds" else 3
    low, high, ci_low, ci_high = (
        number(record[f"{name}_{end}"], digits) for end in ("low", "high", "ci_low", "ci_high")
    )
    hover = f"95 % CI {ci_low} to {ci_high}; {record['repeats']} repeats"
    return TableCell(number(record[name], digits), record[name], f"{low}–{high}", hover)


def _known(value: float) -> float | None:
    return None if pd.isna(value) else value
