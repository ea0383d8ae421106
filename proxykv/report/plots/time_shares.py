"""Where the subject's time goes.

The paper's figure 8: shares of the phases in the sum of their median seconds, against length. The
number is the mapper's share. In the parallel schedule the proxy's phases overlap the target's
prefill; their sum then exceeds the time to the pruned cache.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from proxykv.config.cards import MethodCards
from proxykv.report.efficiency import read_measurements, timed
from proxykv.report.plots._curves import panels
from proxykv.report.plots._efficiency import PHASES, length_scans


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Draw one panel for each scan of lengths and each schedule.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    measured = read_measurements(run_dir)
    subject = methods.only("subject")
    if measured.empty or subject is None:
        return None
    of_subject = timed(measured[measured.method == subject])
    scans = {
        f"{title}: {schedule}": part
        for title, scan in length_scans(of_subject)
        for schedule, part in scan.groupby("schedule", sort=False)
    }
    if not scans:
        return None
    figure, axes = panels(list(scans), columns=2, width=4.6, height=3.6)
    for axis, part in zip(axes, scans.values(), strict=True):
        _stack(axis, phase_shares(part))
    patches = [Patch(color=color, label=name) for name, color in PHASES.values()]
    figure.legend(handles=patches, loc="outside right upper", title="Phase", alignment="left")
    return figure


def phase_shares(part: pd.DataFrame) -> pd.DataFrame:
    """Share of each phase's median (columns, in their order) in their sum, by length (rows)."""
    seconds = pd.DataFrame(list(part.seconds), index=part.tokens).fillna(0.0)
    medians = seconds.groupby("tokens").median()
    shares = medians.div(medians.sum(axis=1), axis=0)
    return shares[[phase for phase in PHASES if phase in shares]]


def _stack(axis: Axes, shares: pd.DataFrame) -> None:
    places = range(len(shares))
    bottom = pd.Series(0.0, index=shares.index)
    for phase in shares:
        axis.bar(places, shares[phase], bottom=bottom, color=PHASES[str(phase)][1], width=0.7)
        bottom = bottom + shares[phase]
    if "mapper" in shares:
        for place, share in enumerate(shares["mapper"]):
            axis.text(place, 1.02, f"{100 * share:.1f} %", ha="center", fontsize=8)
    axis.set_xticks(list(places), [str(tokens) for tokens in shares.index])
    axis.set_ylim(0, 1.1)
    axis.set_xlabel("context, tokens")
    axis.set_ylabel("share of the phases' time")
