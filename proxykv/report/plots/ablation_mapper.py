"""Ablation: parts of the mapper.

ProxyKV without the convolution, the context encoder or the attention over heads, as a linear map,
on other features of the proxy, or not matched to the distribution of the true scores, minus the
whole mapper on the same contexts (95 % intervals). Inside the grey band lie differences that
another seed makes too.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from proxykv.report.plots._ablation import draw_differences


def draw(rows: pd.DataFrame, run_dir: Path) -> Figure | None:
    """Score and KL; None where the run changes no part."""
    return draw_differences(rows, run_dir, "mapper", "signal", "calibrated")
