"""Scores to kept sets: budgets to the entry, ties, nesting, equivariance, transplants."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proxykv.model.tensors import Scores
from proxykv.scoring.selection import Scope, budget, kept_digest, select, transplant

SCOPES: tuple[Scope, ...] = ("global", "layer", "head")


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40))
retentions = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)
seeds = st.integers(0, 2**31)


def draw(shape: tuple[int, int, int], seed: int, levels: int | None = None) -> Scores:
    """Random scores without ties, or of a few levels so that ties abound."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(levels, shape, generator=generator).float()
    count = shape[0] * shape[1] * shape[2]
    return torch.randperm(count, generator=generator).float().reshape(shape)


def units(tensor: torch.Tensor, scope: Scope) -> torch.Tensor:
    """The parts of a tensor that share a budget, as rows."""
    first = {"global": 0, "layer": 1, "head": 2}[scope]
    return tensor.reshape(*tensor.shape[:first], -1).reshape(-1, tensor[(0,) * first].numel())


@given(shapes, seeds, retentions, st.sampled_from(SCOPES), st.sampled_from([None, 1, 2, 5]))
def test_every_unit_meets_its_budget_with_its_best_entries_and_lowest_indices(
    shape: tuple[int, int, int], seed: int, retention: float, scope: Scope, levels: int | None
) -> None:
    scores = draw(shape, seed, levels)
    keep = select(scores, retention, scope)
    assert keep.shape == scores.shape
    assert keep.dtype == torch.bool
    for values, kept in zip(units(scores, scope), units(keep, scope), strict=True):
        count = int(Decimal(str(retention)) * len(values))
        best = sorted(range(len(values)), key=lambda i: (-values[i].item(), i))[:count]
        assert kept.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize(
    ("retention", "entries", "kept"), [(0.7, 90, 63), (0.29, 100, 29), (0.1, 9, 0), (1, 7, 7)]
)
def test_budgets_are_decimal(retention: float, entries: int, kept: int) -> None:
    assert budget(retention, entries) == kept
    assert select(torch.rand(1, 1, entries), retention, "global").sum() == kept


@given(shapes, seeds, retentions, retentions, st.sampled_from(SCOPES), st.sampled_from([None, 2]))
def test_kept_sets_are_nested(
    shape: tuple[int, int, int], seed: int, a: float, b: float, scope: Scope, levels: int | None
) -> None:
    scores = draw(shape, seed, levels)
    small, large = (select(scores, retention, scope) for retention in sorted((a, b)))
    assert not (small & ~large).any()


@given(shapes, seeds, retentions, st.sampled_from(SCOPES))
def test_what_scores_highest_is_protected(
    shape: tuple[int, int, int], seed: int, retention: float, scope: Scope
) -> None:
    """Tokens lifted above all others stay wherever the budget has room for them."""
    scores = draw(shape, seed)
    tokens = torch.randperm(shape[2], generator=torch.Generator().manual_seed(seed))
    protected = torch.zeros(shape, dtype=torch.bool)
    protected[:, :, tokens[: int(retention * shape[2])]] = True
    keep = select(scores + protected * (scores.max() + 1), retention, scope)
    assert keep[protected].all()


@given(shapes, seeds, retentions, st.sampled_from(SCOPES))
def test_permuting_heads_permutes_the_kept_set(
    shape: tuple[int, int, int], seed: int, retention: float, scope: Scope
) -> None:
    scores = draw(shape, seed)
    heads = torch.randperm(shape[1], generator=torch.Generator().manual_seed(seed))
    keep = select(scores, retention, scope)
    assert torch.equal(select(scores[:, heads], retention, scope), keep[:, heads])


@given(shapes, seeds, seeds, retentions)
def test_transplant_keeps_one_methods_counts_and_the_others_tokens(
    shape: tuple[int, int, int], seed: int, other: int, retention: float
) -> None:
    allocation, ranking = draw(shape, seed), draw(shape, other)
    crossed = transplant(allocation, ranking)
    keep = select(crossed, retention, "global")
    counts = keep.sum(dim=-1)
    assert torch.equal(counts, select(allocation, retention, "global").sum(dim=-1))
    for kept, ranks, count in zip(
        keep.flatten(0, 1), ranking.flatten(0, 1), counts.flatten(), strict=True
    ):
        assert torch.equal(kept.nonzero().flatten(), ranks.topk(int(count)).indices.sort().values)


@pytest.mark.parametrize("retention", [0, -0.1, 1.0001, float("nan"), float("inf")])
def test_refuses_a_retention_outside_its_range(retention: float) -> None:
    with pytest.raises(ValueError, match=r"outside \(0, 1\]"):
        select(torch.rand(1, 1, 4), retention, "global")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_refuses_scores_that_are_not_finite(bad: float) -> None:
    scores = torch.rand(2, 2, 4)
    scores[1, 0, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        select(scores, 0.5, "head")


@pytest.mark.usefixtures("unchecked")
def test_refuses_other_scopes_and_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="scope 'token' is not one of global, layer, head"):
        select(torch.rand(1, 1, 4), 0.5, "token")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shapes differ"):
        transplant(torch.rand(1, 2, 4), torch.rand(1, 2, 5))


def test_a_digest_tells_kept_sets_apart() -> None:
    keep = torch.zeros(2, 3, 50, dtype=torch.bool)
    keep[1, 2, 49] = True
    moved = keep.flip(2)
    assert kept_digest(keep) == kept_digest(keep.clone())
    assert kept_digest(keep) == kept_digest(keep.transpose(0, 1).contiguous().transpose(0, 1))
    reshaped = keep.reshape(3, 2, 50)
    assert len({kept_digest(each) for each in (keep, moved, reshaped)}) == 3
