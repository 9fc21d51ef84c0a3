"""Bootstrap intervals and sign-flip p-values against what theory says."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from llama_index.finetuning.embeddings.evaluation.significance import (
    Difference,
    _t_quantile,
    difference,
    estimate,
    interval,
    resampled_means,
    sign_flip_p_values,
)


def test_p_value_counts_sign_patterns():
    """Three equal differences: 2 of 8 sign patterns have a mean as far from 0, so p = 1/4."""
    p_value = sign_flip_p_values(np.ones((3, 1)), np.arange(3), seed=0)[0]
    assert p_value == pytest.approx(2 / 8, abs=0.015)


def test_clusters_flip_as_one():
    """Thirty queries in three clusters are three observations, not thirty."""
    clusters = np.repeat(np.arange(3), 10)
    apart = sign_flip_p_values(np.ones((30, 1)), np.arange(30), seed=0)[0]
    together = sign_flip_p_values(np.ones((30, 1)), clusters, seed=0)[0]
    assert apart == 1 / 10_001
    assert together == pytest.approx(2 / 8, abs=0.015)


def test_no_difference_has_p_value_1():
    """Where nothing differs, every pattern is as far from 0."""
    assert sign_flip_p_values(np.zeros((5, 2)), np.arange(5), seed=0).tolist() == [1, 1]


def test_interval_has_the_width_of_the_normal_approximation():
    """For 400 independent values the interval is mean ± 1.96 standard errors, within 5 %."""
    values = np.random.default_rng(0).random((400, 1))
    means = resampled_means(values, np.arange(400), seed=0)[:, 0]
    found = estimate(means, float(values.mean()), 400)
    error = 1.96 * values.std() / np.sqrt(400)
    assert found.value == values.mean()
    assert found.high - found.value == pytest.approx(error, rel=0.05)
    assert found.value - found.low == pytest.approx(error, rel=0.05)


def test_few_clusters_widen_the_interval():
    """Six clusters: sqrt(6 / 5) times 2.571, Student's quantile with 5 degrees, over 1.960."""
    resampled = np.linspace(1, 3, 10_001)  # 95 % of them lie within 2 ± 0.95
    half = 0.95 * math.sqrt(6 / 5) * 2.5706 / 1.95996
    assert interval(resampled, 2.0, 6) == pytest.approx((2 - half, 2 + half), rel=1e-3)


@pytest.mark.parametrize("n_clusters", [3, 6, 20])
def test_intervals_of_few_clusters_hold_the_truth(n_clusters):
    """About 95 of 100 intervals hold the true mean 0; without widening, 74 do for three."""
    values = np.random.default_rng(0).standard_normal((n_clusters, 400))
    means = resampled_means(values, np.arange(n_clusters), seed=0)
    ends = [interval(means[:, i], float(values[:, i].mean()), n_clusters) for i in range(400)]
    assert 0.91 < np.mean([low <= 0 <= high for low, high in ends]) < 0.98


def test_an_interval_of_a_metric_stays_between_0_and_1():
    """Widening does not leave what a metric can be."""
    found = estimate(np.array([0.0, 1.0]), 0.5, 2)
    assert (found.low, found.high) == (0, 1)


def test_one_cluster_has_no_interval():
    """Nothing tells how far a single observation is off: no ends, and no verdict."""
    found = estimate(np.full(10, 0.5), 0.5, 1)
    assert np.isnan([found.low, found.high]).all()
    change = difference(np.array([0.5, 0.5]), np.full(10, 0.5), 0.001, 1)
    assert (change.ends_text, change.verdict) == ("", "no measurable change")


def test_clusters_widen_the_interval():
    """Ten copies of each of 40 values tell no more than the 40 values."""
    values = np.random.default_rng(0).random((40, 1))
    alone = resampled_means(values, np.arange(40), seed=0)
    copied = resampled_means(np.repeat(values, 10, axis=0), np.repeat(np.arange(40), 10), seed=0)
    assert np.allclose(alone, copied)


def test_clusters_of_unequal_size_give_a_mean_over_queries():
    """Clusters {0, 0, 0} and {1}: a sample of both has mean 1/4, of one twice 0 or 1."""
    values = np.array([[0.0], [0.0], [0.0], [1.0]])
    means = resampled_means(values, np.array([0, 0, 0, 1]), seed=0)
    assert set(means[:, 0].tolist()) == {0, 1 / 4, 1}


def test_columns_share_their_draws():
    """The resampled difference of two columns is the difference of the resampled columns."""
    values = np.random.default_rng(0).random((50, 2))
    means = resampled_means(values, np.arange(50), seed=0)
    change = resampled_means(values[:, :1] - values[:, 1:], np.arange(50), seed=0)
    assert np.allclose(means[:, 0] - means[:, 1], change[:, 0])


def test_the_seed_decides():
    """Equal seeds give equal numbers, another seed others."""
    values, clusters = np.random.default_rng(0).standard_normal((30, 1)), np.arange(30)
    for test in (resampled_means, sign_flip_p_values):
        one, same, other = (test(values, clusters, seed=seed) for seed in (1, 1, 2))
        assert one.tolist() == same.tolist() != other.tolist()


def test_many_clusters_are_resampled_in_blocks(monkeypatch):
    """Small blocks of resamples are still 10,000 resamples around the mean."""
    monkeypatch.setattr(
        "llama_index.finetuning.embeddings.evaluation.significance._WEIGHTS_PER_BLOCK", 7_000
    )
    means = resampled_means(np.arange(20.0)[:, None], np.arange(20), seed=0)
    assert means.shape == (10_000, 1)
    assert means.mean() == pytest.approx(9.5, abs=0.1)
    assert means[:350].tolist() != means[350:700].tolist()  # a block has 350 rows


def test_blocks_of_sign_patterns_add_up(monkeypatch):
    """The p-value of 400 clusters, which take two blocks, is that of one block."""
    name = "llama_index.finetuning.embeddings.evaluation.significance._WEIGHTS_PER_BLOCK"
    changes = np.random.default_rng(0).standard_normal((400, 1))
    found = sign_flip_p_values(changes, np.arange(400), seed=0)[0]
    monkeypatch.setattr(name, 1 << 30)
    assert sign_flip_p_values(changes, np.arange(400), seed=0)[0] == found
    assert 0.05 < found < 1


def test_rounding_does_not_hide_the_true_pattern():
    """Of seven clusters that all gain, two of 128 patterns are as far from 0, whatever the sums."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        changes = np.abs(rng.standard_normal((7, 1)))
        p_value = sign_flip_p_values(changes, np.arange(7), seed=0)[0]
        assert p_value == pytest.approx(2 / 128, abs=0.006)


def test_wins_losses_and_ties_are_counted():
    """Rounding noise is a tie."""
    found = difference(np.array([0.5, -0.1, 0.0, 1e-16, -1e-16]), np.zeros(10), 0.5, 5)
    assert (found.won, found.lost, found.tied, found.value) == (1, 1, 3, pytest.approx(0.08))


@pytest.mark.parametrize(
    ("low", "high", "p_value", "verdict"),
    [
        (0.01, 0.05, 0.01, "better"),
        (-0.05, -0.01, 0.01, "worse"),
        (-0.01, 0.05, 0.01, "no measurable change"),
        (0.01, 0.05, 0.06, "no measurable change"),
        (0.0, 0.05, 0.01, "no measurable change"),
        (-0.05, 0.0, 0.01, "no measurable change"),
    ],
)
def test_a_verdict_needs_both_the_p_value_and_the_interval(low, high, p_value, verdict):
    """Only where both leave no change out is there a change."""
    assert Difference(0.0, low, high, p_value, 0, 0, 0).verdict == verdict


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0001, "< 0.001"), (0.0123, "= 0.012"), (1, "= 1.000")]
)
def test_small_p_values_are_bounded_not_spelled_out(p_value, text):
    """More digits than 10,000 resamples carry would be false precision."""
    assert Difference(0.0, 0.0, 0.0, p_value, 0, 0, 0).p_text == text


def test_luck_is_seldom_called_a_change():
    """Of 200 comparisons of equally good systems, about one in twenty finds a change."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 2)
    # Queries of a cluster share most of their difference.
    shared = np.repeat(rng.standard_normal((30, 200)), 2, axis=0)
    changes = shared + 0.3 * rng.standard_normal((60, 200))
    p_values = sign_flip_p_values(changes, clusters, seed=0)
    samples = resampled_means(changes, clusters, seed=0)
    found = [difference(changes[:, i], samples[:, i], p_values[i], 30).verdict for i in range(200)]
    assert 0.01 < 1 - found.count("no measurable change") / 200 < 0.09


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 11.300118), (2, 4.270551), (3, 3.178617), (5, 2.570308), (19, 2.093024)],
)
def test_students_quantile_for_95_percent(freedom, expected):
    """By the series; the true ones are 12.706, 4.303, 3.182, 2.571 and 2.093."""
    z = NormalDist().inv_cdf(0.975)
    assert _t_quantile(z, freedom) == pytest.approx(expected, abs=1e-6)
