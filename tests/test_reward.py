"""Rewards from log-probabilities of labels."""

from __future__ import annotations

import numpy as np
import pytest

from promptopt.reward import (
    cross_entropy,
    divergence,
    double_softmax,
    gap,
    gap_reward,
    negative_entropy,
    standardised,
)


def rewards(rows: list[list[float]], gold: list[int], **coefficients: float) -> list[float]:
    return gap_reward(np.log(np.array(rows)), np.array(gold), **coefficients).tolist()


def test_right_answers_earn_200_times_the_gap_and_wrong_ones_lose_180_times() -> None:
    assert rewards([[0.7, 0.3], [0.3, 0.7]], [0, 0]) == pytest.approx([80, -72])


def test_the_gap_is_to_the_best_wrong_label() -> None:
    found = gap(np.log(np.array([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]])), np.array([0, 2]))
    assert found == pytest.approx([0.2, -0.2])


def test_coefficients_are_options() -> None:
    assert rewards([[0.7, 0.3], [0.3, 0.7]], [0, 0], if_right=10, if_wrong=1) == pytest.approx([4, -0.4])


def test_a_tie_earns_nothing() -> None:
    assert rewards([[0.5, 0.5]], [1]) == [0]


@pytest.mark.parametrize("if_wrong", [180, 7])
def test_no_answer_and_no_label_are_fully_wrong(if_wrong: float) -> None:
    logprobs = np.array([[np.nan, np.nan], [np.log(0.9), np.log(0.1)]])
    found = gap_reward(logprobs, np.array([0, -1]), if_wrong=if_wrong)
    assert found.tolist() == [-if_wrong, -if_wrong]


def test_prompts_may_be_stacked() -> None:
    one = np.log(np.array([[0.7, 0.3], [0.3, 0.7]]))
    found = gap_reward(np.stack([one, one[::-1]]), np.array([0, 0]))
    assert found.shape == (2, 2)
    assert found == pytest.approx(np.array([[80, -72], [-72, 80]]))


def test_a_reply_that_scored_nothing_cannot_earn_anything() -> None:
    logprobs = np.log(np.array([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7]]))
    found = gap_reward(logprobs, np.array([0, 0, 0]), is_wrong=np.array([False, True, True]))
    assert found == pytest.approx([80, -72, -72])


def test_cross_entropy_is_the_gold_log_probability_and_rises_with_it() -> None:
    p = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
    found = cross_entropy(np.log(p), np.array([0, 0, 0]))
    assert found == pytest.approx(np.log([0.2, 0.6, 0.9]))


def test_a_flat_guess_has_the_least_negative_entropy() -> None:
    found = negative_entropy(np.log(np.array([[0.5, 0.5], [0.9, 0.1]])))
    assert found[0] == pytest.approx(-np.log(2))
    assert found[1] > found[0]


def test_divergence_is_zero_without_a_shift_and_positive_with_one() -> None:
    same, other = np.log(np.array([[0.7, 0.3]])), np.log(np.array([[0.4, 0.6]]))
    assert divergence(same, same) == pytest.approx([0.0])
    assert divergence(other, same) == pytest.approx([0.4 * np.log(0.4 / 0.7) + 0.6 * np.log(0.6 / 0.3)])


def test_standardised_labels_have_mean_0_and_variance_1() -> None:
    rows = np.log(np.random.default_rng(0).dirichlet([2, 1, 1], size=50))
    found = standardised(rows, rows)
    assert found.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-9)
    assert found.std(axis=0) == pytest.approx(np.ones(3))


def test_the_published_double_softmax_is_squashed_and_the_mended_one_is_not() -> None:
    rows = np.log(np.array([[0.999, 0.001], [0.001, 0.999]]))
    squashed = double_softmax(rows, np.array([0, 0]))
    assert squashed == pytest.approx([-0.31, -1.31], abs=0.01)
    assert cross_entropy(rows, np.array([0, 0]))[1] < -6


def test_unusable_rows_are_the_worst_there_is() -> None:
    nan = np.full((1, 3), np.nan)
    assert cross_entropy(nan, np.array([0])) == pytest.approx([np.log(1e-6)])
    assert negative_entropy(nan) == pytest.approx([-np.log(3)])
    assert divergence(nan, np.log(np.full((1, 3), 1 / 3))) == pytest.approx([0.0])
