"""Races on tables whose winner is known; the betting rule's guarantee; CAPO's rule as published."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from promptopt.errors import ConfigError
from promptopt.stats import (
    Betting,
    Elimination,
    Halving,
    PairedT,
    Predictive,
    Race,
    Rule,
    block_size,
    blocks,
    simulate_race,
)


def table(seed: int, n_arms: int, n_items: int, skill: float = 0.6) -> np.ndarray:
    """float[arms, items] of 0/1: items differ much in difficulty, arms little in skill (logits)."""
    rng = np.random.default_rng([1, seed])
    skills, difficulty = rng.normal(0, skill, (n_arms, 1)), rng.normal(0, 2.5, (1, n_items))
    logit = skills - difficulty + rng.normal(0, 1, (n_arms, n_items))
    return (rng.random((n_arms, n_items)) < 1 / (1 + np.exp(-logit))).astype(float)


def new_race(scores: np.ndarray, keep: int = 1, rule: Rule | None = None, **more: Sequence[float]) -> Race:
    n_arms, n_items = scores.shape
    return Race(n_items, keep, [1] * n_arms, range(n_arms), rule=rule, penalties=more.get("penalties"))


def drive(race: Race, scores: np.ndarray, cuts: Sequence[slice] | None = None) -> tuple[list[Elimination], int]:
    """Run a race to its end; returns who left, and the cells that were evaluated."""
    gone: list[Elimination] = []
    n_cells = 0
    for block in blocks(scores.shape[1], block_size(scores.shape[1])) if cuts is None else cuts:
        if race.is_over:
            break
        cells = scores[list(race.alive), block]
        n_cells += cells.size
        gone += race.observe(cells)
    return gone, n_cells


# ---------------------------------------------------------------------------------- blocks


def test_block_size_follows_the_pool() -> None:
    assert [block_size(n) for n in (0, 1, 7, 20, 40, 300, 2_000)] == [1, 1, 1, 5, 10, 10, 10]


@given(st.integers(0, 500), st.integers(1, 60))
def test_blocks_hold_every_item_once(n_items: int, size: int) -> None:
    seen = [i for block in blocks(n_items, size) for i in range(n_items)[block]]
    assert seen == list(range(n_items))


@given(st.integers(1, 500), st.integers(1, 60))
def test_paper_blocks_are_equal(n_items: int, size: int) -> None:
    cut = blocks(n_items, size, drop_remainder=True)
    if n_items < size:
        assert cut == (slice(0, n_items),)
    else:
        assert {block.stop - block.start for block in cut} == {size}
        assert [block.start for block in cut] == list(range(0, n_items // size * size, size))


# ---------------------------------------------------------------- what holds for every rule

TESTS: tuple[Rule, ...] = (
    Predictive(),
    Predictive(alpha=0.4, eps=0.0),
    Betting(),
    Betting(eps=0.0),
    Betting(alpha=0.5, protect="each"),
    PairedT(),
)
RULES: tuple[Rule, ...] = (*TESTS, Halving(), Halving(eta=3.7))


@st.composite
def races(
    draw: st.DrawFn, rules: tuple[Rule, ...] = RULES
) -> tuple[np.ndarray, int, Rule, list[int], list[float]]:
    n_arms, n_items = draw(st.integers(1, 7)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    level = rng.random((n_arms, 1))
    graded = rng.integers(0, 11, (n_arms, n_items)) / 10
    scores = np.where(rng.random((n_arms, n_items)) < level, graded, draw(st.sampled_from([0.0, 1.0])))
    if draw(st.booleans()):
        scores = np.round(scores)
    scores[rng.integers(0, n_arms)] = scores[0]  # twins are where orders break down
    tokens = [int(t) for t in rng.integers(1, 4, n_arms)]
    penalties = [0.05 * t * draw(st.sampled_from([0, 1])) for t in tokens]
    return scores, draw(st.integers(1, 4)), draw(st.sampled_from(rules)), tokens, penalties


@given(races())
@settings(max_examples=150)
def test_order_of_the_arms_does_not_matter(
    drawn: tuple[np.ndarray, int, Rule, list[int], list[float]],
) -> None:
    scores, keep, rule, tokens, penalties = drawn
    n_arms, n_items = scores.shape
    results = []
    for order in (np.arange(n_arms), np.random.default_rng(n_items).permutation(n_arms)):
        shuffled_tokens, shuffled_penalties = [tokens[i] for i in order], [penalties[i] for i in order]
        race = Race(n_items, keep, shuffled_tokens, list(order), rule=rule, penalties=shuffled_penalties)
        gone, n_cells = drive(race, scores[order])
        names = {(int(order[e.arm]), int(order[e.killer]), e.n, e.wins, e.losses) for e in gone}
        results.append(([int(order[i]) for i in race.ranking()], names, n_cells))
        assert n_cells <= n_arms * n_items
        assert len(race.alive) >= min(keep, n_arms)
        assert race.is_over
        assert sorted([*race.alive, *(e.arm for e in gone)]) == list(range(n_arms))
    assert results[0] == results[1]


@given(races(TESTS))
@settings(max_examples=100)
def test_nobody_is_dropped_by_a_twin(drawn: tuple[np.ndarray, int, Rule, list[int], list[float]]) -> None:
    scores, keep, rule, tokens, _ = drawn
    gone, _ = drive(Race(scores.shape[1], keep, tokens, range(len(tokens)), rule=rule), scores)
    for e in gone:
        assert (scores[e.arm, : e.n] != scores[e.killer, : e.n]).any()
        d = scores[e.killer, : e.n] - scores[e.arm, : e.n]
        assert (e.wins, e.losses) == ((d > 0).sum(), (d < 0).sum())


@pytest.mark.parametrize("rule", RULES)
def test_no_more_arms_than_wanted_evaluates_nothing(rule: Rule) -> None:
    for n_arms, keep in ((1, 1), (3, 3), (3, 5)):
        race = new_race(table(0, n_arms, 20), keep, rule)
        assert race.is_over
        assert race.alive == tuple(range(n_arms))
    assert Race(0, 1, [1, 1], [0, 1], rule=rule).is_over


@pytest.mark.parametrize("rule", TESTS)
def test_equal_arms_all_stay(rule: Rule) -> None:
    scores = np.tile(np.array([0.0, 1.0, 0.3] * 20), (5, 1))
    race = Race(60, 2, [3, 1, 2, 1, 5], [0, 1, 2, 3, 4], rule=rule)
    assert drive(race, scores) == ([], 300)
    assert race.ranking() == (1, 3, 2, 0, 4)  # fewer tokens, then older


@pytest.mark.parametrize("rule", RULES)
def test_ranking_ignores_penalties(rule: Rule) -> None:
    race = Race(4, 2, [9, 1], [0, 1], rule=rule, penalties=[0.5, 0.0])
    race.observe([[1, 1], [1, 0]])
    assert race.ranking() == (0, 1)
    assert race.means == (1.0, 0.5)


def test_incomplete_blocks_are_refused() -> None:
    race = Race(4, 1, [1, 1], [0, 1])
    nan = float("nan")
    wrongs: list[ArrayLike] = [[[1, 1]], [[1.0, nan], [0.0, 1.0]], [[1, 2], [0, 1]], [[0] * 5] * 2, [1, 0]]
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            race.observe(wrong)
    assert race.n_seen == 0
    assert all(np.isnan(race.means))


def test_values_out_of_range_name_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"alpha=0; expected between 0 and 1"):
        Betting(alpha=0)
    with pytest.raises(ConfigError, match="eps=-1"):
        Betting(eps=-1)
    with pytest.raises(ConfigError, match="protect='some'"):
        Betting(protect="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"between 0 and 0\.5"):
        PairedT(alpha=0.5)
    with pytest.raises(ConfigError, match=r"alpha=0\.5; expected between 0 and 0\.5"):
        Predictive(alpha=0.5)
    with pytest.raises(ConfigError, match="eps=1"):
        Predictive(eps=1)
    with pytest.raises(ConfigError, match="eta=1; expected above 1"):
        Halving(eta=1)
    with pytest.raises(ConfigError, match="keeps at least 1"):
        Race(4, 0, [1], [0])


# ------------------------------------------------------------------------------- betting


def published_race(
    scores: np.ndarray, keep: int, alpha: float, eps: float, size: int
) -> tuple[list[int], int, int]:
    """The pseudo-code of the notes, pair by pair: survivors, items seen, cells evaluated."""
    n_arms, n_items = scores.shape
    alive, n, n_cells = list(range(n_arms)), 0, 0
    state = {(j, i): [0.0] * 4 for j in alive for i in alive if i != j}  # S, S2, log E, its maximum
    while n < n_items and len(alive) > keep:
        end = min(n + size, n_items)
        n_cells += len(alive) * (end - n)
        for t in range(n + 1, end + 1):
            for j, i in [(j, i) for j in alive for i in alive if i != j]:
                s, s2, log_e, top = state[j, i]
                d = scores[j, t - 1] - scores[i, t - 1]
                m = min(max((-eps * n_items - s) / (n_items - t + 1), -1), 1)
                mu = s / (t + 1)
                v = max((s2 + 0.25) / (t + 1) - mu**2, 1e-3)
                bet = min(max((mu - m) / (v + (mu - m) ** 2), 0), 0.75 / max(1 + m, 1e-12))
                s, s2, log_e = s + d, s2 + d * d, log_e + log(1 + bet * (d - m))
                if s - (n_items - t) > -eps * n_items + 1e-9:
                    log_e = inf
                state[j, i] = [s, s2, log_e, max(top, log_e)]
        n = end
        sums = scores[:, :n].sum(axis=1)
        order = sorted(alive, key=lambda a: (-sums[a], a))
        threshold = log(keep * (n_arms - 1) / alpha)
        gone = set()
        for place, i in enumerate(order):
            killers = [j for j in order[:place] if state[j, i][3] >= threshold and state[j, i][1] > 0]
            if len(killers) >= keep or sums[i] + n_items - n < sums[order[keep - 1]] - 1e-9:
                gone.add(i)
        alive = [a for a in alive if a not in gone]
    return alive, n, n_cells


@pytest.mark.parametrize(("keep", "eps"), [(1, 0.02), (1, 0.0), (3, 0.02)])
def test_the_race_is_the_published_one(keep: int, eps: float) -> None:
    for seed in range(6):
        scores = table(seed, 7, 90)
        race = new_race(scores, keep, Betting(eps=eps))
        _, n_cells = drive(race, scores)
        assert (list(race.alive), race.n_seen, n_cells) == published_race(scores, keep, 0.10, eps, 10)


def test_the_best_arm_survives() -> None:
    # boundary-ish tables: arms of equal skill, so that leads are small and changeable
    n_tables, lost = 500, 0
    for seed in range(n_tables):
        scores = table(seed, 5, 60, skill=0.2)
        race = new_race(scores, 1, Betting(eps=0.0))
        drive(race, scores)
        means = scores.mean(axis=1)
        lost += means[race.ranking()[0]] < means.max()
    assert lost <= 50  # alpha = .10; the bound holds for each table, so no Monte Carlo margin is needed


def test_reference_figures() -> None:
    # K = 10, N = 100, skill .6: .63 of the cells and the winner lost 6 times in 400 (docs/racing.md)
    n_tables, n_cells, lost = 60, 0, 0
    for seed in range(n_tables):
        scores = table(seed, 10, 100)
        race = new_race(scores, rule=Betting())
        n_cells += drive(race, scores)[1]
        means = scores.mean(axis=1)
        lost += means[race.ranking()[0]] < means.max()
    assert 0.55 <= n_cells / (n_tables * 1_000) <= 0.70
    assert lost <= 4


def test_partition_into_blocks_does_not_change_the_evidence() -> None:
    scores = np.random.default_rng(2).random((6, 80))
    states = []
    for size in (1, 7, 10, 80):
        # a threshold out of reach and 20 items to come: nobody leaves
        race = Race(100, 1, [1] * 6, range(6), rule=Betting(alpha=1e-12), penalties=[0.01] * 6)
        for block in blocks(80, size):
            assert race.observe(scores[:, block]) == ()
        states.append(race)
    for race in states[1:]:
        assert np.array_equal(race._test.strength(), states[0]._test.strength())  # type: ignore[union-attr]
        assert race.means == states[0].means


def test_elimination_records_the_evidence() -> None:
    scores = np.zeros((2, 100))
    scores[0] = 1.0
    gone, n_cells = drive(new_race(scores, rule=Betting()), scores)
    assert n_cells == 20
    assert [(e.arm, e.killer, e.n, e.wins, e.losses, e.reason) for e in gone] == [(1, 0, 10, 10, 0, "beaten")]
    assert gone[0].log_e is not None
    assert gone[0].log_e >= log(1 / 0.10)
    assert gone[0].p_value is None


def test_out_of_reach_is_curtailed() -> None:
    scores = np.zeros((2, 10))
    scores[0, :6] = 1.0
    race = new_race(scores, rule=Betting(alpha=1e-12, eps=0.0))
    assert race.observe(scores[:, :5]) == ()  # 5 : 0, five to come: a tie is possible
    gone = race.observe(scores[:, 5:6])
    assert gone == (Elimination(arm=1, killer=0, n=6, wins=6, losses=0, reason="curtailed"),)


def test_within_eps_of_each_other_one_remains() -> None:
    # each could claim not to be worse by more than eps; the strict order lets only one of them win
    scores = np.tile(np.array([[1.0, 0.0], [0.0, 1.0]]), (1, 100))
    race = Race(200, 1, [5, 4], [0, 1], rule=Betting(eps=0.4))
    gone, _ = drive(race, scores)
    assert [e.arm for e in gone] == [0]
    assert race.alive == (1,)


def test_protecting_each_needs_less_evidence() -> None:
    scores = table(3, 20, 200)
    cells = [drive(new_race(scores, 5, Betting(protect=protect)), scores)[1] for protect in ("all", "each")]
    assert cells[1] < cells[0]


def test_penalties_break_the_balance_of_equal_scores() -> None:
    scores = np.tile(np.random.default_rng(4).integers(0, 2, 200).astype(float), (2, 1))
    race = Race(200, 1, [10, 90], [1, 0], rule=Betting(), penalties=[0.01, 0.3])
    gone, n_cells = drive(race, scores)
    assert race.alive == (0,)
    assert n_cells < 400
    assert gone[0].wins == gone[0].losses == 0


def test_penalties_race_the_penalised_scores() -> None:
    # the same race as that of v = (s + P - p) / (1 + P) without penalties, eps in the units of v
    scores, penalties = table(8, 6, 120), np.array([0.0, 0.02, 0.04, 0.06, 0.08, 0.1])
    values = (scores + 0.1 - penalties[:, None]) / 1.1
    plain, penalised = (
        new_race(values, 2, Betting(eps=0.03 / 1.1)),
        Race(120, 2, [1] * 6, range(6), rule=Betting(eps=0.03), penalties=penalties.tolist()),
    )
    expected, n_cells = drive(plain, values)
    gone, n_penalised = drive(penalised, scores)
    assert n_penalised == n_cells < 6 * 120
    assert [(e.arm, e.killer, e.n, e.reason) for e in gone] == [(e.arm, e.killer, e.n, e.reason) for e in expected]
    for e, other in zip(gone, expected, strict=True):
        assert e.log_e == pytest.approx(other.log_e)


def test_sums_of_decimals_tie() -> None:
    assert 0.1 + 0.2 + 0.3 > 0.3 + 0.2 + 0.1  # the premise
    race = Race(20, 1, [2, 1], [0, 1])
    race.observe([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    assert race.ranking() == (1, 0)


def test_killer_is_the_weakest_that_was_needed() -> None:
    scores = np.zeros((3, 60))
    scores[0], scores[1, ::2] = 1.0, 1.0
    gone, _ = drive(new_race(scores, 2, PairedT()), scores)
    assert [(e.arm, e.killer) for e in gone] == [(2, 1)]


def test_shrinking_is_a_race_on_the_smaller_pool() -> None:
    scores = np.random.default_rng(5).random((4, 50))
    shrunk, small = new_race(np.zeros((4, 60))), new_race(scores)
    shrunk.observe(scores[:, :10])
    small.observe(scores[:, :10])
    shrunk.shrink(10)
    for block in blocks(50, 10)[1:]:
        if small.is_over:
            break
        rows = list(small.alive)
        assert shrunk.observe(scores[rows, block]) == small.observe(scores[rows, block])
    assert shrunk.ranking() == small.ranking()
    assert shrunk.is_over


def test_shrinking_to_what_was_seen_ends_the_race() -> None:
    race = new_race(table(6, 3, 30))
    race.observe(table(6, 3, 30)[:, :5])
    race.shrink(25)
    assert race.is_over
    with pytest.raises(AssertionError):
        race.shrink(1)


# ---------------------------------------------------------------------------- predictive


def test_the_prediction_is_students_t() -> None:
    scores = np.random.default_rng(3).random((2, 40)).round(1)
    scores[0] = np.minimum(scores[0] + 0.1, 1)
    (gone,) = new_race(np.zeros((2, 100)), rule=Predictive(alpha=0.4)).observe(scores[:, :40])
    d = scores[gone.killer] - scores[gone.arm]
    mean, left = d.sum() / 41, 60
    variance = ((d**2).sum() + 0.25) / 41 - mean**2
    spread = np.sqrt(variance * left * (1 + left / 41))
    z = (d.sum() + left * mean + 0.02 * 100) / spread
    assert gone.p_value == pytest.approx(scipy_stats.t.cdf(-z, df=40))
    assert gone.reason == "beaten"
    assert gone.log_e is None


@pytest.mark.parametrize("skill", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("n_arms", "n_items"), [(5, 60), (10, 100), (20, 200)])
def test_the_predictive_rule_keeps_its_error_level(n_arms: int, n_items: int, skill: float) -> None:
    # alpha = .2, so that errors are common enough to be counted in few races
    n_tables, lost = 200, 0
    for seed in range(n_tables):
        scores = table(seed, n_arms, n_items, skill=skill)
        lost += simulate_race(scores, {"": Predictive(alpha=0.2)}, seed=None)[""].regret > 0.02
    assert lost <= n_tables * (0.2 + 3 * np.sqrt(0.2 * 0.8 / n_tables))


def test_a_wider_field_is_asked_for_more() -> None:
    ahead = np.zeros((2, 50))
    ahead[0, :5] = 1.0
    narrow = Race(200, 1, [1, 1], [0, 1], rule=Predictive())
    assert [e.arm for e in narrow.observe(ahead)] == [1]
    wide = Race(200, 1, [1] * 400, range(400), rule=Predictive())
    assert wide.observe(np.vstack([ahead, np.zeros((398, 50))])) == ()


def test_what_cannot_come_back_is_curtailed() -> None:
    scores = np.zeros((2, 10))
    scores[0, :6] = 1.0
    race = new_race(scores, rule=Predictive(alpha=1e-12, eps=0.0))
    assert race.observe(scores[:, :5]) == ()
    assert [(e.reason, e.p_value) for e in race.observe(scores[:, 5:6])] == [("curtailed", None)]


# ------------------------------------------------------------------------------- halving


@pytest.mark.parametrize(
    ("n_arms", "n_items", "keep", "expected"),
    [
        (16, 160, 1, {10: 8, 19: 8, 20: 4, 40: 2, 80: 1}),
        (10, 100, 1, {6: 10, 7: 5, 13: 3, 25: 2, 50: 1}),
        (20, 200, 5, {49: 20, 50: 10, 100: 5, 200: 5}),
        (3, 30, 3, {10: 3}),
    ],
)
def test_half_go_on(n_arms: int, n_items: int, keep: int, expected: dict[int, int]) -> None:
    assert {n: Halving().n_left(n_arms, n_items, keep, n) for n in expected} == expected


@given(st.integers(1, 60), st.integers(4, 400), st.integers(1, 20), st.floats(1.1, 8))
def test_halving_keeps_what_is_wanted_and_ends(n_arms: int, n_items: int, keep: int, eta: float) -> None:
    left = [Halving(eta).n_left(n_arms, n_items, keep, n) for n in range(n_items + 1)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == keep or n_arms <= keep
    assert min(left) >= keep


def test_halving_drops_the_worst_so_far() -> None:
    race = Race(40, 1, [1] * 4, range(4), rule=Halving())
    gone = race.observe(np.repeat(np.array([[0.1], [0.9], [0.5], [0.6]]), 10, axis=1))
    assert {e.arm for e in gone} == {0, 2}
    assert {(e.killer, e.reason, e.p_value, e.log_e) for e in gone} == {(3, "halved", None, None)}


# ------------------------------------------------------------------------ replayed tables


def test_a_replayed_race_is_the_race() -> None:
    scores = table(5, 8, 120)
    found = simulate_race(scores, seed=None, keep=2)
    assert set(found) == {"predictive", "betting", "paired-t", "halving"}
    race = new_race(scores, 2, Betting())
    _, n_cells = drive(race, scores)
    assert found["betting"].kept == race.ranking()[:2]
    assert found["betting"].n_evaluated == n_cells
    assert found["betting"].share == n_cells / 960


def test_regret_is_what_the_kept_give_up() -> None:
    scores = np.zeros((3, 40))
    scores[0, 20:], scores[1, :19], scores[2, :4] = 1.0, 1.0, 1.0  # the best is last for half of the items
    found = simulate_race(scores, {"t": PairedT()}, seed=None)["t"]
    assert found.kept == (1,)
    assert found.regret == pytest.approx(1 / 40)
    full = simulate_race(scores, {"b": Betting(eps=0.0, alpha=1e-9)}, seed=None)["b"]
    assert (full.kept, full.regret) == ((0,), 0.0)


def test_gaps_and_wrong_tables() -> None:
    scores = table(1, 4, 50)
    gappy = scores.copy()
    gappy[2, [3, 30]] = np.nan
    assert simulate_race(gappy) == simulate_race(np.delete(scores, [3, 30], axis=1))
    for wrong in ([[float("nan")]], [[2.0]], [0.5, 1.0], np.zeros((0, 3))):
        with pytest.raises(ConfigError, match="score table"):
            simulate_race(wrong)


# ------------------------------------------------------------------------------- CAPO's rule


def test_paired_t_is_scipys() -> None:
    scores = np.random.default_rng(6).random((4, 30)).round(1)
    scores[1] += 0.15 - scores[1] * 0.15
    race = new_race(scores, 1, PairedT(alpha=0.3))
    for e in race.observe(scores):
        test = scipy_stats.ttest_rel(scores[e.killer], scores[e.arm], alternative="greater")
        assert e.p_value == pytest.approx(test.pvalue)
        assert e.p_value is not None
        assert e.p_value < 0.3
        assert e.log_e is None
    assert 1 not in {e.arm for e in race.observe(np.zeros((len(race.alive), 0)))}


@pytest.mark.parametrize(
    ("wins", "losses", "is_dropped"),
    [(1, 0, True), (2, 1, False), (3, 1, True), (4, 2, False), (5, 2, True)],
)
@pytest.mark.parametrize("n", [30, 300])
def test_paired_t_on_few_changes(n: int, wins: int, losses: int, is_dropped: bool) -> None:
    scores = np.zeros((2, n))
    scores[0, :wins] = 1
    scores[1, n - losses :] = 1
    assert bool(new_race(scores, 1, PairedT()).observe(scores)) == is_dropped


def test_always_wrong_leaves_after_the_first_block() -> None:
    scores = np.ones((4, 90))
    scores[2] = 0.0
    race = new_race(scores, 3, PairedT())
    gone, n_cells = drive(race, scores, blocks(90, 30, drop_remainder=True))
    assert [(e.arm, e.n, e.p_value, e.reason) for e in gone] == [(2, 30, 0.0, "beaten")]
    assert n_cells == 4 * 30  # then three are left, and the race is over


def test_of_equal_outcomes_the_shortest_remain() -> None:
    outcome = np.random.default_rng(7).integers(0, 2, 300).astype(float)
    tokens = [70, 20, 90, 40, 30]
    penalties = [0.05 * t / 90 for t in tokens]
    race = Race(300, 2, tokens, range(5), rule=PairedT(), penalties=penalties)
    race.observe(np.tile(outcome[:30], (5, 1)))
    assert race.alive == (1, 4)


def test_one_item_or_equal_scores_are_no_evidence() -> None:
    race = Race(10, 1, [1, 1], [0, 1], rule=PairedT())
    assert race.observe([[1.0], [0.0]]) == ()
    assert [e.p_value for e in race.observe([[1.0], [0.0]])] == [0.0]  # constant and above 0


def test_a_t_race_is_never_curtailed() -> None:
    scores = np.zeros((2, 30))
    scores[0, :4] = 1
    race = new_race(scores, 1, PairedT(alpha=0.001))
    gone, n_cells = drive(race, scores)
    assert gone == []
    assert n_cells == 60
    assert race.ranking() == (0, 1)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8), st.floats(0.01, 0.49))
@settings(max_examples=100)
def test_paired_t_returns_as_many_as_wanted(seed: int, n_arms: int, keep: int, alpha: float) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, (n_arms, 60)) / 2
    race = new_race(scores, keep, PairedT(alpha))
    drive(race, scores, blocks(60, 15))
    assert len(race.ranking()[:keep]) == min(keep, n_arms)


def test_paired_t_gives_up_good_arms() -> None:
    # why it is not the default; on the same tables the betting rule loses at most 4 of 60
    lost = 0
    for seed in range(60):
        scores = table(seed, 10, 100)
        race = new_race(scores, 1, PairedT())
        drive(race, scores)
        means = scores.mean(axis=1)
        lost += means[race.ranking()[0]] < means.max()
    assert lost >= 10
