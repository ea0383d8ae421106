from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent import (
    assert_interval,
    detectable,
    front,
    holm_by_steps,
    mean_of,
    resampled_means,
    resampled_ratios,
    same,
    sign_flip_p,
)

from proxykv.config import catalog
from proxykv.report import stats
from proxykv.runs.audit import resample

FLOATS = st.floats(-5, 5).map(lambda x: round(x, 3))
# Three tasks of unequal size and spread: what ignores the strata or their weights shows.
UNEVEN = [
    np.array([0.9, -0.4, 0.2, 0.7, 0.1]),
    np.array([0.0, 0.3, -0.1]),
    np.array([2.0, -1.5, 0.6, 1.1]),
]


def test_tasks_weigh_the_same_however_many_contexts_they_have():
    strata = [np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 1.0])]
    assert stats.mean_ci(strata) == stats.Estimate(0.5, 0.5, 0.5)


def test_interval_of_one_context_is_undefined_and_of_none_too():
    value, low, high = stats.mean_ci([np.array([0.25]), np.array([0.5, 1.0])])
    assert value == 0.5
    assert math.isnan(low) and math.isnan(high)
    assert all(map(math.isnan, stats.mean_ci([])))


def test_bootstrap_resamples_within_tasks():
    # Two tasks that differ a lot but do not vary inside: no uncertainty about their mean.
    apart = [np.full(10, 0.1), np.full(10, 0.9)]
    assert stats.mean_ci(apart) == pytest.approx((0.5, 0.5, 0.5))
    mixed = [np.concatenate(apart)]
    assert stats.mean_ci(mixed).high - stats.mean_ci(mixed).low > 0.2


def test_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).normal(size=40)
    theirs = bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    ours = stats.mean_ci([values], samples=9999)
    assert ours[1:] == pytest.approx(tuple(theirs), abs=0.03)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        strata = [rng.normal(0.3, 1, 40), rng.normal(0.7, 0.5, 40)]
        _, low, high = stats.mean_ci(strata, samples=500)
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_ratio_of_paired_values_is_resampled_jointly():
    oracle = np.random.default_rng(0).uniform(0.1, 1, 30)
    # The method always gets half: the ratio is certain although each mean is not.
    assert stats.ratio_ci([oracle / 2], [oracle]) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_to_zero_is_undefined():
    assert all(map(math.isnan, stats.ratio_ci([np.ones(3)], [np.zeros(3)])))
    value, low, high = stats.ratio_ci([np.ones(3)], [np.array([0.0, 0.0, 1.0])])
    assert value == pytest.approx(3) and math.isnan(low) and math.isnan(high)


def test_permutation_test_by_hand():
    # Three differences of one sign: of 8 sign vectors, +++ and --- are as extreme.
    assert stats.permutation_p([np.array([1.0, 2.0, 3.0])]) == pytest.approx(2 / 8)
    assert stats.permutation_p([np.zeros(5)]) == 1.0
    assert math.isnan(stats.permutation_p([]))


def test_permutation_test_agrees_with_scipy_where_it_samples():
    from scipy.stats import permutation_test

    d = np.random.default_rng(3).normal(0.25, 1, 50)
    theirs = permutation_test((d,), lambda x, axis: x.mean(axis), permutation_type="samples", rng=0)
    assert stats.permutation_p([d]) == pytest.approx(theirs.pvalue, abs=0.02)


def test_permutation_p_is_never_zero_and_uniform_under_the_null():
    assert stats.permutation_p([np.ones(40)]) == pytest.approx(1 / 10_000)
    rng = np.random.default_rng(5)
    p = [stats.permutation_p([rng.normal(size=20), rng.normal(size=15)]) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09


def test_holm_by_hand():
    # Sorted .01 .02 .04 times 3 2 1 = .03 .04 .04, put back in order.
    assert stats.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert stats.holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


def test_holm_leaves_out_what_is_undefined():
    np.testing.assert_allclose(stats.holm([0.02, np.nan, 0.04]), [0.04, np.nan, 0.04])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_order_and_only_raises(p_values: list[float]):
    adjusted = stats.holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all() and (adjusted <= 1).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_detectable_effect_is_found_with_eighty_percent_power():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(0)
    sample = rng.normal(size=30)
    sample = (sample - sample.mean()) / sample.std(ddof=1)  # sd exactly 1
    effect = stats.detectable_effect([sample])
    samples = rng.normal(effect, 1, (1000, 30))
    _, p = ttest_1samp(samples, 0, axis=1)
    assert np.mean(np.asarray(p) < 0.05) == pytest.approx(0.8, abs=0.04)


def test_detectable_effect_is_undefined_without_variation():
    assert math.isnan(stats.detectable_effect([np.array([0.3])]))
    assert math.isnan(stats.detectable_effect([np.zeros(9)]))
    assert math.isnan(stats.detectable_effect([]))


def test_the_order_of_a_sum_puts_no_point_on_the_front():
    assert stats.pareto_front([0.1 + 0.2, 0.3], [0.5, 0.4]).tolist() == [True, False]
    assert stats.pareto_front([0.2, 0.1], [0.3, 0.1 + 0.2]).tolist() == [False, True]
    assert stats.pareto_front([1.0, 1.0001], [0.5, 0.6]).all()
    assert stats.pareto_front([1.0, 2.0], [0.5, 0.5001]).all()


def test_pareto_front_by_hand():
    cost = [1, 2, 2, 3, np.nan, 1, 1]
    value = [0.5, 0.4, 0.9, 0.9, 1.0, 0.5, np.nan]
    front = stats.pareto_front(cost, value)
    assert front.tolist() == [True, False, True, False, False, True, False]
    gaps: list[list[Any]] = [[1, None, 2], [None, 0.5, 0.5]]  # as a table's nulls arrive
    assert stats.pareto_front(*gaps).tolist() == [False, False, True]


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=30))
def test_front_is_undominated_and_dominates_the_rest(points: list[tuple[float, float]]):
    cost, value = map(np.array, zip(*points, strict=True))
    front = stats.pareto_front(cost, value)
    assert front.any()
    for i in np.flatnonzero(~front):
        better = front & (cost <= cost[i]) & (value >= value[i])
        assert better.any()


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=12), min_size=1, max_size=4))
def test_interval_holds_the_mean_and_stays_in_the_data(tasks: list[list[float]]):
    strata = [np.array(t) for t in tasks]
    value, low, high = stats.mean_ci(strata, samples=200)
    assert low <= high
    floor = np.mean([s.min() for s in strata])
    ceiling = np.mean([s.max() for s in strata])
    assert floor - 1e-9 <= min(low, value) and max(high, value) <= ceiling + 1e-9


# --- several tasks, by another route --------------------------------------------------------------


def test_interval_of_several_tasks_is_that_of_all_their_resamples():
    value, low, high = stats.mean_ci(UNEVEN)
    assert value == same(mean_of([list(task) for task in UNEVEN]))
    assert_interval(low, high, resampled_means([list(task) for task in UNEVEN]))


def test_tasks_are_resampled_independently_of_each_other():
    # Equal tasks: one stream for both would resample them as one, with an interval 1.4 times as
    # wide.
    task = np.array([0.0, 0.1, 0.4, 0.5, 1.0])
    _, low, high = stats.mean_ci([task, task])
    assert_interval(low, high, resampled_means([list(task), list(task)]))
    one = stats.mean_ci([task])
    assert (high - low) / (one.high - one.low) == pytest.approx(2**-0.5, abs=0.06)


def test_interval_of_a_ratio_over_several_tasks_is_that_of_all_resamples():
    below = [np.array([0.5, 0.9, 0.7]), np.array([0.3, 0.8, 0.6, 0.9])]
    above = [np.array([0.1, 0.9, 0.4]), np.array([0.3, 0.2, 0.7, 0.4])]
    value, low, high = stats.ratio_ci(above, below)
    lists = [[list(task) for task in tasks] for tasks in (above, below)]
    assert value == same(mean_of(lists[0]) / mean_of(lists[1]))
    assert_interval(low, high, resampled_ratios(*lists))


def test_ratio_has_no_interval_where_a_task_has_one_context():
    lone = [np.array([0.5]), np.array([0.5, 0.7])]
    value, low, high = stats.ratio_ci(lone, lone)
    assert value == 1 and math.isnan(low) and math.isnan(high)


def test_permutation_test_weighs_tasks_as_the_mean_does():
    assert stats.permutation_p(UNEVEN) == same(sign_flip_p([list(task) for task in UNEVEN]))
    # The second task's lone context weighs as much as the four of the first: both cancel, so that
    # nothing is less extreme. Without weights their sum is 3, and 12 of 32 are as extreme.
    assert stats.permutation_p([np.ones(4), np.array([-1.0])]) == 1.0


def test_exact_and_drawn_permutations_agree():
    drawn = stats.permutation_p(UNEVEN, permutations=4000)
    assert drawn == pytest.approx(sign_flip_p([list(task) for task in UNEVEN]), abs=0.04)


def test_all_sign_vectors_are_used_where_there_are_few_enough():
    d = np.random.default_rng(2).normal(0.4, 1, 13)  # 2^13 = 8192 of at most 9999
    assert stats.permutation_p([d]) * 2**13 == pytest.approx(
        round(stats.permutation_p([d]) * 2**13)
    )
    exact = sign_flip_p([np.round(d, 3).tolist()])
    assert stats.permutation_p([np.round(d, 3)]) == same(exact)


def test_detectable_effect_of_several_tasks_by_hand():
    assert stats.detectable_effect(UNEVEN) == same(detectable([list(task) for task in UNEVEN]))
    # One task by the usual formula: (t(.975) + t(.8)) * sd / sqrt(n), 4 degrees of freedom.
    one = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert stats.detectable_effect([one]) == pytest.approx((2.776445 + 0.940965) * 0.7071068)
    # Two equal tasks: the error falls by sqrt(2), and there are 8 degrees of freedom.
    assert stats.detectable_effect([one, one]) == pytest.approx((2.306004 + 0.88889) * 0.5, 1e-5)


def test_detectable_effect_obeys_its_power_and_level():
    sample = [np.arange(6.0)]
    assert stats.detectable_effect(sample, power=0.9) > stats.detectable_effect(sample)
    assert stats.detectable_effect(sample, alpha=0.01) > stats.detectable_effect(sample)
    half = stats.detectable_effect(sample, power=0.5)  # t(.5) is 0: only the level is left
    assert half == pytest.approx(2.570582 * np.arange(6.0).std(ddof=1) / 6**0.5)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm_by_steps(p_values: list[float]):
    np.testing.assert_allclose(stats.holm(p_values), holm_by_steps(p_values))


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=30))
def test_front_by_comparing_every_pair(points: list[tuple[float, float]]):
    cost, value = zip(*points, strict=True)
    assert stats.pareto_front(cost, value).tolist() == front(points)


def test_draws_depend_on_the_seed_alone():
    assert stats.mean_ci(UNEVEN) == stats.mean_ci(UNEVEN)
    assert stats.mean_ci(UNEVEN, seed=1) != stats.mean_ci(UNEVEN)
    many = [np.random.default_rng(0).normal(0.2, 1, 30)]
    assert stats.permutation_p(many) == stats.permutation_p(many)
    assert stats.permutation_p(many, seed=1) != stats.permutation_p(many)


def test_the_documentation_and_the_audit_say_how_often_contexts_are_drawn():
    page = (catalog.ROOT / "docs" / "explanation" / "statistics.md").read_text("utf-8")
    assert f"resampled {stats.SAMPLES} times" in page
    assert f"at most {stats.PERMUTATIONS}\nsign vectors" in page
    published = (resample.PUBLISHED_RESAMPLES, resample.PUBLISHED_FLIPS)
    assert published == (stats.SAMPLES, stats.PERMUTATIONS)


def test_intervals_are_the_central_95_percent_of_the_draws() -> None:
    values = np.random.default_rng(3).normal(size=100)
    draws = np.random.default_rng(stats.SEED).integers(0, 100, (stats.SAMPLES, 100))
    ends = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    found = stats.median_ci(values)
    assert [found.low, found.high] == ends.tolist()


def test_the_median_of_one_repeat_has_no_interval() -> None:
    found = stats.median_ci(np.array([2.0]))
    assert found.value == 2 and math.isnan(found.low) and math.isnan(found.high)
