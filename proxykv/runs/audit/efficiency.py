"""The tables of time and memory, from the run's measurements. Repeat 0 gives memory, no times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from proxykv.config import catalog
from proxykv.config.cards import MethodCards
from proxykv.runs.audit.cells import Cell, Known, OneOf, median_cells
from proxykv.runs.audit.findings import Audit
from proxykv.runs.audit.means import Row
from proxykv.runs.audit.table_file import Line, Published, key_of, wrong_types

CASE = ("family", "scan", "method", "schedule", "hardware", "batch", "retention")
KEYS = {
    "efficiency": (*CASE, "tokens", "weights", "inputs", "kernels", "versions"),
    "speedups": (*CASE, "against"),
}
TIMES = ("cache_seconds", "first_token_seconds", "decode_seconds", "request_seconds")
BYTES = ("target_peak_bytes", "proxy_peak_bytes", "kv_bytes")
SAME = 1 + 1e-9


def scans(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Family and name of each scan of a config."""
    for scan in config.get("efficiency", ()):
        for family in scan.get("families", config["families"]):
            yield family, scan["name"]


def measurements(config: Mapping[str, Any], folder: Path, audit: Audit) -> list[Row]:
    """The measurements of a config's scans, each with its `hardware`; empty if it has none.

    Args:
        config: of the run.
        folder: the run's folder.
        audit: receives the files that are damaged.
    """
    rows: list[Row] = []
    for family, scan in scans(config):
        path = folder / "efficiency" / family / f"{scan}.parquet"
        if not path.is_file():
            continue
        try:
            table = pq.read_table(path)
        except (ArrowException, OSError) as error:
            audit.say(path, f"damaged ({error})")
            continue
        if wrong := wrong_types(table, catalog.schema("measurement")["properties"]):
            audit.say(path, f"values of another type in the columns {', '.join(sorted(wrong))}")
        else:
            rows += table.to_pylist()
    return [{**row, "hardware": _hardware(row)} for row in rows]


def cases(rows: list[Row]) -> Iterator[Line]:
    """Lines of the table of cases: medians, ranges and intervals of times, and peaks of memory.

    Args:
        rows: measurements.
    """
    for key, every in _grouped(rows, KEYS["efficiency"]):
        ok = [row for row in every if counts(row)]
        times = {name: [row[name] for row in ok] for name in TIMES}
        request = median(times["request_seconds"]) if ok else math.nan
        cells: dict[str, Cell] = {
            "status": Known("ok" if ok else every[-1]["status"]),
            "repeats": Known(len(ok)),
            "contexts_per_second": Known(every[0]["batch"] / request),
        }
        for name, values in times.items():
            cells |= median_cells(name, values, ends=f"{name}_ci")
            cells[f"{name}_low"] = Known(min(values, default=math.nan))
            cells[f"{name}_high"] = Known(max(values, default=math.nan))
        for name in BYTES:
            known = [row[name] for row in every if row[name] is not None]
            cells[name] = Known(max(known, default=math.nan))
        yield key, cells


def speedups(rows: list[Row], cards: MethodCards, published: Published) -> Iterator[Line]:
    """Lines of the table of speed-ups, over the oracle and over the prefill of the full cache.

    Args:
        rows: measurements.
        cards: of the run's methods.
        published: lines of the published table; they say which of equally good lengths is `best`.
    """
    by_key = {key_of(line, KEYS["speedups"]): line for line in published}
    oracle, full = cards.only("oracle"), cards.only("reference")
    ok = [row for row in rows if counts(row)]
    for key, group in _grouped(ok, CASE):
        first = group[0]
        near = [r for r in ok if all(r[c] == first[c] for c in ("family", "scan", "batch"))]
        base = {
            str(oracle): [
                (row, row["cache_seconds"])
                for row in near
                if row["method"] == oracle and row["retention"] == first["retention"]
            ],
            "prefill": [(row, _prefill(row)) for row in near if row["method"] == full],
        }
        for against, compared in base.items():
            ratios: dict[int, list[float]] = {}
            for row in group:
                for other, seconds in compared:
                    if (row["tokens"], row["repeat"]) == (other["tokens"], other["repeat"]):
                        several = ratios.setdefault(row["tokens"], [])
                        several.append(seconds / row["cache_seconds"])
            if ratios and first["method"] not in (against, full):
                line = (*key, against)
                best = by_key.get(line, {}).get("best_tokens", "")
                yield (
                    line,
                    {
                        "reference_hardware": Known(compared[0][0]["hardware"]),
                        **_over_lengths(ratios, best),
                    },
                )


def _over_lengths(ratios: Mapping[int, list[float]], published: str) -> dict[str, Cell]:
    medians = {str(tokens): median(values) for tokens, values in ratios.items()}
    most = max(medians.values())
    best = tuple(tokens for tokens, value in medians.items() if value * SAME >= most)
    at = int(published if published in best else best[0])
    return {
        **median_cells("best", ratios[at], ends="ci"),
        "best_tokens": OneOf(best),
        "mean": Known(fmean(medians.values())),
        "median": Known(median(medians.values())),
        "lengths": Known(len(medians)),
    }


def counts(row: Row) -> bool:
    """Whether the times of a measurement count."""
    return row["repeat"] > 0 and row["status"] == "ok"


def _prefill(row: Row) -> float:
    spans = (span for span in row["spans"] if span["phase"] == "target_prefill")
    return sum(span["end"] - span["start"] for span in spans)


def _grouped(
    rows: Iterable[Row], by: tuple[str, ...]
) -> Iterable[tuple[tuple[str, ...], list[Row]]]:
    """Rows by the texts of a table's key."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        texts = {**row, "retention": f"{row['retention']:g}"}
        found.setdefault(tuple(str(texts[name]) for name in by), []).append(row)
    return found.items()


def _hardware(row: Row) -> str:
    """The devices that the request needed; on a CPU, with its threads."""
    proxy = any(span["phase"].startswith("proxy") for span in row["spans"])
    kind, _, name = row["device"].partition(": ")
    if kind == "cpu":
        sides = 2 if proxy and row["schedule"] == "parallel" else 1
        threads = sides * row["threads"]
        return f"CPU ({name}), {threads} thread" + ("" if threads == 1 else "s")
    several = re.fullmatch(r"(.+) x (\d+)", name)
    name, cards = (several[1], int(several[2])) if several else (name, 1)
    if not proxy or row["devices"] == cards:
        return f"{cards} × {name}"
    second = row["proxy_device"].partition(": ")[2]
    if second == name:
        return f"{cards + 1} × {name}"
    return f"{name} + {second}" if cards == 1 else f"{cards} × {name} + {second}"
