"""Measured seconds of a run's requests and what the cost model computes for them.

For `proxykv check`, where the run has answered some contexts already.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from proxykv.config.cost.operations import Operations
from proxykv.config.cost.requests import aligned
from proxykv.config.cost.speed import CPU, GPU, Device
from proxykv.config.run import Run
from proxykv.runtime.parquet import read_parquet

TIMES = ["prefill_seconds", "score_seconds"]
COLUMNS = ["context_id", "method", "retention", "context_tokens", "device", "threads", *TIMES]
HEADS = ("tokens", "contexts", "method", "prefill", "computed", "scoring", "computed")


def measured_table(run: Run, family: str) -> Iterator[str]:
    """A line for each class of lengths and method that has answered; none without rows.

    Lengths of a class have the same power of two below them. Methods that compute nothing besides
    selecting are left out.

    Args:
        run: the run.
        family: one of its families.
    """
    files = [job.file("rows") for job in run.jobs() if job.family == family]
    rows = [read_parquet(path, COLUMNS) for path in files if path.exists()]
    if not rows:
        return
    table = pd.concat(rows).drop_duplicates(["context_id", "method"])
    costly = {name for name in run.methods if set(run.cards.card(name).cost) - {"training"}}
    table = table[table.method.isin(costly)]
    for (name, threads), part in table.groupby(["device", "threads"]):
        device = CPU.times(threads) if name.startswith("cpu") else GPU
        yield (
            f"  {family}, measured on {name} with {threads} thread{'' if threads == 1 else 's'}, "
            f"and computed for: {device.name}. Mean seconds of a context"
        )
        yield from _lines(run, part, Operations.of(run, family), device)


def _lines(run: Run, part: pd.DataFrame, cost: Operations, device: Device) -> Iterator[str]:
    lengths = part.context_tokens
    part = part.assign(
        log_length=np.log2(lengths).astype(int),
        prefill=[cost.target.prefill(n, device) for n in lengths],
        scoring=[
            cost.scoring_seconds(run.methods[name], n, device)
            for name, n in zip(part.method, lengths, strict=True)
        ],
    )
    widths = [max(len(head), 8) for head in HEADS]
    widths[HEADS.index("method")] = max(map(len, part.method))
    yield aligned(HEADS, widths)
    for (_, method), group in part.groupby(["log_length", "method"], sort=False):
        mean = group[["context_tokens", *TIMES, "prefill", "scoring"]].mean()
        seconds = (mean.prefill_seconds, mean.prefill, mean.score_seconds, mean.scoring)
        shown = (f"{mean.context_tokens:.0f}", str(len(group)), str(method))
        yield aligned((*shown, *(f"{value:.3g}" for value in seconds)), widths)
