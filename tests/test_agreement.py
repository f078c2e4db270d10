"""Agreement and noise of ratings, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from promptopt.agreement import agreement, noise


def test_graded_labels() -> None:
    found = agreement([0, 0.5, 1, 1], [0, 0.5, 0.5, 1])
    assert found.n == 4
    assert found.difference.value == pytest.approx(0.125)
    assert found.pearson is not None
    assert found.pearson.value == pytest.approx(0.5 / np.sqrt(0.6875 * 0.5))
    assert found.pearson.ci95 == pytest.approx((-0.6003, 0.9968), abs=1e-4)  # z = 1.266 +- 1.96
    assert found.spearman is not None
    assert found.spearman.value == pytest.approx(3.75 / 4.5)
    assert found.accuracy is None
    assert found.kappa is None


def test_yes_no_labels() -> None:
    labels = [1, 1, 1, 0, 0, 0, 1, 0, 1, 0]
    ratings = [1, 0.5, 0.4, 0, 0.1, 0.9, 1, 0, 0.6, 0]  # two on the wrong side of 0.5
    found = agreement(labels, ratings)
    assert found.accuracy is not None
    assert found.accuracy.value == 0.8
    assert found.accuracy.ci95 == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0.6)
    assert found.kappa.ci95 == pytest.approx((0.6 - 0.49584, 1.0), abs=1e-4)


@pytest.mark.parametrize("ratings", [[0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0]])
def test_labels_or_ratings_that_are_all_alike(ratings: list[float]) -> None:
    found = agreement([1, 1, 1, 1] if len(set(ratings)) > 1 else [1, 0, 1, 0], ratings)
    assert found.pearson is None
    assert found.spearman is None
    assert found.difference.value == 0.5


def test_perfect_agreement_claims_no_interval() -> None:
    found = agreement([0, 1, 0, 1], [0, 1, 0, 1])
    assert found.pearson is not None
    assert (found.pearson.value, found.pearson.ci95) == (1, None)
    assert found.kappa is not None
    assert (found.kappa.value, found.kappa.ci95) == (1, None)
    alike = agreement([1, 1], [1, 1])
    assert alike.kappa is None
    assert alike.spearman is None


def test_intervals_cover_the_truth() -> None:
    rng, rho, n_covered = np.random.default_rng(0), 0.6, 0
    for _ in range(300):
        x = rng.standard_normal(40)
        y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(40)
        found = agreement(list(0.5 + x / 20), list(0.5 + y / 20)).pearson
        assert found is not None
        assert found.ci95 is not None
        n_covered += found.ci95[0] <= rho <= found.ci95[1]
    assert 0.92 * 300 <= n_covered <= 0.98 * 300


def test_noise() -> None:
    found = noise([[1, 1, 1], [0, 0.5, 1], [0.5, 0.5], [1], []])
    assert found is not None
    assert found.n == 3
    assert found.changed.value == pytest.approx(1 / 3)
    assert found.sd == pytest.approx(np.sqrt(0.5 / 5))
    assert noise([[1], [0]]) is None
