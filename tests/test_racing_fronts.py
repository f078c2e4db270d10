"""Races of several objectives: only who is dominated leaves, and as seldom wrongly as the rule promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from promptopt.front import dominance
from promptopt.stats import Betting, PairedT, Predictive, Race, Rule

RULES = [Predictive(), Betting(), Betting(0.2, 0.03, "each"), PairedT()]


def play(
    scores: np.ndarray, sizes: np.ndarray | None, keep: int, rule: Rule, block: int = 10
) -> tuple[Race, list[tuple[int, ...]]]:
    """Return a race that has seen float[K, N] scores, and who left after each block."""
    n_arms, n_items = scores.shape
    race = Race(n_items, keep, [1] * n_arms, range(n_arms), rule=rule)
    left = []
    for start in range(0, n_items, block):
        if race.is_over:
            break
        alive = list(race.alive)
        part = scores[alive, start : start + block]
        gone = race.observe(part, None if sizes is None else sizes[alive])
        left.append(tuple(out.arm for out in gone))
    return race, left


def random_race(rng: np.random.Generator, n_arms: int = 8, n_items: int = 80) -> tuple[np.ndarray, np.ndarray]:
    skill = rng.uniform(0.1, 0.95, n_arms)
    scores = (rng.random((n_arms, n_items)) < skill[:, None]).astype(float)
    return scores, rng.integers(1, 5, (n_arms, 1)).astype(float)


@pytest.mark.parametrize("rule", RULES)
def test_equal_sizes_change_nothing(rule: Rule) -> None:
    if isinstance(rule, Betting):
        rule = replace(rule, protect="each")  # "all" protects more arms where there are fronts
    rng = np.random.default_rng(1)
    for _ in range(30):
        scores, _ = random_race(rng)
        keep = 1 if isinstance(rule, Predictive) else int(rng.integers(1, 4))  # it counts the rivals
        assert play(scores, np.ones((8, 1)), keep, rule)[1] == play(scores, None, keep, rule)[1]


@pytest.mark.parametrize("rule", RULES)
def test_the_long_and_worse_leaves_and_the_short_and_worse_stays(rule: Rule) -> None:
    rng = np.random.default_rng(2)
    scores = (rng.random((4, 200)) < np.array([0.95, 0.9, 0.2, 0.2])[:, None]).astype(float)
    race, _ = play(scores, np.array([[5.0], [5.0], [9.0], [1.0]]), 1, rule)
    assert 2 not in race.alive
    assert 3 in race.alive
    assert {0, 1} & set(race.alive)


@pytest.mark.parametrize("rule", RULES)
def test_who_leaves_is_seen_to_be_dominated_and_enough_stay(rule: Rule) -> None:
    rng = np.random.default_rng(3)
    n_gone = 0
    for _ in range(100):
        scores, sizes = random_race(rng)
        keep = int(rng.integers(1, 5))
        n_items = scores.shape[1]
        race = Race(n_items, keep, [1] * 8, range(8), rule=rule)
        for start in range(0, n_items, 10):
            if race.is_over:
                break
            alive = list(race.alive)
            gone = race.observe(scores[alive, start : start + 10], sizes[alive])
            means = scores[:, : race.n_seen].mean(axis=1)
            for out in gone:
                above = [
                    j for j in alive if sizes[j] <= sizes[out.arm] and means[j] >= means[out.arm] and j != out.arm
                ]
                assert len(above) >= keep
                assert out.killer in above
                n_gone += 1
        assert len(race.alive) >= keep
    assert n_gone > 50


def test_curtailment_takes_no_chance() -> None:
    """Without evidence (a level that nothing reaches), who leaves is dominated on the whole pool for certain."""
    rng = np.random.default_rng(4)
    n_gone = 0
    for _ in range(200):
        scores, sizes = random_race(rng, n_items=40)
        keep = int(rng.integers(1, 4))
        _, left = play(scores, sizes, keep, Betting(alpha=1e-300, eps=0.0))
        losses = np.column_stack([-scores.mean(axis=1), sizes])
        n_above = dominance(losses).sum(axis=0)
        for arm in (arm for arms in left for arm in arms):
            assert n_above[arm] >= keep
            n_gone += 1
    assert n_gone > 20


@pytest.mark.parametrize("protect", ["each", "all"])
def test_few_races_lose_an_arm_that_is_not_dominated(protect: str) -> None:
    """Near ties, where errors are likeliest: at alpha = .1 and eps = 0 at most a tenth of the races may err."""
    rng = np.random.default_rng(5)
    n_races, n_each, n_any = 300, 0, 0
    for _ in range(n_races):
        skill = 0.5 + rng.choice([0.0, 0.02], 6)
        scores = (rng.random((6, 60)) < skill[:, None]).astype(float)
        sizes = rng.integers(1, 3, (6, 1)).astype(float)
        keep = 2
        n_above = dominance(np.column_stack([-scores.mean(axis=1), sizes])).sum(axis=0)
        _, left = play(scores, sizes, keep, Betting(0.1, 0.0, protect))  # type: ignore[arg-type]
        wrong = [arm for arms in left for arm in arms if n_above[arm] < keep]
        n_each += 0 in wrong
        n_any += bool(wrong)
    assert n_each <= 0.1 * n_races, "any one arm"
    if protect == "all":
        assert n_any <= 0.1 * n_races
