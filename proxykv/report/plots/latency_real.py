"""Time on one device, real inputs.

The paper's figure 11: seconds until the pruned cache is ready against context length, both models
on one device, one after the other, on contexts of a benchmark that are cut to each length. Median
and range of the repeats.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import read_measurements
from proxykv.report.plots._curves import panels
from proxykv.report.plots._efficiency import legend_of, length_axis, length_scans, variant_styles
from proxykv.report.plots.latency import draw_latency


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Draw one panel for each family's scan of lengths with a benchmark's contexts.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    measured = read_measurements(run_dir)
    if measured.empty:
        return None
    chosen = (measured.inputs != "random") & (measured.devices == 1)
    scans = dict(length_scans(measured[chosen & (measured.schedule == "sequential")]))
    if not scans:
        return None
    titles = [f"{title}: {part.inputs.iloc[0].split(':')[0]}" for title, part in scans.items()]
    figure, axes = panels(titles, columns=2, width=5.2, height=3.9)
    styles = variant_styles(pd.concat(scans.values()), methods)
    for axis, part in zip(axes, scans.values(), strict=True):
        for (method, _), line in styles.items():
            draw_latency(axis, part[part.method == method], line)
        length_axis(axis, sorted(part.tokens.unique()))
        axis.set_ylim(bottom=0)
        axis.set_ylabel("seconds to the pruned cache")
    legend_of(figure, styles, "Method")
    return figure
