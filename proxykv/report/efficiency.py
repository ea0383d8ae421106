"""Tables of time and memory, from a run's measurements alone: never from the times of its answers.

Repeat 0 warmed up: it gives memory, and no times. An interval is the 95 % bootstrap interval of a
median over the repeats; `low` and `high` are the smallest and the largest repeat.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config.cards import MethodCards
from proxykv.report.stats import median_ci
from proxykv.runtime.parquet import read_parquet

SCAN = ["family", "scan"]
CASE = [*SCAN, "method", "schedule", "hardware", "batch", "retention"]
TIMES = ["cache_seconds", "first_token_seconds", "decode_seconds", "request_seconds"]
PREFILL = "prefill"
"""What the bare prefill is called among the references of a speed-up."""


def read_measurements(run_dir: Path) -> pd.DataFrame:
    """Measurements of the scans that a run's config names; without a line if it has none.

    Adds `seconds`, the seconds of each phase by its name, and `hardware`, what the request ran on.
    """
    frames = [read_parquet(path) for path in measurement_files(run_dir)]
    if not frames:
        return pd.DataFrame()
    rows = pd.concat(frames, ignore_index=True)
    seconds = [phase_seconds(spans) for spans in rows.spans]
    return rows.assign(seconds=seconds, hardware=list(map(hardware, rows.to_dict("records"))))


def measurement_files(run_dir: Path) -> list[Path]:
    """Files of the scans that a run's config names, as far as they are there."""
    path = run_dir / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = [
        run_dir / "efficiency" / family / f"{scan['name']}.parquet"
        for scan in config.get("efficiency", ())
        for family in scan.get("families", config["families"])
    ]
    return [path for path in found if path.exists()]


def phase_seconds(spans: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each phase, summed over the contexts of a request."""
    total: dict[str, float] = {}
    for span in spans:
        total[span["phase"]] = total.get(span["phase"], 0.0) + span["end"] - span["start"]
    return total


def hardware(row: Mapping[str, Any]) -> str:
    """What a request ran on: devices, and on a CPU the threads that were at work."""
    with_proxy = any(span["phase"].startswith("proxy") for span in row["spans"])
    kind, _, name = str(row["device"]).partition(": ")
    if kind == "cpu":
        threads = row["threads"] * (2 if with_proxy and row["schedule"] == "parallel" else 1)
        return f"CPU ({name}), {threads} thread{'s' * (threads != 1)}"
    name, shared = _cards(name)
    if with_proxy and row["devices"] > shared:
        other = str(row["proxy_device"]).partition(": ")[2]
        if name == other:
            return f"{shared + 1} × {name}"
        return f"{name if shared == 1 else f'{shared} × {name}'} + {other}"
    return f"{shared} × {name}"


def _cards(name: str) -> tuple[str, int]:
    """A device's name, and how many such devices share the target."""
    one, _, count = name.rpartition(" x ")
    return (one, int(count)) if one and count.isdecimal() else (name, 1)


def timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The requests whose times count."""
    return rows[(rows.repeat > 0) & (rows.status == "ok")]


def cases(rows: pd.DataFrame) -> pd.DataFrame:
    """Each case with the median, range and interval of its times, its memory and its throughput."""
    records = []
    by = [*CASE, "tokens", "weights", "inputs", "kernels", "versions"]
    for key, group in rows.groupby(by, sort=False):
        record = dict(zip(by, key, strict=True))
        ok = timed(group)
        record |= {"status": "ok" if len(ok) else group.status.iloc[-1], "repeats": len(ok)}
        for name in TIMES:
            values = ok[name].to_numpy(float)
            estimate = median_ci(values)
            record |= {name: estimate.value, f"{name}_ci_low": estimate.low}
            record |= {f"{name}_ci_high": estimate.high}
            ends = (values.min(), values.max()) if len(values) else (np.nan, np.nan)
            record |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
        for name in ("target_peak_bytes", "proxy_peak_bytes", "kv_bytes"):
            record[name] = group[name].max()
        record["contexts_per_second"] = record["batch"] / record["request_seconds"]
        records.append(record)
    return pd.DataFrame(records)


def speedups(rows: pd.DataFrame, methods: MethodCards) -> pd.DataFrame:
    """How many times faster than the oracle, and than the bare prefill, a cache is ready.

    A ratio is taken within a repeat, then the median over the repeats of a length. `mean`, `median`
    and `best` are over the lengths; the interval is that of the best length.

    Args:
        rows: measurements (`read_measurements`).
        methods: cards of the run's methods.
    """
    ok = timed(rows)
    records = []
    for (family, scan, batch), part in ok.groupby([*SCAN, "batch"], sort=False):
        for reference, kind, other in _references(part, methods):
            by = ["method", "schedule", "hardware", "retention"]
            for key, group in part.groupby(by, sort=False):
                method, schedule, used, retention = key
                if method in (reference, methods.only("reference")):
                    continue
                base = other if kind == PREFILL else other[other.retention == retention]
                record = _ratios(group, base)
                if record:
                    about = [family, scan, method, schedule, used, batch, retention]
                    record |= {"against": kind, "reference_hardware": base.hardware.iloc[0]}
                    records.append(dict(zip(CASE, about, strict=True)) | record)
    columns = ["against", "reference_hardware", "mean", "median", "best", "best_tokens"]
    return pd.DataFrame(records, columns=[*CASE, *columns, "ci_low", "ci_high", "lengths"])


def _references(
    part: pd.DataFrame, methods: MethodCards
) -> Iterable[tuple[str | None, str, pd.DataFrame]]:
    """What others are compared with: method, name, and its requests with their `time`."""
    oracle, full = methods.only("oracle"), methods.only("reference")
    of_oracle = part[part.method == oracle]
    if len(of_oracle):
        yield oracle, str(oracle), of_oracle.assign(time=of_oracle.cache_seconds)
    of_full = part[part.method == full]
    if len(of_full):
        bare = [seconds["target_prefill"] for seconds in of_full.seconds]
        yield full, PREFILL, of_full.assign(time=bare)


def _ratios(group: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    """Mean, median and best of the ratios of all lengths that both were measured at."""
    pairs = group.merge(base[["tokens", "repeat", "time"]], on=["tokens", "repeat"])
    pairs = pairs.assign(ratio=pairs.time / pairs.cache_seconds)
    by_length = {tokens: part.ratio.to_numpy(float) for tokens, part in pairs.groupby("tokens")}
    if not by_length:
        return {}
    medians = {tokens: float(np.median(values)) for tokens, values in by_length.items()}
    best = max(medians, key=lambda tokens: medians[tokens])
    interval = median_ci(by_length[best])
    return {
        "mean": float(np.mean(list(medians.values()))),
        "median": float(np.median(list(medians.values()))),
        "best": medians[best],
        "best_tokens": best,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "lengths": len(medians),
    }
