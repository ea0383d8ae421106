"""Which pairs the methods of a run keep, as its jobs recorded it."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.runtime.journal import Journal

SHOWN_AT = 0.1
"""Retention that is shown, or the measured one nearest to it: there methods differ most."""

KEY = ("family", "benchmark", "task", "context_id", "method", "method_digest", "retention",
       "question")  # fmt: skip
"""What a record of a kept set is about."""

OF_TOKENS = ("tokens", "layers", "answers")
"""What a record has for the explorer alone."""


def read_kept(rows: pd.DataFrame, run_dir: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """What was recorded of the methods as they are in the rows, at one retention.

    Args:
        rows: rows of the run.
        run_dir: folder of the run.

    Yields:
        Title of a family, and its records: `benchmark`, `task`, `context_id`, `method`, `heads`,
        `positions` and, where the oracle was computed with it, `overlap`.
    """
    # A context that was answered again, or by two parts of a run, counts once.
    found = {
        tuple(record.get(name) for name in KEY): {
            name: value for name, value in record.items() if name not in OF_TOKENS
        }
        for record in recorded(run_dir, "kept")
    }
    if not found:
        return
    known = rows[["family", "method", "method_digest"]].drop_duplicates()
    records = pd.DataFrame([*found.values()]).merge(known, on=list(known.columns))
    for family, part in records.groupby("family"):
        at = min(part.retention.unique(), key=lambda rho: (abs(rho - SHOWN_AT), rho))
        yield f"{family}, ρ {at:g}", part[part.retention == at]


def recorded(run_dir: Path, kind: str) -> Iterator[dict[str, Any]]:
    """What a run's jobs recorded, with `family`, `benchmark` and `task`.

    Args:
        run_dir: folder of the run.
        kind: "kept" for the kept sets, "contexts" for the contexts.
    """
    suffix = f".{kind}.jsonl"
    for path in sorted(run_dir.glob(f"predictions/*/*/*{suffix}")):
        family, benchmark, name = path.parts[-3:]
        task = name.removesuffix(suffix).partition("@")[0]
        for record in Journal(path).read():
            yield {"family": family, "benchmark": benchmark, "task": task} | record


def mean_of(lists: pd.Series) -> np.ndarray:
    """Mean of equally long lists of numbers; None, the unknown, does not count."""
    known = np.ma.masked_invalid(np.array(lists.tolist(), dtype=float))
    return known.mean(axis=0).filled(np.nan)


def heat(
    axis: Axes, values: np.ndarray, *, x: str, y: str, names: Sequence[str] | None = None
) -> None:
    """Draw shares as a heat map, from 0 to 1.

    Args:
        axis: where to draw.
        values: shares [line, column].
        x: label of the columns.
        y: label of the lines.
        names: of the lines; their numbers by default.
    """
    axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    axis.grid(visible=False)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if names is not None:
        axis.set_yticks(range(len(names)), names)


def scale(figure: Figure, axes: Sequence[Axes], label: str) -> None:
    """Add the colour scale of heat maps.

    Args:
        figure: with the heat maps.
        axes: their axes.
        label: of the scale.
    """
    figure.colorbar(axes[0].images[0], ax=list(axes), label=label, shrink=0.8)
