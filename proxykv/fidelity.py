"""How close predicted scores come to the target's own: by what would be kept."""

from __future__ import annotations

from collections.abc import Sequence

from proxykv.select import select
from proxykv.tensors import Scores

FIDELITY_RETENTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)


def fidelity(
    predicted: Scores, target: Scores, retentions: Sequence[float] = FIDELITY_RETENTIONS
) -> dict[str, float]:
    """Compare kept sets at every retention; all figures in [0, 1], 1 is perfect.

    - `mass@ρ`: true score mass of the predicted global top, over that of the true one.
    - `global_overlap@ρ`: share of the true kept set that the predicted one holds, global budget.
      A constant score per head already reaches 0.65-0.70, hence its companion
    - `head_overlap@ρ`: the same under equal per-head budgets, mean over heads: token choice alone.
    """
    figures = {}
    target = target.float()
    for retention in retentions:
        for scope in ("global", "head"):
            kept, true = select(predicted, retention, scope), select(target, retention, scope)
            budget = true.sum().item()
            overlap = (kept & true).sum().item() / budget if budget else 1.0
            figures[f"{scope}_overlap@{retention}"] = overlap
            if scope == "global":
                best = target[true].sum().item()
                figures[f"mass@{retention}"] = target[kept].sum().item() / best if best else 1.0
    return figures
