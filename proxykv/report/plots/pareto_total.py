"""Score against the time of a whole request.

The paper's figure 7: total time = prefill + scoring + generation, with a mark for each retention; a
larger mark keeps more. Scores are the run's; times are medians of measured requests, from the
scan with the most retentions at the length nearest to the task's contexts (in the title). The
tasks are those whose contexts were measured, or all of them for random inputs. The grey
staircase is the Pareto front.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import SCAN, read_measurements, timed
from proxykv.report.plots._curves import panels
from proxykv.report.plots._efficiency import legend_of, variant_styles
from proxykv.report.stats import pareto_front
from proxykv.report.tables import per_task

POINT = ["method", "retention"]


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Draw one panel for each task of each family that was measured.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    measured = read_measurements(run_dir)
    if measured.empty:
        return None
    chosen = measured.family.isin(rows.family) & (measured.batch == 1)
    usable = timed(measured[chosen])
    found = list(_panels(rows, usable, methods))  # two benchmarks may have a task of one name
    if not found:
        return None
    figure, axes = panels([title for title, _ in found], columns=2, width=5.2, height=3.9)
    styles = variant_styles(pd.concat([part for _, part in found]), methods)
    for axis, (_, part) in zip(axes, found, strict=True):
        for (method, schedule), line in styles.items():
            points = part[(part.method == method) & (part.schedule == schedule)]
            _marks(axis, points.sort_values("retention"), line)
        _front(axis, part)
        axis.set_xlabel("prefill + scoring + generation, s")
        axis.set_ylabel("mean score")
        axis.set_ylim(-0.02, 1.06)
    legend_of(figure, styles, "Method")
    return figure


def _panels(
    rows: pd.DataFrame, usable: pd.DataFrame, methods: MethodCards
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and points (score and median `request_seconds`) of each task that was measured."""
    for family, of_family in usable.groupby("family", sort=False):
        scans = of_family.groupby(SCAN, sort=False)
        most = max((scan for _, scan in scans), key=lambda scan: scan.retention.nunique())
        benchmark, _, tasks = most.inputs.iloc[0].partition(": ")
        scored = rows[(rows.family == family) & rows.method.isin(most.method)]
        if tasks:
            named = scored.task.isin(tasks.split(", "))
            scored = scored[(scored.benchmark == benchmark) & named]
        if scored.empty:
            continue
        table = per_task(scored, methods)
        for (name, task), scores in table.groupby(["benchmark", "task"]):
            of_task = scored[(scored.benchmark == name) & (scored.task == task)]
            yield _points(f"{family} · {task}", scores, most, of_task.context_tokens.mean())


def _points(
    title: str, scores: pd.DataFrame, scan: pd.DataFrame, tokens: float
) -> tuple[str, pd.DataFrame]:
    """A task's scores with the times at the measured length that is nearest to its contexts."""
    at = min(scan.tokens.unique(), key=lambda length: abs(np.log(length / tokens)))
    near = scan[scan.tokens == at]
    seconds = near.groupby([*POINT, "schedule"]).request_seconds.median().reset_index()
    points = scores[[*POINT, "mean"]].merge(seconds, on=POINT)
    return f"{title} (times at {at} tokens)", points


def _marks(axis: Axes, points: pd.DataFrame, line: dict) -> None:
    thin = line | {"marker": "", "linewidth": 0.8, "alpha": 0.4, "linestyle": "-"}
    axis.plot(points.request_seconds, points["mean"], **thin)
    axis.scatter(
        points.request_seconds,
        points["mean"],
        s=18 + 60 * points.retention,
        gid=line["gid"],
        color=line["color"],
        marker=line["marker"],
        edgecolor="white",
        linewidth=0.5,
        zorder=line["zorder"],
    )


def _front(axis: Axes, part: pd.DataFrame) -> None:
    front = part[pareto_front(part.request_seconds, part["mean"])].sort_values("request_seconds")
    x, y = front.request_seconds, front["mean"]
    look = {"color": "#9aa0a6", "lw": 4, "alpha": 0.35, "zorder": 0, "label": "Pareto front"}
    axis.step(x, y, where="post", **look)
