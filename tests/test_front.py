"""Fronts: who dominates whom, who survives, and what objectives a user may name."""

from __future__ import annotations

import numpy as np
import pytest

from promptopt.errors import ConfigError
from promptopt.front import crowding, dominance, ranks, read_objectives, survivors


def by_hand(losses: list[list[float]]) -> list[list[bool]]:
    def does(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    return [[does(a, b) for b in losses] for a in losses]


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_dominance_and_ranks_are_those_of_the_definition(n_objectives: int) -> None:
    rng = np.random.default_rng(n_objectives)
    for _ in range(100):
        losses = rng.integers(0, 5, size=(rng.integers(0, 12), n_objectives)).astype(float)
        expected = by_hand(losses.tolist())
        assert dominance(losses.reshape(-1, n_objectives)).tolist() == expected
        rank = ranks(losses.reshape(-1, n_objectives)).tolist()
        for i in range(len(losses)):
            above = [rank[j] for j in range(len(losses)) if expected[j][i]]
            assert rank[i] == max(above, default=-1) + 1


def test_sums_of_decimal_fractions_tie() -> None:
    assert not dominance([[0.1 + 0.2, 5.0], [0.3, 5.0]]).any()
    assert dominance([[0.3, 4.0], [0.1 + 0.2, 5.0]]).tolist() == [[False, True], [False, False]]


def test_crowding_is_that_of_the_paper() -> None:
    distance = crowding([[0.0, 10.0], [1.0, 6.0], [3.0, 5.0], [10.0, 0.0]])
    assert distance[[0, 3]].tolist() == [np.inf, np.inf]
    assert distance[1] == pytest.approx((3 - 0) / 10 + (10 - 5) / 10)
    assert distance[2] == pytest.approx((10 - 1) / 10 + (6 - 0) / 10)
    assert crowding([[1.0, np.inf], [2.0, 3.0], [3.0, 1.0]])[1] == pytest.approx(1.0)
    assert crowding(np.empty((0, 2))).size == 0


def test_survivors_are_the_first_fronts_then_the_least_crowded() -> None:
    front = [[0.0, 10.0], [1.0, 9.9], [4.0, 5.0], [5.0, 4.0], [10.0, 0.0]]
    beaten = [[11.0, 11.0]]
    assert set(survivors(beaten + front, 5)) == {1, 2, 3, 4, 5}
    assert set(survivors(front, 2)) == {0, 4}, "the extremes"
    assert set(survivors(front, 4)) == {0, 2, 3, 4}, "the second crowds the first"
    assert survivors(front, 9) == survivors(front, 5)
    assert survivors([[1.0, 1.0]] * 4, 2) == (0, 1), "equals in their order"
    assert survivors([[0.0, 9.0], [0.0, 9.0], [5.0, 1.0]], 2) == (0, 2), "who is alike crowds out nobody else"


def test_nobody_survives_whom_enough_others_dominate() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        losses, keep = rng.integers(0, 6, size=(10, 2)).astype(float), int(rng.integers(1, 8))
        n_above = dominance(losses).sum(axis=0)
        assert all(n_above[i] < keep for i in survivors(losses, keep))


@pytest.mark.parametrize("given", ["score,prompt_tokens", " prompt-tokens , score", ("prompt_tokens", "score")])
def test_objectives_are_read(given: object) -> None:
    assert read_objectives(given) == ("score", "prompt_tokens")  # type: ignore[arg-type]
    assert read_objectives(None) is None
    assert read_objectives("cost,prompt_tokens,score") == ("score", "prompt_tokens", "cost")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("score", "write score and what it costs"),
        ("prompt_tokens,cost", "write score and what it costs"),
        ("", "--objectives ''"),
        ("score,tokens", "did you mean 'prompt_tokens'"),
        ("score,cost,cost", "cost stands twice"),
        ([1, 2], "write their names"),
    ],
)
def test_wrong_objectives_are_refused(given: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_objectives(given)  # type: ignore[arg-type]
