"""Figures of a comparison, checked against textbook formulas, published examples and known truth."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from promptopt import contrast
from promptopt.contrast import Block, Row
from promptopt.stats import score_interval

# Demsar, JMLR 7 (2006), table 6: AUC of C4.5, with -m, with -cf, with both, on 14 data sets. In the last row but
# one the paper ranks -cf before both, from figures before they were rounded: hence its fourth decimal here.
DEMSAR = """
0.763 0.768 0.771 0.798
0.599 0.591 0.590 0.569
0.954 0.971 0.968 0.967
0.628 0.661 0.654 0.657
0.882 0.888 0.886 0.898
0.936 0.931 0.916 0.931
0.661 0.668 0.609 0.685
0.583 0.583 0.563 0.625
0.775 0.838 0.866 0.875
1.000 1.000 1.000 1.000
0.940 0.962 0.965 0.962
0.619 0.666 0.614 0.669
0.972 0.981 0.9751 0.975
0.957 0.978 0.946 0.970
"""


def rows_of(matrix: np.ndarray, data: str = "d") -> dict[Block, Row]:
    """Return float[seeds, examples] as rows of one data set, the examples the same for all seeds."""
    return {(data, s): {str(e): float(y) for e, y in enumerate(row)} for s, row in enumerate(matrix)}


# An interval of a mean ------------------------------------------------------------------------------


def test_a_balanced_design_gives_the_variance_of_a_two_way_table() -> None:
    rng = np.random.default_rng(1)
    n_seeds, n = 6, 40
    y = 0.5 + rng.normal(0, 0.1, (n_seeds, 1)) + rng.normal(0, 0.1, (1, n)) + rng.normal(0, 0.05, (n_seeds, n))
    found = contrast.estimate(rows_of(y))
    assert found is not None
    by_seed, by_example, mean = y.mean(axis=1), y.mean(axis=0), y.mean()
    ms_seed = n * ((by_seed - mean) ** 2).sum() / (n_seeds - 1)
    ms_example = n_seeds * ((by_example - mean) ** 2).sum() / (n - 1)
    rest = y - by_seed[:, None] - by_example[None, :] + mean
    ms_rest = (rest**2).sum() / ((n_seeds - 1) * (n - 1))
    variance = (ms_seed + ms_example - ms_rest) / (n_seeds * n)
    a, b = ms_seed / (n_seeds * n), (ms_example - ms_rest) / (n_seeds * n)
    freedom = variance**2 / (a**2 / (n_seeds - 1) + b**2 / (n - 1))
    half = scipy_stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert found.value == pytest.approx(mean)
    assert found.ci95 == pytest.approx((mean - half, mean + half))
    assert (found.n_data, found.n_runs, found.n_answers) == (1, n_seeds, n_seeds * n)


def test_one_run_has_the_interval_of_its_scores() -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    found = contrast.estimate({("d", 0): {str(i): y for i, y in enumerate(scores)}})
    assert found is not None
    assert found.ci95 == score_interval(scores)


def test_the_mean_weighs_data_sets_then_seeds_then_examples() -> None:
    rows: dict[Block, Row] = {
        ("a", 0): {"1": 1.0},
        ("a", 1): {"1": 0.0, "2": 0.0, "3": 1.0, "4": 1.0},
        ("b", 0): {"1": 0.25},
    }
    found = contrast.estimate(rows)
    assert found is not None
    assert found.value == pytest.approx(((1 + 0.5) / 2 + 0.25) / 2)
    assert contrast.estimate({}) is None
    assert contrast.estimate({("a", 0): {}}) is None


@pytest.mark.parametrize(("value", "least"), [(1.0, 0.0), (0.0, 0.0), (0.0, -1.0)])
def test_equal_scores_are_no_certainty(value: float, least: float) -> None:
    found = contrast.estimate(rows_of(np.full((3, 30), value)), least=least)
    assert found is not None
    low, high = found.ci95
    assert 0.05 < high - low < 0.3
    assert low <= value <= high


@pytest.mark.parametrize(
    ("n_data", "n_seeds", "seed_sd", "example_sd", "overlap"),
    [(1, 5, 0.0, 1.5, 1.0), (1, 5, 0.8, 0.5, 1.0), (2, 4, 0.4, 1.2, 0.5), (1, 4, 0.4, 1.0, 0.0)],
)
def test_the_interval_covers_the_truth(
    n_data: int, n_seeds: int, seed_sd: float, example_sd: float, overlap: float
) -> None:
    """0/1 scores whose log-odds hang on seed and example; in 200 worlds, 95% less three standard errors of it."""
    rng = np.random.default_rng(5)
    n, n_worlds = 60, 200
    size = round(n * (1 + (n_seeds - 1) * (1 - overlap)))
    odds = np.random.default_rng(6).normal(0.8, math.hypot(seed_sd, example_sd), 1_000_000)
    truth = float((1 / (1 + np.exp(-odds))).mean())
    n_covered = 0
    for _ in range(n_worlds):
        rows: dict[Block, Row] = {}
        for d in range(n_data):
            effects = rng.normal(0, example_sd, size)
            for s in range(n_seeds):
                chosen = np.arange(s * n, s * n + n) if overlap == 0 else rng.permutation(size)[:n]
                p = 1 / (1 + np.exp(-(0.8 + rng.normal(0, seed_sd) + effects[chosen])))
                rows[f"d{d}", s] = {str(e): float(y) for e, y in zip(chosen, rng.random(n) < p, strict=True)}
        found = contrast.estimate(rows)
        assert found is not None
        n_covered += found.ci95[0] <= truth <= found.ci95[1]
    assert n_covered / n_worlds >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / n_worlds)


# Ranks ----------------------------------------------------------------------------------------------


def demsar() -> dict[str, dict[int, float]]:
    table = np.array([line.split() for line in DEMSAR.strip().splitlines()], dtype=float)
    return {name: dict(enumerate(table[:, i].tolist())) for i, name in enumerate(("C4.5", "m", "cf", "both"))}


def test_ranks_are_those_of_a_published_example() -> None:
    found = contrast.ranks(demsar())
    assert found is not None
    assert {name: round(rank, 3) for name, rank in found.average.items()} == {
        "C4.5": 3.143,
        "m": 2.0,
        "cf": 2.893,
        "both": 1.964,
    }
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    expected = scipy_stats.friedmanchisquare(*(list(own.values()) for own in demsar().values()))
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.n_blocks == 14
    assert found.groups == (("both", "m", "cf", "C4.5"),)  # 3.143 - 1.964 is below 1.25


def test_critical_differences_are_those_of_the_published_table() -> None:
    q = [contrast.critical_difference(k, 1) / math.sqrt(k * (k + 1) / 6) for k in range(2, 11)]
    assert q == pytest.approx([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], abs=0.002)


def test_groups_are_the_longest_that_do_not_differ() -> None:
    scores = {name: dict.fromkeys(range(30), float(i)) for i, name in enumerate("dcba")}
    found = contrast.ranks(scores)
    assert found is not None
    assert found.critical_difference == pytest.approx(0.857, abs=0.002)
    assert found.groups == (("a",), ("b",), ("c",), ("d",))
    few = contrast.ranks({name: dict(list(own.items())[:12]) for name, own in scores.items()})
    assert few is not None
    assert few.groups == (("a", "b"), ("b", "c"), ("c", "d"))


def test_ranks_of_what_cannot_be_ranked() -> None:
    assert contrast.ranks({}) is None
    assert contrast.ranks({"a": {0: 1.0}}) is None
    assert contrast.ranks({"a": {0: 1.0}, "b": {1: 1.0}}) is None
    alike = contrast.ranks({name: {0: 0.5, 1: 0.1 + 0.2, 2: 0.3} for name in "abc"})
    assert alike is not None
    assert set(alike.average.values()) == {2.0}
    assert (alike.statistic, alike.p_value) == (0.0, 1.0)
    two = contrast.ranks({"a": {0: 0.3}, "b": {0: 0.1 + 0.2}})  # equal, but for how sums are stored
    assert two is not None
    assert (two.average["a"], two.p_value, two.critical_difference) == (1.5, None, None)


# Pairs ----------------------------------------------------------------------------------------------


def test_holm_is_that_of_a_textbook() -> None:
    assert contrast.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert contrast.holm([0.9, 0.8]) == [1.0, 1.0]
    assert contrast.holm([]) == []


def strategies(rng: np.random.Generator, shifts: Mapping[str, float], n_seeds: int) -> dict[str, dict[Block, Row]]:
    """Return runs whose skill varies by seed about a strategy's own, on the same 40 examples."""
    hardness = rng.normal(0, 1, 40)
    found: dict[str, dict[Block, Row]] = {}
    for name, shift in shifts.items():
        odds = shift + rng.normal(0, 0.4, (n_seeds, 1)) - hardness[None, :]
        found[name] = rows_of((rng.random((n_seeds, 40)) < 1 / (1 + np.exp(-odds))).astype(float))
    return found


def test_strategies_that_are_alike_are_told_apart_at_the_level_at_most() -> None:
    rng = np.random.default_rng(7)
    n_worlds = 300
    n_false = sum(
        any(pair.verdict != "undecided" for pair in contrast.pairs(world, are_data=False))
        for world in (strategies(rng, dict.fromkeys("abc", 0.5), 9) for _ in range(n_worlds))
    )
    assert n_false / n_worlds <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / n_worlds)


def test_a_better_strategy_is_found() -> None:
    rng = np.random.default_rng(8)
    worlds = [strategies(rng, {"a": 2.0, "b": 0.0, "c": 0.0}, 9) for _ in range(40)]
    found = [{(pair.a, pair.b): pair.verdict for pair in contrast.pairs(w, are_data=False)} for w in worlds]
    assert sum(one["a", "b"] == one["a", "c"] == "better" for one in found) >= 36
    assert not any("worse" in one.values() for one in found if one["b", "c"] == "undecided")


def test_pairs_count_blocks_and_correct_for_their_number() -> None:
    rows = {
        "a": rows_of(np.array([[1.0, 1], [1, 1], [1, 0]])),
        "b": rows_of(np.array([[1.0, 0], [1, 1], [1, 1]])),
        "c": rows_of(np.array([[0.0, 0], [0, 0], [0, 0]])),
    }
    found = {(pair.a, pair.b): pair for pair in contrast.pairs(rows, are_data=False)}
    first = found["a", "b"]
    assert (first.wins, first.ties, first.losses, first.n_blocks) == (1, 1, 1, 3)
    assert first.difference is not None
    assert first.difference.value == pytest.approx(0)
    assert first.p_value == first.p_holm == 1.0
    assert found["a", "c"].p_value == pytest.approx(2 / 8)
    assert found["a", "c"].p_holm == pytest.approx(3 * 2 / 8)
    assert found["a", "c"].smallest_p == pytest.approx(3 * 2 / 8)
    whole = contrast.pairs({name: {**own, ("e", 0): own["d", 0]} for name, own in rows.items()}, are_data=True)
    assert {pair.n_blocks for pair in whole} == {2}


@pytest.mark.parametrize("n", range(2, 9))
def test_blocks_needed_are_the_fewest_that_can_prove(n: int) -> None:
    n_pairs, needed = math.comb(n, 2), contrast.blocks_needed(n)
    assert n_pairs * 2.0 ** (1 - needed) <= 0.05 < n_pairs * 2.0 ** (2 - needed)


def test_the_blocks_needed_are_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    strategies, blocks = (
        [
            int(n)
            for n in re.findall(r"\d+", next(line for line in text.split("\n") if line.startswith(f"| {head} ")))
        ]
        for head in ("strategies", "blocks needed")
    )
    assert strategies[0] == 2
    assert [contrast.blocks_needed(n) for n in strategies] == blocks


def test_only_examples_in_common_are_compared() -> None:
    rows = {
        "a": {("d", 0): {"1": 1.0, "2": 0.0, "3": 1.0}, ("d", 1): {"1": 1.0}},
        "b": {("d", 0): {"2": 1.0, "3": 1.0}},
        "c": {("d", 0): {}},
    }
    found = contrast.common(rows)
    assert found == {
        "a": {("d", 0): {"2": 0.0, "3": 1.0}, ("d", 1): {"1": 1.0}},
        "b": {("d", 0): {"2": 1.0, "3": 1.0}},
        "c": {},
    }
    assert contrast.difference(found["a"], found["b"]) == {("d", 0): {"2": -1.0, "3": 0.0}}


def test_the_order_of_rows_changes_no_figure() -> None:
    rng = np.random.default_rng(9)
    world = strategies(rng, {"a": 1.0, "b": 0.0}, 4)
    turned = {
        name: {block: dict(reversed(list(row.items()))) for block, row in reversed(list(own.items()))}
        for name, own in world.items()
    }
    for name, other in itertools.product(("a",), ("b",)):
        first = contrast.pairs({name: world[name], other: world[other]}, are_data=False)[0]
        second = contrast.pairs({name: turned[name], other: turned[other]}, are_data=False)[0]
        assert first.p_value == second.p_value
        assert first.difference is not None
        assert second.difference is not None
        assert first.difference.ci95 == pytest.approx(second.difference.ci95, abs=1e-12)
