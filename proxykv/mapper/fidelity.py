"""How close predicted scores come to the target's own: by what would be kept."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import rankdata
from torch import Tensor, from_numpy

from proxykv.model.tensors import Keep, Scores
from proxykv.scoring.selection import select

FIDELITY_RETENTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)


def fidelity(
    predicted: Scores, target: Scores, retentions: Sequence[float] = FIDELITY_RETENTIONS
) -> dict[str, float]:
    """Compare kept sets at every retention; all figures in [0, 1], 1 is perfect.

    - `mass@ρ`: true score mass of the predicted global top, over that of the true one.
    - `global_overlap@ρ`: share of the true kept set that the predicted one holds, global budget.
      A constant score per head already reaches 0.65-0.70, hence its two companions
    - `allocation@ρ`: share of the global budget that goes to the right heads, Σ min(k, k*) / Σ k*
      for k tokens kept of a head and k* truly kept: the split among heads alone;
    - `head_overlap@ρ`: overlap under equal per-head budgets, mean over heads: token choice alone.
    """
    figures = {}
    target = target.float()
    for retention in retentions:
        kept, true = select(predicted, retention, "global"), select(target, retention, "global")
        counts = kept.sum(dim=-1).minimum(true.sum(dim=-1))
        mass, best = (target[keep].sum().item() for keep in (kept, true))
        figures[f"mass@{retention}"] = mass / best if best else 1.0
        figures[f"global_overlap@{retention}"] = _share((kept & true).sum(), true)
        figures[f"allocation@{retention}"] = _share(counts.sum(), true)
        kept, true = select(predicted, retention, "head"), select(target, retention, "head")
        figures[f"head_overlap@{retention}"] = _share((kept & true).sum(), true)
    return figures


def rank_correlation(predicted: Scores, target: Scores) -> float:
    """Spearman's ρ along the tokens of a head, mean over heads; 0 for a head of equal scores."""
    first, second = (_ranks(scores) for scores in (predicted, target))
    norm = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return ((first * second).sum(-1) / norm.clamp_min(1e-9)).mean().item()


def _ranks(scores: Scores) -> Tensor:
    """Ranks within each head less their mean; equal scores share theirs."""
    ranks = from_numpy(rankdata(scores.cpu().numpy(), axis=-1))
    return ranks - ranks.mean(dim=-1, keepdim=True)


def _share(found: Tensor, true: Keep) -> float:
    budget = true.sum().item()
    return found.item() / budget if budget else 1.0
