"""Sensitivity to the weights of the loss.

ProxyKV trained with other weights of the same terms, minus ProxyKV trained with the run's own, on
the same contexts (95 % intervals). Inside the grey band lie differences that another seed makes
too.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.report.plots._ablation import draw_differences


def draw(rows: pd.DataFrame, run_dir: Path) -> Figure | None:
    """Score and KL; None where the run has one set of weights."""
    return draw_differences(rows, run_dir, "weights")
