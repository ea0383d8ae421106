"""Needles by depth and length.

Mean score by the length of the context (rounded up to a power of two) and the depth of the needle
(fifths of the context's characters; left: its start), over tasks whose answers stand once in the
context, at one low retention. The needle is where the reference occurs word for word; answers that
occur several times or not at all have no depth and are left out.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportCallIssue=false

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots import main_methods, ranking
from proxykv.report.plots._curves import panels
from proxykv.report.plots._kept import SHOWN_AT, heat, recorded, scale
from proxykv.report.tables import leaderboard

PARTS = 5
"""Number of parts of the context that have a point each."""

NEEDLES = 0.9
"""Share of a task's questions whose answer must stand once in the context."""

TASK = ["family", "benchmark", "task"]


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One panel per family and main method.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    depths = _depths(run_dir)
    if depths.empty:
        return None
    found = rows.merge(depths, on=[*TASK, "context_id", "question"])
    shown = {}
    main = main_methods(rows, methods)
    order = [method for method in ranking(leaderboard(rows, methods)) if method in main]
    for family, part in found.groupby("family"):
        pruned = part.retention[part.retention < 1].unique()
        at = min(pruned, key=lambda rho: (abs(rho - SHOWN_AT), rho), default=1.0)
        for method in order:
            rho = 1.0 if methods.card(method).role == "reference" else at
            here = part[(part.method == method) & (part.retention == rho)]
            if len(here):
                shown[f"{methods.card(method).label}\n{family}, ρ {rho:g}"] = _grid(here)
    if not shown:
        return None
    figure, axes = panels(list(shown), columns=4, width=2.9, height=2.4, legend=False)
    for axis, grid in zip(axes, shown.values(), strict=True):
        lengths = [f"{length:g}" for length in grid.index]
        heat(axis, grid.to_numpy(), x="depth of the needle", y="tokens, at most", names=lengths)
        axis.set_xticks(np.arange(PARTS + 1) - 0.5, [f"{i / PARTS:g}" for i in range(PARTS + 1)])
        axis.set_facecolor("#b8bec4")  # where no needle is
    scale(figure, axes, "mean score")
    return figure


def _depths(run_dir: Path) -> pd.DataFrame:
    """Depth of each question's needle, of tasks whose answers are needles."""
    every = {
        (*(record[name] for name in TASK), record["context_id"], question): depth
        for record in recorded(run_dir, "contexts")
        for question, depth in enumerate(record["depths"])
    }
    columns = [*TASK, "context_id", "question", "depth"]
    depths = pd.DataFrame([(*key, depth) for key, depth in every.items()], columns=columns)
    depths["depth"] = depths.depth.astype(float)
    known = depths.depth.notna().groupby([depths[name] for name in TASK]).transform("mean")
    return depths[(known >= NEEDLES) & depths.depth.notna()]


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean scores [length, depth] of one method; NaN where no needle is."""
    placed = rows.assign(
        length=2 ** np.ceil(np.log2(rows.context_tokens)),
        part=np.minimum((rows.depth * PARTS).astype(int), PARTS - 1),
    )
    grid = placed.pivot_table(index="length", columns="part", values="score", aggfunc="mean")
    return grid.reindex(columns=range(PARTS)).sort_index()
