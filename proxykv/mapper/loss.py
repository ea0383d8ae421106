"""The Multi-Granularity Hybrid Loss: one pure function for each term, and each term a mean.

A term is a function `<name>_loss(logits, target, generator)` under `@loss_term(default weight)`.
Nothing else lists the terms: config, checks and log follow from these functions.

The paper (arXiv 2605.16360) names the terms and the weights of two (`bin` 10, `mse` 20); the
formulas are this project's. Everywhere s are the mapper's logits [L, H, n], Ŷ = σ(s), Y are the
target's KVzip scores in [0, 1], of the same shape, and N = L·H·n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from proxykv.config.settings.training import SUFFIX
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.selection import budget

BIN_RETENTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Logits = Float[Tensor, "layer kv_head token"]
Scalar = Float[Tensor, ""]
Term = Callable[[Logits, Logits, torch.Generator], Scalar]
AnyTerm = TypeVar("AnyTerm", bound=Callable[..., Scalar])

TERMS: dict[str, Term] = {}
"""Every term of the loss by name, in the order in which they draw from the generator."""


def loss_term(weight: float) -> Callable[[AnyTerm], AnyTerm]:
    """Make a function a term of the loss; the term's name is the function's without `_loss`.

    Args:
        weight: of the term in a config that states no weights; 0 if it is off by default. Must be
            a literal: `proxykv.config.settings.training` reads it from the source.
    """
    assert weight >= 0

    def register(term: AnyTerm) -> AnyTerm:
        TERMS[term.__name__.removesuffix(SUFFIX)] = term
        return term

    return register


@loss_term(10.0)
def bin_loss(
    logits: Logits,
    target: Logits,
    generator: torch.Generator,
    retentions: Sequence[float] = BIN_RETENTIONS,
    temperature: float = 0.5,
) -> Scalar:
    """Keep or drop: mean over ρ and entries of BCE((s − q_ρ)/T, [Y in the top ρ globally]).

    q_ρ is the ⌊ρN⌋-th largest logit (at least the first), without gradient. Among equal Y the
    lowest index is in the top, as in selection.

    Args:
        logits: s.
        target: Y.
        generator: not used.
        retentions: ρ.
        temperature: T.
    """
    thresholds = logits.detach()
    return _keep_or_drop(logits, thresholds, target, retentions, temperature)


@loss_term(20.0)
def mse_loss(
    logits: Logits, target: Logits, generator: torch.Generator, floor: float = 0.05
) -> Scalar:
    """Squared error, weighted by the true score: Σ w (Ŷ − Y)² / Σ w, with w = floor + Y.

    Args:
        logits: logits of Ŷ.
        target: Y.
        generator: not used.
        floor: weight of a score of 0.
    """
    weight = floor + target
    return (weight * (logits.sigmoid() - target).square()).sum() / weight.sum()


@loss_term(1.0)
def fine_loss(
    logits: Logits,
    target: Logits,
    generator: torch.Generator,
    retention: float = 0.3,
    pairs: int = 16384,
) -> Scalar:
    """Rank inside the true top-K, K = ⌊0.3·N⌋: mean of softplus(−(s_i − s_j)) over Y_i > Y_j.

    Args:
        logits: s.
        target: Y.
        generator: draws the pairs.
        retention: K / N.
        pairs: random pairs of the top-K; those with equal Y are left out of the mean.
    """
    top = target.flatten().topk(max(budget(retention, target.numel()), 1)).indices
    first, second = top[_pairs(len(top), pairs, generator, top.device)]
    gap = target.flatten()[first] - target.flatten()[second]
    return _rank_loss(logits, first, second, gap.sign(), gap.ne(0).to(logits.dtype))


@loss_term(0.0)  # the ablation found no use for it (docs/results/ablations.md)
def global_loss(
    logits: Logits, target: Logits, generator: torch.Generator, pairs: int = 16384
) -> Scalar:
    """Rank everywhere, by mass: Σ w softplus(−(s_i − s_j)) / Σ w over random pairs Y_i > Y_j.

    w = |Y_i − Y_j| is the mass that a swap of the two would cost.

    Args:
        logits: s.
        target: Y.
        generator: draws the pairs.
        pairs: random pairs over all heads and tokens.
    """
    first, second = _pairs(target.numel(), pairs, generator, target.device)
    gap = target.flatten()[first] - target.flatten()[second]
    return _rank_loss(logits, first, second, gap.sign(), gap.abs())


@loss_term(1.0)
def cos_loss(logits: Logits, target: Logits, generator: torch.Generator) -> Scalar:
    """Shape of each head's scores: 1 − mean over heads of cos(Ŷ_h, Y_h) along tokens.

    Args:
        logits: logits of Ŷ.
        target: Y.
        generator: not used.
    """
    return 1 - F.cosine_similarity(logits.sigmoid(), target, dim=-1).mean()


@loss_term(0.0)
def cut_loss(
    logits: Logits,
    target: Logits,
    generator: torch.Generator,
    retentions: Sequence[float] = BIN_RETENTIONS,
    temperature: float = 0.5,
) -> Scalar:
    """`bin` with the gradient of q_ρ.

    It does not change when all logits rise alike. Without the gradient of q_ρ, logits that the
    mapper cannot tell apart are pushed away from a threshold that follows them, and training
    diverges where the proxy's signal says little (docs/results/signals.md).

    Args:
        logits: s.
        target: Y.
        generator: not used.
        retentions: ρ.
        temperature: T.
    """
    return _keep_or_drop(logits, logits, target, retentions, temperature)


def hybrid_loss(
    logits: Logits,
    target: Logits,
    weights: Mapping[str, float],
    generator: torch.Generator,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Compute the weighted sum of the terms, Σ λ · term.

    Args:
        logits: s.
        target: Y.
        weights: λ by term; a term that is left out counts 0.
        generator: on the CPU; draws the pairs of `fine` and `global`.

    Returns:
        The weighted sum, with gradient, and every term by its name, without gradient, also those
        whose weight is 0.

    Raises:
        ConfigError: for a weight without a term, or weights that are all zero.
    """
    if unknown := set(weights) - set(TERMS):
        raise ConfigError(
            f"loss weights: no term {', '.join(sorted(unknown))}; choose among {', '.join(TERMS)}"
        )
    if not any(weights.values()):
        raise ConfigError("loss weights: all are zero; give at least one term a weight")
    terms = {name: term(logits, target, generator) for name, term in TERMS.items()}
    used = [weights[name] * term for name, term in terms.items() if weights.get(name)]
    return torch.stack(used).sum(), {name: term.detach() for name, term in terms.items()}


def _keep_or_drop(
    logits: Logits,
    thresholds: Logits,
    target: Logits,
    retentions: Sequence[float],
    temperature: float,
) -> Scalar:
    """Mean over ρ and entries of BCE((s − q_ρ)/T, [Y in the top ρ globally]).

    Args:
        logits: s.
        thresholds: the logits whose ⌊ρN⌋-th largest is q_ρ: s, with or without gradient.
        target: Y.
        retentions: ρ.
        temperature: T.
    """
    s = logits.flatten()
    ordered = thresholds.flatten().sort(descending=True).values
    rank = torch.empty_like(s, dtype=torch.int64)
    order = target.flatten().argsort(descending=True, stable=True)
    rank[order] = torch.arange(len(s), device=s.device)
    terms = []
    for retention in retentions:
        k = max(budget(retention, len(s)), 1)
        label = (rank < k).to(s.dtype)
        terms.append(F.binary_cross_entropy_with_logits((s - ordered[k - 1]) / temperature, label))
    return torch.stack(terms).mean()


def _pairs(
    size: int, count: int, generator: torch.Generator, device: torch.device
) -> Int[Tensor, "2 pair"]:
    return torch.randint(size, (2, count), generator=generator).to(device)


def _rank_loss(
    logits: Logits,
    first: Int[Tensor, " pair"],
    second: Int[Tensor, " pair"],
    sign: Float[Tensor, " pair"],
    weight: Float[Tensor, " pair"],
) -> Scalar:
    s = logits.flatten()
    loss = F.softplus(-sign * (s[first] - s[second]))
    # All pairs tied (constant scores): nothing to rank, a loss of zero.
    return (weight * loss).sum() / weight.sum().clamp_min(torch.finfo(s.dtype).tiny)
