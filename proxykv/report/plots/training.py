"""Training of the mapper.

One row of panels per mapper, without the variants of an ablation: the total loss, each term of the
loss, mass reconstruction on held-out contexts (the score mass in the predicted top ρ over that in
the true top ρ), and the overlap of the kept set with the oracle's there. Global overlap is high
even for a constant score per head. So its two parts are shown too: the overlap within heads, and
the share of the budget that goes to the right heads (allocation). A hollow mark is what the paper
states for the same target.
"""

import json
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots._curves import log_scale, panels
from proxykv.report.plots._paper import HOLLOW, NAME, stated

POINTS = 400  # that a line is drawn with: a long training has thousands of steps
TERMS = {
    "bin": "#D55E00",
    "mse": "#0072B2",
    "fine": "#009E73",
    "global": "#CC79A7",
    "cos": "#8A6D00",
}


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """Four panels per mapper; None where the run trained none.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    logs = read_logs(run_dir)
    if not logs:
        return None
    kinds = ("total loss", "loss terms", "mass reconstruction", "kept-set overlap")
    titles = [f"{name}: {kind}" if kind == kinds[0] else kind for name in logs for kind in kinds]
    figure, axes = panels(titles, columns=4, width=3.7, height=3.9, legend=False)
    for i, (title, log) in enumerate(logs.items()):
        total, terms, mass, overlap = axes[4 * i : 4 * i + 4]
        _lines(total, log, {"total": "#D55E00"}, logarithmic=True)
        _lines(terms, log, TERMS, logarithmic=True)
        held_out = log.query("split == 'val'")
        colors = _by_retention(log, "mass@")
        _lines(mass, held_out, colors)
        family, _, method = title.partition(" · ")
        for claim, number in stated(rows, family, "mass"):
            color = colors.get(f"mass@{claim.retentions[0]:g}")
            if claim.method == method and color:
                at = [log.step.max()], [number]
                mass.plot(*at, color=color, marker="o", label=NAME, **HOLLOW)
        for name, style in (("head_overlap", "-"), ("global_overlap", "--"), ("allocation", ":")):
            label = f"{name.removesuffix('_overlap')} {{}}"
            _lines(overlap, held_out, _by_retention(log, f"{name}@"), label=label, style=style)
    for axis in axes:
        axis.set_xlabel("step")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(
                fontsize=7.5,
                ncols=2,
                handlelength=1.6,
                columnspacing=0.9,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.18),
            )
    return figure


def read_logs(run_dir: Path) -> dict[str, pd.DataFrame]:
    """Training logs of a run's mappers, `family · method` -> one line per logged step.

    Methods that the config derives from others are left out: an ablation has dozens.
    """
    logs = {}
    paths = sorted((run_dir / "mappers").glob("*/*/log.jsonl"))
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8")) if paths else {}
    derived = {m["id"] for m in config.get("methods", []) if isinstance(m, dict)}
    for path in paths:
        if path.parts[-2] in derived:
            continue
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        if lines:
            logs[f"{path.parts[-3]} · {path.parts[-2]}"] = pd.DataFrame(lines)
    return logs


def _by_retention(log: pd.DataFrame, prefix: str) -> dict[str, str]:
    columns = sorted(
        (c for c in log.columns if c.startswith(prefix)), key=lambda c: float(c.partition("@")[2])
    )
    return dict(
        zip(columns, sns.color_palette("viridis_r", len(columns) + 1).as_hex()[1:], strict=True)
    )


def _lines(
    axis: Axes,
    log: pd.DataFrame,
    colors: dict[str, str],
    *,
    label: str = "{}",
    style: str = "-",
    logarithmic: bool = False,
) -> None:
    for column, color in colors.items():
        if column not in log:
            continue
        known = log.dropna(subset=[column])
        name = label.format(f"ρ {column.partition('@')[2]}" if "@" in column else column)
        for split, points in known.groupby("split"):
            part = points.iloc[:: -(-len(points) // POINTS)]
            # Training steps are noisy: show them pale, under their running median.
            noisy = split == "train" and len(part) > 30
            axis.plot(
                part.step,
                part[column],
                color=color,
                ls=style,
                lw=1,
                alpha=0.25 if noisy else 1,
                label=None if noisy else name,
            )
            if noisy:
                smooth = part[column].rolling(max(5, len(part) // 40), center=True, min_periods=1)
                axis.plot(part.step, smooth.median(), color=color, ls=style, lw=1.8, label=name)
    if logarithmic and axis.lines:
        log_scale(axis)
