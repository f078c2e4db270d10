"""Statistics checked against closed forms, scipy, and known truth over many seeded data sets."""

from __future__ import annotations

import random
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from promptopt import stats
from promptopt.stats.intervals import square_and_add


def rate_limit(level: float, n: int) -> float:
    """The rate that n draws at `level` exceed with probability .001."""
    return level + 3 * sqrt(level * (1 - level) / n)


# ------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (8, 10), (10, 10), (497, 500)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    expected = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert stats.wilson_interval(successes, n) == pytest.approx((expected.low, expected.high))


def test_wilson_of_nothing_says_nothing() -> None:
    assert stats.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [10, 50, 200])
def test_wilson_covers(n: int) -> None:
    # exact coverage: enumerate all outcomes for each true p, no simulation
    ends = np.array([stats.wilson_interval(k, n) for k in range(n + 1)])
    truths = np.linspace(0.02, 0.98, 97)
    chance = scipy_stats.binom.pmf(np.arange(n + 1)[None, :], n, truths[:, None])
    covered = (ends[:, 0] <= truths[:, None]) & (truths[:, None] <= ends[:, 1])
    coverage = (chance * covered).sum(axis=1)
    assert 0.945 <= coverage.mean() <= 0.965
    assert coverage.min() >= 0.88


@pytest.mark.parametrize("row", [[], [0.3], [0.7] * 20, [1.0] * 19 + [0.5]])
def test_degenerate_rows_fall_back_to_wilson(row: list[float]) -> None:
    assert stats.mean_interval(row) == pytest.approx(stats.wilson_interval(sum(row), len(row)))


def test_score_interval_picks_by_the_values() -> None:
    binary, graded = [0.0, 1.0] * 20, list(np.linspace(0, 1, 40))
    assert stats.score_interval(binary) == stats.wilson_interval(20, 40)
    assert stats.score_interval(graded) == stats.mean_interval(graded)


def graded_rows(n: int, rng: np.random.Generator) -> dict[float, np.ndarray]:
    """True mean -> a sample: uniform, U-shaped, and mostly 1 with a tail."""
    return {
        0.5: rng.random(n),
        0.3: rng.beta(0.3, 0.7, n),
        0.9: np.where(rng.random(n) < 0.8, 1.0, rng.random(n)),
    }


def test_mean_interval_covers() -> None:
    rng, n_sets = np.random.default_rng(0), 1_000
    hits = dict.fromkeys(graded_rows(1, rng), 0)
    for _ in range(n_sets):
        for truth, row in graded_rows(30, rng).items():
            low, high = stats.mean_interval(row)
            assert 0 <= low <= row.mean() <= high <= 1
            hits[truth] += low <= truth <= high
    # nominal .95, less a Monte Carlo error of .021 (3 s.e.) and BCa's own defect of about .01 at n = 30
    assert all(hit / n_sets >= 0.92 for hit in hits.values()), hits


def test_mean_interval_is_scipys() -> None:
    row = np.random.default_rng(12).beta(0.3, 0.7, 40)  # skewed, so that both corrections of BCa matter
    expected = scipy_stats.bootstrap((row,), np.mean, n_resamples=50_000, method="BCa", rng=0)
    interval = (expected.confidence_interval.low, expected.confidence_interval.high)
    assert stats.mean_interval(row) == pytest.approx(interval, abs=0.004)


def test_intervals_are_reproducible() -> None:
    row = np.random.default_rng(1).random(50)
    assert stats.mean_interval(row) == stats.mean_interval(row)


def test_missing_scores_are_refused() -> None:
    with pytest.raises(AssertionError, match="none missing"):
        stats.score_interval([0.5, float("nan")])


# ------------------------------------------------------------------- the final comparison


def paired_binary(
    rng: np.random.Generator, n: int, gain: float, discordance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose true paired difference is `gain`."""
    initial, u = (rng.random(n) < 0.5).astype(float), rng.random(n)
    wins = (discordance + gain) / 2  # overall; all of it among the examples lost so far
    best = np.where(initial == 0, u < 2 * wins, u >= 2 * (discordance - wins)).astype(float)
    return initial, best


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (6, 0), (5, 0), (0, 6), (9, 3), (40, 21), (300, 250)])
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    n = wins + losses
    expected = scipy_stats.binomtest(wins, n, 0.5).pvalue if n else 1.0
    assert stats.mcnemar_p(wins, losses) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "discordance"), [(30, 0.2), (100, 0.3), (400, 0.1)])
def test_mcnemar_keeps_its_level(n: int, discordance: float) -> None:
    rng, n_sets = np.random.default_rng(2), 1_500
    verdicts = [stats.compare(*paired_binary(rng, n, 0.0, discordance)).verdict for _ in range(n_sets)]
    assert verdicts.count("proven") / n_sets <= rate_limit(0.025, n_sets)
    assert verdicts.count("worse") / n_sets <= rate_limit(0.025, n_sets)


@pytest.mark.parametrize("n", [10, 25])  # enumerated, drawn
def test_sign_flip_keeps_its_level(n: int) -> None:
    rng, n_sets = np.random.default_rng(3), 1_000
    p = np.array([stats.sign_flip_p(rng.random(n) - rng.random(n)) for _ in range(n_sets)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= rate_limit(level, n_sets)
    assert (p <= 0.2).mean() >= 0.15  # and it is not merely timid


def test_sign_flip_is_scipys() -> None:
    d = np.array([0.3, -0.1, 0.5, 0.25, 0.0, 0.6, -0.05, 0.2])
    expected = scipy_stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=10**6, vectorized=True
    )
    assert stats.sign_flip_p(d) == pytest.approx(expected.pvalue)
    assert stats.sign_flip_p([0.5] * 40) == 1e-4  # the observed arrangement counts: never 0
    many = np.random.default_rng(4).normal(0.2, 1, 60)
    assert stats.sign_flip_p(many) == pytest.approx(scipy_stats.ttest_1samp(many, 0).pvalue, abs=0.02)


@given(st.lists(st.floats(-1, 1), min_size=13, max_size=20))
@example([0.0] * 10 + [1.0, 1e-9, -1.0])  # what counts as no difference must count nowhere
@example([0.0] * 7 + [0.625, 0.625, 0.6796828039741061, 0.7103932046632973, 0.1712229440909281, 1e-9])
@settings(max_examples=25)
def test_sign_flip_ignores_order_and_direction(row: list[float]) -> None:
    p = stats.sign_flip_p(row)
    assert 1 / 10_000 <= p <= 1
    assert stats.sign_flip_p(row[::-1]) == p
    assert stats.sign_flip_p([-d for d in row]) == p


def test_no_difference_is_no_evidence() -> None:
    for row in ([1.0, 0.0, 1.0] * 10, [0.4, 0.7, 1.0] * 10):
        result = stats.compare(row, row)
        assert (result.p_value, result.verdict, result.delta) == (1.0, "not_proven", 0.0)
        assert result.ci95[0] < 0 < result.ci95[1]
        assert result.smallest_provable == pytest.approx(6 / 30)


def test_compare_names_what_changed() -> None:
    result = stats.compare([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    assert result.test == "exact McNemar"
    assert result.fixed == (0, 2, 3, 4, 5, 6, 7, 9)
    assert result.broken == (1,)
    assert result.delta == pytest.approx(0.7)
    assert result.verdict == "proven"
    assert stats.compare([0.5] * 8 + [1.0], [0.1] * 8 + [1.0]).verdict == "worse"
    assert stats.compare([0.5] * 8, [0.1] * 8).test == "sign-flip permutation"


def test_rounding_is_no_difference() -> None:
    result = stats.compare([0.3] * 10, [0.1 + 0.2] * 10)
    assert (result.fixed, result.broken, result.p_value) == ((), (), 1.0)


@pytest.mark.parametrize(("gain", "discordance"), [(0.0, 0.1), (0.1, 0.2), (0.05, 0.05), (0.3, 0.5)])
def test_binary_difference_interval_covers(gain: float, discordance: float) -> None:
    rng, n_sets = np.random.default_rng(5), 1_500
    hits = 0
    for _ in range(n_sets):
        low, high = stats.compare(*paired_binary(rng, 60, gain, discordance)).ci95
        hits += low <= gain <= high
    # Newcombe's own tables have .93 to .99 for such n
    assert hits / n_sets >= 0.93 - 3 * sqrt(0.93 * 0.07 / n_sets)


def test_graded_difference_interval_covers() -> None:
    rng, n_sets, hits, few_hits = np.random.default_rng(6), 600, 0, 0
    for _ in range(n_sets):
        initial = 0.6 * rng.random(40)
        best = initial + 0.4 * rng.random(40) ** 2  # true gain .4 / 3
        low, high = stats.compare(initial, best).ci95
        hits += low <= 0.4 / 3 <= high
        few = np.where(rng.random(40) < 0.05, 0.3, 0.0)  # 2 of 40 change: true gain .015
        low, high = stats.compare(initial, initial + few).ci95
        few_hits += low <= 0.015 <= high
        if 0 < np.count_nonzero(few) < stats.MIN_SPREAD:
            assert (low, high) == square_and_add(initial, initial + few)
    assert hits / n_sets >= 0.91  # as for mean_interval
    assert few_hits / n_sets >= 0.95


def test_smallest_provable_gain_before_spending() -> None:
    assert stats.smallest_provable_gain(5) is None
    assert stats.smallest_provable_gain(6) == 1.0
    assert stats.smallest_provable_gain(200) == pytest.approx(0.03)


@pytest.mark.parametrize(("losses", "n"), [(0, 5), (0, 6), (1, 40), (7, 50), (20, 45), (30, 400)])
def test_smallest_provable_of_0_1_scores_is_the_smallest(losses: int, n: int) -> None:
    def verdict(wins: int) -> stats.Verdict:
        best = np.zeros(n)
        best[:wins] = 1
        initial = np.zeros(n)
        initial[n - losses :] = 1
        return stats.compare(initial, best).verdict

    proving = [wins for wins in range(n - losses + 1) if verdict(wins) == "proven"]
    lost = stats.compare([1.0] * losses + [0.0] * (n - losses), [0.0] * n)
    assert lost.smallest_provable == ((min(proving) - losses) / n if proving else None)


def test_smallest_provable_of_graded_scores() -> None:
    initial, best = np.full(40, 0.5), np.full(40, 0.5)
    best[:3] = 0.4
    smallest = stats.compare(initial, best).smallest_provable
    assert smallest is not None
    wins = round((smallest * 40 + 0.3) / 0.1)
    best[3 : 3 + wins] = 0.6
    assert stats.compare(initial, best).verdict == "proven"
    assert stats.compare(initial, best).delta == pytest.approx(smallest)
    best[3] = 0.5
    assert stats.compare(initial, best).verdict == "not_proven"
    assert stats.compare([0.5] * 5, [0.6] * 5).smallest_provable is None


def test_smallest_provable_where_everything_changes() -> None:
    rng = np.random.default_rng(11)
    initial, best = rng.random(200), rng.random(200)
    smallest = stats.compare(initial, best).smallest_provable
    spread = float((best - initial).std())
    assert smallest == pytest.approx(1.96 * spread / sqrt(200), rel=0.1)


def test_interval_and_test_disagree_only_on_the_safe_side() -> None:
    # "proven" with an interval that holds 0 would puzzle; the other way round happens near the level
    for wins in range(1, 35):
        for losses in range(min(wins, 15)):
            initial, best = np.zeros(100), np.zeros(100)
            initial[:50] = best[:50] = 1  # 50 right with both prompts, then the wins, then the losses
            best[50 : 50 + wins] = 1
            initial[50 + wins : 50 + wins + losses] = 1
            result = stats.compare(initial, best)
            assert result.verdict != "proven" or result.ci95[0] > 0


# ------------------------------------------------------------------- anytime-valid tests


def test_closed_form_values() -> None:
    assert stats.log_e_values(0, 0) == pytest.approx(0.0)
    # E(1, 0) = 2^2 x integral of theta over [1/2, 1] = 3/2
    assert stats.log_e_values(1, 0) == pytest.approx(log(1.5))
    grid = stats.log_e_values(np.arange(40)[:, None], np.arange(40)[None, :])
    assert (np.diff(grid, axis=0) > 0).all()
    assert (np.diff(grid, axis=1) < 0).all()


def test_closed_form_at_extreme_counts() -> None:
    values = stats.log_e_values([0, 10, 5_000, 100_000], [5_000, 100_000, 0, 100_000])
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(-log(5_001))
    assert values[2] > 3_000


def test_closed_form_seldom_exceeds_under_the_null() -> None:
    wins = np.cumsum(np.random.default_rng(7).random((4_000, 400)) < 0.5, axis=1)
    e = stats.log_e_values(wins, np.arange(1, 401) - wins)
    rate = (e.max(axis=1) >= log(10)).mean()
    assert 0.05 <= rate <= 0.10  # .072 in the notes this follows; at most .10 by Ville


def boundary_population(name: str, n: int, eps: float, rng: np.random.Generator) -> np.ndarray:
    """Differences with mean exactly -eps: the hardest case of H0."""
    if name == "graded":
        d = rng.uniform(-0.9, 0.9, n)
        return np.asarray(d - d.mean() - eps)
    n_changed = {"few": n // 5, "many": 3 * n // 5}[name]
    d = np.zeros(n)
    d[:n_changed] = 1
    d[: (n_changed + round(eps * n)) // 2] = -1
    return d


def play(rows: np.ndarray, eps: float = 0.0) -> stats.BettingTest:
    """The betting tests after all items of float[tests, items]."""
    test = stats.BettingTest((len(rows),), rows.shape[1], eps)
    for column in rows.T:
        test.update(column)
    return test


@pytest.mark.parametrize("eps", [0.0, 0.02])
@pytest.mark.parametrize("name", ["few", "many", "graded"])
@pytest.mark.parametrize("n", [100, 300])
def test_betting_seldom_exceeds_on_the_boundary(n: int, name: str, eps: float) -> None:
    rng, alpha = np.random.default_rng(8), 0.10
    population = boundary_population(name, n, eps, rng)
    assert population.mean() == pytest.approx(-eps, abs=1e-12)
    test = play(rng.permuted(np.tile(population, (2_000, 1)), axis=1), eps)
    assert (test.max_log_e >= log(1 / alpha)).mean() <= rate_limit(alpha, 2_000)
    assert np.isfinite(test.log_e).all()  # H0 is true: certainty would be a mistake


@given(st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.1, 1.0]), min_size=1, max_size=60), st.floats(0, 0.5))
@settings(max_examples=150)
def test_betting_never_goes_broke_and_ends_exact(row: list[float], eps: float) -> None:
    test, before = stats.BettingTest((1,), len(row), eps), 0.0
    for d in row:
        test.update(np.array([d]))
        now = float(test.log_e[0])
        assert now == np.inf or now - before >= log(0.25) - 1e-12
        before = now
    if abs(sum(row) + eps * len(row)) > 1e-6:
        assert (test.log_e[0] == np.inf) == (sum(row) > -eps * len(row))
    assert test.max_log_e[0] >= 0


def test_betting_on_equal_scores_says_nothing() -> None:
    test = play(np.zeros((1, 50)))
    assert test.log_e[0] == test.max_log_e[0] == 0.0


def test_betting_finds_what_is_there() -> None:
    rng = np.random.default_rng(9)
    population = np.repeat([1.0, -1.0, 0.0], [30, 10, 160])  # a lead of .10
    test = stats.BettingTest((500,), 200)
    rows = rng.permuted(np.tile(population, (500, 1)), axis=1)
    for column in rows[:, :150].T:
        test.update(column)
    assert (test.max_log_e >= log(10)).mean() >= 0.5


def test_betting_follows_the_published_recursion() -> None:
    # scalar pseudo-code of the method, step by step
    rng = np.random.default_rng(10)
    row, n, eps = rng.uniform(-1, 1, 30), 40, 0.05
    test, s, s2, log_e = stats.BettingTest((1,), n, eps), 0.0, 0.0, 0.0
    for t, d in enumerate(row, start=1):
        m = min(max((-eps * n - s) / (n - t + 1), -1), 1)
        mu = s / (t + 1)
        v = max((s2 + 0.25) / (t + 1) - mu**2, 1e-3)
        bet = min(max((mu - m) / (v + (mu - m) ** 2), 0), 0.75 / (1 + m))
        log_e += log(1 + bet * (d - m))
        s, s2 = s + d, s2 + d * d
        test.update(np.array([d]))
        assert test.log_e[0] == pytest.approx(log_e)
        assert exp(test.log_e[0]) > 0


# -------------------------------------------------------------------------------- macro-F1

CLASSES = ("a", "b", "c", "d")


@given(st.lists(st.tuples(st.sampled_from(CLASSES[:3]), st.sampled_from((*CLASSES, None))), min_size=1))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[str, str | None]]) -> None:
    from sklearn.metrics import f1_score

    right, named = [pair[0] for pair in pairs], [pair[1] or "(none)" for pair in pairs]
    for labels in (CLASSES, CLASSES[:1]):
        expected = f1_score(right, named, labels=labels, average="macro", zero_division=0)
        assert stats.macro_f1(pairs, labels) == pytest.approx(expected)


def test_macro_f1_of_an_answer_of_no_class_is_that_of_a_wrong_one() -> None:
    assert stats.macro_f1([("a", "a"), ("b", "b")], ("a", "b")) == 1
    assert stats.macro_f1([("a", "a"), ("b", None)], ("a", "b")) == 0.5
    assert stats.macro_f1([("a", "a"), ("b", "a")], ("a", "b")) == pytest.approx(1 / 3)


def test_macro_f1_does_not_hang_on_the_order_of_labels() -> None:
    labels = [f"label {i}" for i in range(40)]
    pairs: list[tuple[str, str | None]] = [(label, labels[i % 7]) for i, label in enumerate(labels * 3)]
    pairs += [(label, label) for i, label in enumerate(labels) for _ in range(i % 5)]
    found = {stats.macro_f1(pairs, random.Random(seed).sample(labels, 40)) for seed in range(50)}
    assert len(found) == 1
