"""Fidelity: how close predicted scores come to the target's KVzip scores, by what is kept."""

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
    """Compare kept sets at every retention ρ.

    - `mass@ρ`: sum of the true scores in the predicted kept set, divided by that in the true kept
      set, under a global budget.
    - `global_overlap@ρ`: share of the true kept set that is in the predicted one, under a global
      budget. A constant score for each head already reaches 0.65–0.70, hence the next two.
    - `allocation@ρ`: share of the global budget that goes to the right heads, Σ min(k, k*) / Σ k*
      for k tokens kept of a head and k* truly kept. It measures the split among heads alone.
    - `head_overlap@ρ`: overlap under the same budget for every head. It measures the choice of
      tokens alone.

    Args:
        predicted: scores [L, H, n]; only their order counts.
        target: the target's KVzip scores [L, H, n].
        retentions: shares of KV pairs to keep.

    Returns:
        Values in [0, 1] by name; 1 is perfect.
    """
    metrics = {}
    target = target.float()
    for retention in retentions:
        kept, true = select(predicted, retention, "global"), select(target, retention, "global")
        counts = kept.sum(dim=-1).minimum(true.sum(dim=-1))
        mass, best = (target[keep].sum().item() for keep in (kept, true))
        metrics[f"mass@{retention}"] = mass / best if best else 1.0
        metrics[f"global_overlap@{retention}"] = _share((kept & true).sum(), true)
        metrics[f"allocation@{retention}"] = _share(counts.sum(), true)
        kept, true = select(predicted, retention, "head"), select(target, retention, "head")
        metrics[f"head_overlap@{retention}"] = _share((kept & true).sum(), true)
    return metrics


def rank_correlation(predicted: Scores, target: Scores) -> float:
    """Spearman's rank correlation along the tokens of a head, mean over heads.

    Args:
        predicted: scores [L, H, n].
        target: the target's KVzip scores [L, H, n].

    Returns:
        A value in [-1, 1]; a head of equal scores counts 0.
    """
    first, second = (_ranks(scores) for scores in (predicted, target))
    norm = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return ((first * second).sum(-1) / norm.clamp_min(1e-9)).mean().item()


def _ranks(scores: Scores) -> Tensor:
    """Ranks within each head minus their mean; equal scores share the mean of their ranks."""
    ranks = from_numpy(rankdata(scores.cpu().numpy(), axis=-1))
    return ranks - ranks.mean(dim=-1, keepdim=True)


def _share(found: Tensor, true: Keep) -> float:
    budget = true.sum().item()
    return found.item() / budget if budget else 1.0
