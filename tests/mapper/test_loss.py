"""The five loss terms: by hand, and by what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxykv.config.settings.training import default_weights, term_weights
from proxykv.mapper.loss import (
    TERMS,
    bin_loss,
    cos_loss,
    cut_loss,
    fine_loss,
    global_loss,
    hybrid_loss,
    mse_loss,
)
from proxykv.runtime.errors import ConfigError

# "cut" is not in the paper: `bin` with the gradient of the threshold.
PAPER_WEIGHTS = {"bin": 10.0, "mse": 20.0, "fine": 1.0, "global": 1.0, "cos": 1.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, -1)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def all_terms(logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    return hybrid_loss(logits, target, PAPER_WEIGHTS, generator())[1]


def test_bin_by_hand() -> None:
    # ρ 0.5 of 2: q is the largest logit, 2; the other entry lies (0 − 2)/0.5 = −4 below it.
    good = bin_loss(grid(2.0, 0.0), grid(0.9, 0.1), generator(), retentions=(0.5,))
    bad = bin_loss(grid(2.0, 0.0), grid(0.1, 0.9), generator(), retentions=(0.5,))
    assert good.item() == pytest.approx((softplus(0) + softplus(-4)) / 2)
    assert bad.item() == pytest.approx((softplus(0) + softplus(4)) / 2)


def test_bin_threshold_has_no_gradient() -> None:
    logits = grid(2.0, 0.0).requires_grad_()
    bin_loss(logits, grid(0.1, 0.9), generator(), retentions=(0.5,)).backward()
    assert logits.grad is not None
    # d/ds of BCE is (σ(z) − label)/T per entry, over 2 entries: through q nothing is added.
    expected = [(0.5 - 0) / 0.5 / 2, (1 / (1 + math.exp(4)) - 1) / 0.5 / 2]
    assert logits.grad.flatten().tolist() == pytest.approx(expected)


def test_cut_is_bin_with_the_gradient_of_the_threshold() -> None:
    target, logits = torch.rand(2, 2, 50), torch.randn(2, 2, 50)
    assert cut_loss(logits, target, generator()) == bin_loss(logits, target, generator())
    pulls = {}
    for term in (bin_loss, cut_loss):
        # Logits that tell nothing apart: what is left is the drift of all of them together.
        same = torch.zeros(2, 2, 50).requires_grad_()
        term(same, target, generator(), retentions=(0.1,)).backward()
        assert same.grad is not None
        pulls[term] = same.grad.sum().item()
    assert pulls[cut_loss] == pytest.approx(0, abs=1e-6)
    assert pulls[bin_loss] == pytest.approx((0.5 - 0.1) / 0.5)


def test_bin_label_breaks_ties_by_index() -> None:
    target = grid(0.5, 0.5)
    first = bin_loss(grid(1.0, 0.0), target, generator(), retentions=(0.5,))
    second = bin_loss(grid(0.0, 1.0), target, generator(), retentions=(0.5,))
    assert first < second


def test_mse_by_hand() -> None:
    # σ(0) = 0.5 against 1 and 0; weights 1.05 and 0.05.
    loss = mse_loss(grid(0.0, 0.0), grid(1.0, 0.0), generator())
    assert loss.item() == pytest.approx(0.25)
    loss = mse_loss(grid(0.0, 100.0), grid(1.0, 0.0), generator())
    assert loss.item() == pytest.approx((1.05 * 0.25 + 0.05 * 1.0) / 1.10)


def test_fine_ranks_only_inside_the_top() -> None:
    target = torch.linspace(1, 0, 10).reshape(1, 1, 10)
    right = torch.linspace(3, -3, 10).reshape(1, 1, 10)
    outside = right.clone()
    outside[..., 3:] = outside[..., 3:].flip(-1)  # below the top 30 %: must not matter
    inside = right.clone()
    inside[..., :3] = inside[..., :3].flip(-1)
    good, same, bad = (fine_loss(s, target, generator()) for s in (right, outside, inside))
    assert good == same
    assert good < bad


def test_fine_by_hand() -> None:
    target, logits = torch.zeros(1, 1, 10), torch.zeros(1, 1, 10)
    target[0, 0, :3] = torch.tensor([1.0, 0.5, 0.5])
    logits[0, 0, :3] = torch.tensor([2.0, 0.0, 0.0])
    # Only (0, 1) and (0, 2) differ in Y, both by 2 in s: the mean is softplus(−2).
    assert fine_loss(logits, target, generator()).item() == pytest.approx(softplus(-2), rel=1e-5)


def test_global_by_hand() -> None:
    # Only the pair (0, 1) has mass, drawn in either order: its loss, whatever the draw count.
    loss = global_loss(grid(3.0, 1.0), grid(0.75, 0.25), generator())
    assert loss.item() == pytest.approx(softplus(-2), rel=1e-5)


def test_global_weighs_by_mass() -> None:
    target = grid(1.0, 0.01, 0.0)
    small = global_loss(grid(5.0, -1.0, 1.0), target, generator())  # swaps 0.01 and 0
    large = global_loss(grid(-1.0, 5.0, -3.0), target, generator())  # swaps 1 and 0.01
    assert small * 10 < large


def test_cos_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
    target = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]])
    expected = 1 - (1 + math.sqrt(0.5)) / 2
    assert cos_loss(logits, target, generator()).item() == pytest.approx(expected, rel=1e-5)


def test_cos_ignores_each_heads_level() -> None:
    logits, target = torch.randn(2, 3, 40), torch.rand(2, 3, 40)
    scaled = target * torch.tensor([1.0, 0.1, 0.5]).reshape(1, 3, 1)
    assert torch.allclose(
        cos_loss(logits, target, generator()), cos_loss(logits, scaled, generator()), atol=1e-6
    )


def gradient(term: str, logits: torch.Tensor, target: torch.Tensor) -> list[float]:
    logits = logits.clone().requires_grad_()
    hybrid_loss(logits, target, {term: 1.0}, generator())[0].backward()
    assert logits.grad is not None
    return logits.grad.flatten().tolist()


def test_mse_gradient_by_hand() -> None:
    # d/ds of w (σ − Y)² / Σw is 2 w (σ − Y) σ (1 − σ) / Σw; at s = 0, σ = 0.5.
    expected = [2 * 1.05 * -0.5 / 4 / 1.10, 2 * 0.05 * 0.5 / 4 / 1.10]
    assert gradient("mse", grid(0.0, 0.0), grid(1.0, 0.0)) == pytest.approx(expected)


def test_global_gradient_by_hand() -> None:
    # One pair: d/ds_i of softplus(−(s_i − s_j)) is −σ(s_j − s_i), and its opposite for j.
    push = 1 / (1 + math.exp(2))
    assert gradient("global", grid(3.0, 1.0), grid(0.75, 0.25)) == pytest.approx(
        [-push, push], rel=1e-4
    )


def test_fine_gradient_stays_inside_the_top() -> None:
    target = torch.linspace(1, 0, 10).reshape(1, 1, 10)
    inside, outside = (g := gradient("fine", torch.zeros(1, 1, 10), target))[:3], g[3:]
    assert inside[0] < inside[1] < inside[2] and inside[0] < 0 < inside[2]
    assert outside == [0.0] * 7


def test_cos_gradient_turns_each_head_on_its_own() -> None:
    target = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
    first, second, *other = gradient("cos", torch.zeros(2, 1, 2), target)
    # cos of (σ_1, σ_2) with (1, 0) at σ = 0.5: 1/√2; its derivative by σ_1 is 1/√2, by σ_2 −1/√2.
    assert [first, second] == pytest.approx([-math.sqrt(0.5) / 8, math.sqrt(0.5) / 8])
    assert other == pytest.approx([0.0, 0.0], abs=1e-7)  # its direction is right already


@pytest.mark.parametrize("term", ["fine", "global"])
def test_equal_targets_are_not_ranked(term: str) -> None:
    target = torch.full((1, 2, 30), 0.5)
    logits = torch.randn(1, 2, 30)
    assert all_terms(logits, target)[term] == 0
    assert set(gradient(term, logits, target)) == {0.0}


@pytest.mark.parametrize("term", ["fine", "global"])
def test_equal_logits_cost_ln_2_a_pair(term: str) -> None:
    target = torch.rand(2, 2, 50)
    assert all_terms(torch.zeros(2, 2, 50), target)[term].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("term", ["bin", "fine", "global"])
def test_ranking_terms_ignore_a_shift_of_all_logits(term: str) -> None:
    logits, target = torch.randn(2, 2, 50), torch.rand(2, 2, 50)
    moved = all_terms(logits + 7, target)[term]
    assert torch.allclose(all_terms(logits, target)[term], moved, atol=1e-5)


@pytest.mark.parametrize("term", ["bin", "mse", "cos"])
def test_terms_without_a_draw_ignore_the_order_of_heads_and_tokens(term: str) -> None:
    logits, target = torch.randn(3, 2, 40), torch.rand(3, 2, 40)
    tokens, layers = torch.randperm(40), torch.tensor([2, 0, 1])
    mixed = all_terms(logits[layers][..., tokens], target[layers][..., tokens])[term]
    assert torch.allclose(all_terms(logits, target)[term], mixed, atol=1e-6)


@pytest.mark.parametrize("term", list(PAPER_WEIGHTS))
def test_the_right_order_costs_less_than_its_reverse(term: str) -> None:
    target = torch.rand(2, 2, 100, generator=generator())
    right = all_terms(target.logit(eps=1e-3), target)[term]
    assert right < all_terms(-target.logit(eps=1e-3), target)[term]


def test_bin_pulls_at_every_retention() -> None:
    # Falling logits on rising scores: the top half is pulled up, and the more the higher it
    # belongs, for it is labelled "keep" at more retentions.
    target, logits = torch.linspace(0, 1, 10), torch.linspace(0.1, -0.1, 10)
    pull = [-g for g in gradient("bin", logits.reshape(1, 1, 10), target.reshape(1, 1, 10))]
    assert pull == sorted(pull) and pull[0] < 0 < pull[-1]


@pytest.mark.parametrize("term", list(PAPER_WEIGHTS))
def test_gradient_pulls_towards_the_target(term: str) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 2, 60)
    logits = torch.zeros(2, 2, 60, requires_grad=True)
    total, _ = hybrid_loss(logits + 0.0, target, {term: 1.0}, generator())
    total.backward()
    assert logits.grad is not None
    # Descent must raise what the target ranks high, against what it ranks low.
    top = target >= target.flatten().quantile(0.7)
    lower = target >= target.flatten().quantile(0.85) if term == "fine" else top
    assert (
        -logits.grad[lower].mean() > -logits.grad[top & ~lower if term == "fine" else ~top].mean()
    )


@pytest.mark.parametrize("term", list(PAPER_WEIGHTS))
def test_every_term_is_a_mean(term: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 4000), torch.rand(2, 2, 4000)
    small = all_terms(logits[..., :1000], target[..., :1000])[term]
    assert all_terms(logits, target)[term].item() == pytest.approx(small.item(), rel=0.05)


@pytest.mark.parametrize("size", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_extremes_stay_finite(size: float, level: float) -> None:
    logits = torch.full((2, 2, 20), size, requires_grad=True)
    target = torch.full((2, 2, 20), level)
    total, terms = hybrid_loss(logits, target, PAPER_WEIGHTS, generator())
    total.backward()
    assert all(term.isfinite() for term in (total, *terms.values()))
    assert logits.grad is not None and logits.grad.isfinite().all()


@given(st.integers(1, 3), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=25)
def test_terms_are_finite_and_not_negative(heads: int, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits, target = 5 * torch.randn(2, heads, tokens), torch.rand(2, heads, tokens).half().float()
    for term in all_terms(logits, target).values():
        assert term.isfinite() and term >= -1e-6


def test_total_is_the_weighted_sum_and_the_draw_is_seeded() -> None:
    logits, target = torch.randn(2, 2, 30), torch.rand(2, 2, 30)
    total, terms = hybrid_loss(logits, target, PAPER_WEIGHTS, generator(3))
    again, _ = hybrid_loss(logits, target, PAPER_WEIGHTS, generator(3))
    assert total == again
    expected = sum(PAPER_WEIGHTS.get(name, 0) * term for name, term in terms.items())
    assert torch.allclose(total, torch.as_tensor(expected))
    only, terms = hybrid_loss(logits, target, {"mse": 1.0}, generator(3))
    assert only == terms["mse"] and set(terms) == {*PAPER_WEIGHTS, "cut"}


def test_unknown_or_no_weights_are_refused() -> None:
    logits = target = torch.rand(1, 1, 10)
    with pytest.raises(ConfigError, match="no term mes"):
        hybrid_loss(logits, target, {"mes": 1.0}, generator())
    with pytest.raises(ConfigError, match="all are zero"):
        hybrid_loss(logits, target, {"mse": 0.0}, generator())


def test_names_and_default_weights_are_read_from_the_terms_without_torch() -> None:
    assert list(term_weights()) == list(TERMS) == [*PAPER_WEIGHTS, "cut"]
    assert default_weights() == {"bin": 10.0, "mse": 20.0, "fine": 1.0, "cos": 1.0}
