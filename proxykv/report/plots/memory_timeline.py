"""Memory of one request over time.

The paper's figure 12: memory of each device while a context is read, scored and pruned, and then
a question is answered (right of the dotted line). The longest context that was measured, sampled
in the request that warmed up. On a CPU it is the memory of the whole process. Bars above the
curves are the phases: the target's, and under it the proxy's.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import read_measurements
from proxykv.report.plots import looks
from proxykv.report.plots._curves import panels
from proxykv.report.plots._efficiency import PHASES, length_scans

ROLES = ("oracle", "subject")
"""Methods that are drawn: one panel each."""


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Draw a panel of each scan of lengths for the oracle and for each schedule of the subject.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    measured = read_measurements(run_dir)
    if measured.empty:
        return None
    shown = measured[measured.method.isin(methods.ids(*ROLES))]
    requests = [request for _, part in length_scans(shown) for request in _longest(part)]
    if not requests:
        return None
    found = looks(methods, methods.ids(*ROLES))
    titles = [
        f"{r['family']} · {found[r['method']].label}{', parallel' * (r['schedule'] == 'parallel')}"
        f", {r['tokens']} tokens"
        for r in requests
    ]
    figure, axes = panels(titles, columns=3, width=4.1, height=3.4)
    for axis, request in zip(axes, requests, strict=True):
        _curves(axis, request)
        _phases(axis, request)
    lines = [Line2D([], [], color="#222222", label="target's device")]
    if any(len(request["proxy_bytes"]) for request in requests):
        lines += [Line2D([], [], color="#222222", linestyle="--", label="proxy's device")]
    patches = [Patch(color=color, label=name) for name, color in PHASES.values()]
    figure.legend(handles=[*lines, *patches], loc="outside right upper", alignment="left")
    return figure


def _longest(part: pd.DataFrame) -> list[dict[str, Any]]:
    """The watched request of the longest context of each method and schedule."""
    watched = part[(part.repeat == 0) & (part.status == "ok")].sort_values("tokens")
    by = ["method", "schedule"]
    return watched.drop_duplicates(by, keep="last").sort_index().to_dict("records")


def _curves(axis: Axes, request: dict[str, Any]) -> None:
    for name, style in (("target_bytes", "-"), ("proxy_bytes", "--")):
        if len(request[name]):
            values = [taken / 2**30 for taken in request[name]]
            axis.plot(request["memory_seconds"], values, color="#222222", ls=style, lw=1.4)
    axis.axvline(request["cache_seconds"], color="#5f6368", ls=":", lw=1)
    axis.set_xlabel("seconds")
    axis.set_ylabel("GiB")


def _phases(axis: Axes, request: dict[str, Any]) -> None:
    """Bars in the top tenth of the panel, which the curves leave free."""
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.16 * (high - low))
    for span in request["spans"]:
        of_proxy = span["phase"] in ("proxy_prefill", "proxy_scoring", "mapper")
        axis.barh(
            0.9 if of_proxy else 0.96,
            span["end"] - span["start"],
            left=span["start"],
            height=0.05,
            color=PHASES[span["phase"]][1],
            transform=axis.get_xaxis_transform(),
        )
