"""Strings of words before a prompt, and the rewards, divergences and calibration behind them, by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from promptopt import reward, template
from promptopt.prefix import mean_rewards


def test_gap_rewards_have_the_published_signs_and_coefficients() -> None:
    p = np.log([[0.7, 0.3], [0.3, 0.7]])
    assert reward.gap_reward(p, np.array([0, 0])) == pytest.approx([80, -72])


@pytest.mark.parametrize("function", [reward.cross_entropy, reward.double_softmax, reward.gap_reward])
def test_rewards_grow_with_the_probability_of_the_right_label(function: Any) -> None:
    p = np.linspace(0.01, 0.98, 40)
    rows = np.log(np.stack([p, (1 - p) * 0.6, (1 - p) * 0.4], axis=1))
    values = function(rows, np.zeros(40, dtype=int))
    assert (np.diff(values) > 0).all()
    worst = function(np.full((1, 3), np.nan), np.array([0]))[0]
    assert worst <= values[0]
    assert function(rows[-1:], np.array([-1]))[0] == worst


def test_cross_entropy_is_of_log_probabilities_and_the_published_one_is_squashed() -> None:
    rows = np.log([[0.9, 0.1], [0.1, 0.9]])
    gold = np.array([0, 0])
    assert reward.cross_entropy(rows, gold) == pytest.approx(np.log([0.9, 0.1]))
    assert reward.cross_entropy(np.array([[-50.0, 0.0]]), gold[:1])[0] == reward.LEAST
    sure = np.array([[0.0, -60.0], [-60.0, 0.0]])
    assert reward.double_softmax(sure, gold) == pytest.approx([-0.3133, -1.3133], abs=1e-4)


def test_negative_entropy_needs_no_labels_and_is_a_mean_over_examples() -> None:
    even, sure = np.log([[0.5, 0.5]]), np.array([[0.0, -60.0]])
    assert reward.negative_entropy(even)[0] == pytest.approx(-math.log(2))
    assert reward.negative_entropy(sure)[0] == pytest.approx(0, abs=1e-6)
    assert reward.negative_entropy(np.full((1, 2), np.nan))[0] == pytest.approx(-math.log(2))


def test_standardised_log_probabilities_have_mean_0_and_variance_1() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)) * [1, 5, 0.1] + [0, -3, 2]
    z = reward.standardised(rows, rows)
    assert z.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-9)
    assert z.std(axis=0) == pytest.approx(np.ones(3))


def test_labels_of_the_same_mean_and_variance_keep_their_order() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0) * 2.5 - 1.5
    assert (reward.standardised(rows, rows).argmax(axis=1) == rows.argmax(axis=1)).all()


def test_divergence_is_never_negative_and_zero_for_the_same() -> None:
    rng = np.random.default_rng(0)
    p, q = (np.log(rng.dirichlet(np.full(4, 4.0), 50)) for _ in range(2))
    assert (reward.divergence(p, q) > 0).all()
    assert reward.divergence(p, p) == pytest.approx(0)
    by_hand = (np.exp(p) * (p - q)).sum(axis=1)
    assert reward.divergence(p, q) == pytest.approx(by_hand)
    unusable = np.full((1, 4), np.nan)
    assert reward.divergence(unusable, q[:1]).tolist() == [0.0]


def test_a_reply_that_scored_nothing_cannot_earn_anything() -> None:
    logprobs = np.log(np.array([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7]]))
    found = reward.gap_reward(logprobs, np.array([0, 0, 0]), is_wrong=np.array([False, True, True]))
    assert found == pytest.approx([80, -72, -72])


def test_the_gap_is_to_the_best_wrong_label_and_its_coefficients_are_options() -> None:
    logprobs = np.log(np.array([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]]))
    assert reward.gap(logprobs, np.array([0, 2])) == pytest.approx([0.2, -0.2])
    assert reward.gap_reward(logprobs, np.array([0, 2]), if_right=10, if_wrong=1) == pytest.approx([2, -0.2])
    assert reward.gap_reward(np.log([[0.5, 0.5]]), np.array([1])).tolist() == [0]


@pytest.mark.parametrize("if_wrong", [180, 7])
def test_no_answer_and_no_label_lose_the_whole_gap(if_wrong: float) -> None:
    logprobs = np.array([[np.nan, np.nan], [np.log(0.9), np.log(0.1)]])
    assert reward.gap_reward(logprobs, np.array([0, -1]), if_wrong=if_wrong).tolist() == [-if_wrong, -if_wrong]


def test_the_bare_prompts_reward_stands_in_for_a_missing_answer() -> None:
    values = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    assert mean_rewards(values, np.array([9.0, 5.0, 9.0])).tolist() == [3.0, 2.0]
    assert mean_rewards(values, np.array([9.0, np.nan, 9.0])).tolist() == [2.0, 2.0]
    assert mean_rewards(np.full((1, 2), np.nan), np.full(2, np.nan)).tolist() == [-np.inf]


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Sort it.", "a b\nSort it."),
        ("Sort it: {{input}}", "a b\nSort it: {{input}}"),
        ("<!-- keep -->Be brief.<!-- /keep --> Sort.", "a b\n<!-- keep -->Be brief.<!-- /keep --> Sort."),
        ("system:\nSort.\n\nuser:\n{{input}}", "system:\na b\nSort.\n\nuser:\n{{input}}"),
        ("user:\n\n{{input}}", "user:\na b\n{{input}}"),
        (
            "<!-- keep -->system:\nSort.<!-- /keep -->\nNow.",
            "<!-- keep -->system:\nSort.<!-- /keep -->\na b\n\nNow.",
        ),
        ("She wrote:\nuser:\nhello", "a b\nShe wrote:\nuser:\nhello"),
    ],
)
def test_words_stand_before_all_but_the_first_heading(instruction: str, expected: str) -> None:
    found = template.prefixed(instruction, "a b")
    assert found == expected
    assert template.kept(found) == template.kept(instruction)
    roles = [part.role for part in template.parts(re.sub("<!-- /?keep -->", "", found))]
    assert roles == [part.role for part in template.parts(re.sub("<!-- /?keep -->", "", instruction))]
