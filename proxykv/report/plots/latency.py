"""Time and memory against context length.

The paper's figure 6. Left: seconds until the pruned cache is ready, median and range of the
repeats; the full cache's line is the prefill alone. Right: highest memory of the target's device
(tensors of a GPU, the process on a CPU), without the proxy's weights where a method needs none; the
sum where several devices share the target. A cross at the top marks a request that ran out of
memory. Both models share a device unless the title names several.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import read_measurements, timed
from proxykv.report.plots._curves import log_scale, panels
from proxykv.report.plots._efficiency import (
    draw_range,
    legend_of,
    length_axis,
    length_scans,
    variant_styles,
)


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Draw two panels, seconds and memory, for each family's scan of lengths.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    measured = read_measurements(run_dir)
    scans = dict(length_scans(measured)) if len(measured) else {}
    if not scans:
        return None
    titles = [
        f"{title}{_devices(part.devices.max())}: {what}"
        for title, part in scans.items()
        for what in ("latency", "peak memory")
    ]
    figure, axes = panels(titles, columns=2, width=5.2, height=3.9)
    styles = variant_styles(pd.concat(scans.values()), methods)
    for i, part in enumerate(scans.values()):
        lengths = sorted(part.tokens.unique())
        seconds, memory = axes[2 * i : 2 * i + 2]
        for (method, schedule), line in styles.items():
            of_case = part[(part.method == method) & (part.schedule == schedule)]
            draw_latency(seconds, of_case, line)
            peaks = of_case[of_case.repeat == 0].dropna(subset="target_peak_bytes")
            memory.plot(peaks.tokens, peaks.target_peak_bytes / 2**30, **line)
        log_scale(seconds)
        for axis, label in ((seconds, "seconds to the pruned cache"), (memory, "GiB")):
            length_axis(axis, lengths)
            axis.set_ylabel(label)
    legend_of(figure, styles, "Method")
    return figure


def _devices(count: int) -> str:
    """What a title says of so many devices."""
    return {1: "", 2: ", two devices"}.get(count, f", {count} devices")


def draw_latency(axis: Axes, of_case: pd.DataFrame, line: dict) -> None:
    """Draw the seconds to the pruned cache of one variant, and where it ran out of memory.

    Args:
        axis: where to draw.
        of_case: the variant's requests of all lengths.
        line: keyword arguments of `Axes.plot`.
    """
    found = timed(of_case).groupby("tokens").cache_seconds.agg(["median", "min", "max"])
    draw_range(axis, list(found.index), found, line)
    for tokens in of_case.tokens[of_case.status != "ok"].unique():
        at = axis.get_xaxis_transform()
        cross = {name: line[name] for name in ("color", "gid")}
        axis.plot([tokens], [0.97], marker="x", transform=at, zorder=6, **cross)
