"""Rewards from log-probabilities of labels."""

from __future__ import annotations

import numpy as np
import pytest

from promptopt.reward import gap, gap_reward


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
