"""Statistics on scores: intervals, the paired comparison of two prompts, and anytime-valid tests.

Pure functions of arrays; nothing here knows of prompts, models or money. Whatever draws random
numbers (bootstrap, sign flips) uses a fixed seed, so that the same scores give the same figures.

Symbols of the anytime-valid tests, as in the literature:

    N       items in the pool; finite, known, drawn without replacement in a random order
    t       number of the item at hand, 1..N
    d       paired difference of two scores on one item, in [-1, 1]
    eps     indifference: a lead of up to eps is not worth protecting
    H0      the null hypothesis, mean of d over the whole pool <= -eps
    S, S2   sum of d and of d squared over the items before t
    m       largest mean that the N - t + 1 items from t on can have under H0, given S
    mu, v   prediction of d and of its variance, from the items before t
    lam     the bet, chosen before d is seen
    E       the capital of somebody who bets against H0, starting with 1; log_e is its natural logarithm
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Verdict = Literal["proven", "not_proven", "worse"]
TestName = Literal["exact McNemar", "sign-flip permutation"]

LEVEL = 0.05  # of the final test, two-sided; fixed by the design
N_RESAMPLES = 9_999  # with the observed arrangement 10,000, so p has four exact decimals
MAX_ENUMERATED = 12  # 2^12 arrangements are fewer than N_RESAMPLES, so exact is also cheaper
MIN_SPREAD = 5  # below that many values off the commonest one, a bootstrap under-covers (docs/racing.md)
CHUNK = 1 << 21  # random numbers held in memory at once: 16 MB
SAME = 1e-9  # scores closer than that are equal: sums of decimal fractions are not exact


# ------------------------------------------------------------------------------- intervals


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion; (0, 1) if `n` is 0.

    Assumes independent 0/1 outcomes. A fractional number of successes (the sum of scores in [0, 1])
    gives an interval that is too wide rather than too narrow, for the variance of such a score is
    at most mean x (1 - mean), which is what Wilson assumes.
    Reference: Wilson, JASA 22 (1927) 209-212.
    """
    assert 0 <= successes <= n, f"{successes=} of {n=}"
    if n == 0:
        return 0.0, 1.0
    z2 = _z(confidence) ** 2
    mean = successes / n
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # at 0 and n one end is exact; without min and max, rounding could leave the mean outside
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return an interval of the mean of graded scores: BCa bootstrap, seed fixed.

    Degenerate rows: no value gives (0, 1); where fewer than 5 values differ from the commonest one
    (so also with one value, or a constant row), a bootstrap has nothing to resample, and Wilson's
    interval of the mean is returned, which is too wide rather than too narrow.
    Assumes independent scores in [0, 1].
    Reference: Efron, JASA 82 (1987) 171-185; Efron & Tibshirani, An Introduction to the Bootstrap, ch. 14.

    Args:
        values: float[n], scores in [0, 1].
        confidence: of the interval.
    """
    row = _scores(values)
    if _n_uncommon(row) < MIN_SPREAD:
        return wilson_interval(min(float(row.sum()), row.size), row.size, confidence)
    low, high = _bca(row, confidence)
    return max(0.0, low), min(1.0, high)


def score_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return an interval of a mean score: Wilson's if all scores are 0 or 1, else `mean_interval`.

    Args:
        values: float[n], scores in [0, 1].
        confidence: of the interval.
    """
    row = _scores(values)
    if _is_binary(row):
        return wilson_interval(float(row.sum()), row.size, confidence)
    return mean_interval(row, confidence)


def _bca(values: Floats, confidence: float) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval of the mean of float[n]."""
    rng = np.random.default_rng(0)
    n, observed = values.size, float(values.mean())
    rows = max(1, CHUNK // n)
    sizes = [min(rows, N_RESAMPLES - start) for start in range(0, N_RESAMPLES, rows)]
    means = np.concatenate([values[rng.integers(0, n, size=(size, n))].mean(axis=1) for size in sizes])
    n_below = float((means < observed - SAME).sum() + 0.5 * (np.abs(means - observed) <= SAME).sum())
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(n_below, 1.0), N_RESAMPLES - 1.0) / N_RESAMPLES)
    centred = values - observed
    # for a mean, the jackknife's acceleration is skewness / 6: at most 1/6, so 1 - a z stays positive
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    ends = []
    for z in (bias - _z(confidence), bias + _z(confidence)):
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return float(low), float(high)


def _square_and_add(initial: Floats, best: Floats) -> Interval:
    """Return an interval of mean(best) - mean(initial), two float[n] rows on the same examples.

    Newcombe's method 10: the Wilson interval of each mean, joined by square-and-add with the
    correlation of the rows; for 0/1 rows with his continuity correction. It needs no discordant
    pair. Graded rows enter with their means: the same recipe under the name MOVER.
    Assumes independent examples.
    Reference: Newcombe, Statistics in Medicine 17 (1998) 2635-2650; Zou & Donner, ibid. 27 (2008) 1693-1702.
    """
    n = best.size
    p1, p2 = float(best.mean()), float(initial.mean())
    (low1, high1), (low2, high2) = (wilson_interval(min(p * n, n), n) for p in (p1, p2))
    cross = float(((best - p1) * (initial - p2)).sum())  # (ad - bc) / n in a 2 x 2 table
    if _is_binary(best) and _is_binary(initial) and cross > 0:
        cross = max(cross - 0.5, 0.0)
    spread = sqrt(float(((best - p1) ** 2).sum() * ((initial - p2) ** 2).sum()))
    correlation = cross / spread if spread > 0 else 0.0

    def reach(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    low = p1 - p2 - reach(p1 - low1, high2 - p2)
    high = p1 - p2 + reach(high1 - p1, p2 - low2)
    return max(-1.0, low), min(1.0, high)


# ------------------------------------------------------------------- the final comparison


@dataclass(frozen=True)
class Comparison:
    """The best prompt against the initial one on the same test examples.

    Args:
        delta: mean score of the best minus that of the initial prompt, in [-1, 1].
        ci95: 95% interval of `delta`. It comes from another method than `p_value`, so close to the
            level the two may disagree; the verdict follows `p_value`.
        p_value: two-sided.
        test: name of the test.
        verdict: proven or worse if p_value <= .05, by the sign of delta; else not_proven.
        smallest_provable: smallest gain that would have been proven, given the examples that went
            the other way; None = no gain could have been.
        fixed: indices of the examples that the best prompt scores higher on.
        broken: indices of the examples that it scores lower on.
    """

    delta: float
    ci95: Interval
    p_value: float
    test: TestName
    verdict: Verdict
    smallest_provable: float | None
    fixed: tuple[int, ...]
    broken: tuple[int, ...]


def compare(initial: ArrayLike, best: ArrayLike) -> Comparison:
    """Compare two rows of scores on the same, so far unseen examples.

    0/1 scores: exact McNemar test, interval by Newcombe's method 10. Graded scores: sign-flip
    permutation test, interval by BCa bootstrap of the differences (square-and-add where fewer than
    5 differences stand out). Assumes that the examples are independent, that all were scored by
    both prompts, and that this is the only comparison made on them: one look, fixed n.

    Args:
        initial: float[n], scores of the initial prompt, n >= 1.
        best: float[n], scores of the best prompt on the same examples.
    """
    first, last = _scores(initial), _scores(best)
    assert first.shape == last.shape, f"rows differ in length: {first.size}, {last.size}"
    assert first.size > 0, "no example to compare on"
    differences = np.where(np.abs(last - first) <= SAME, 0.0, last - first)
    fixed, broken = np.flatnonzero(differences > 0), np.flatnonzero(differences < 0)
    ci95 = _square_and_add(first, last)
    test: TestName
    if _is_binary(first) and _is_binary(last):
        test, p_value = "exact McNemar", mcnemar_p(fixed.size, broken.size)
        smallest = _smallest_binary(broken.size, differences.size)
    else:
        test, p_value = "sign-flip permutation", sign_flip_p(differences)
        smallest = _smallest_graded(differences)
        if _n_uncommon(differences) >= MIN_SPREAD:
            ci95 = _bca(differences, 1 - LEVEL)
    delta = float(differences.mean())
    verdict: Verdict = "not_proven"
    if p_value <= LEVEL:  # a balanced row of differences has p = 1, so delta is not 0 here
        verdict = "proven" if delta > 0 else "worse"
    return Comparison(
        delta,
        ci95,
        p_value,
        test,
        verdict,
        smallest,
        tuple(fixed.tolist()),
        tuple(broken.tolist()),
    )


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact McNemar test on paired 0/1 scores.

    H0: an example that changes sides is as likely to be won as lost. Only discordant pairs count;
    without any, p is 1. Assumes independent examples.
    Reference: McNemar, Psychometrika 12 (1947) 153-157; the exact form is the sign test.
    """
    return float(_mcnemar_p(np.asarray([wins]), losses)[0])


def _mcnemar_p(wins: NDArray[np.int64], losses: int) -> Floats:
    """Return p-values, float[m], of int[m] wins against `losses`."""
    from scipy import special

    # Bin(n, 1/2) is symmetric: twice the smaller tail is the two-sided p-value
    tail = special.bdtr(np.minimum(wins, losses).astype(float), wins + losses, 0.5)
    return np.asarray(np.minimum(1.0, 2 * tail), dtype=np.float64)


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the two-sided p-value of the sign-flip permutation test of paired differences.

    H0: each difference is as likely to have the opposite sign (the two prompts are exchangeable).
    All 2^m arrangements of the m differences that are not 0 are enumerated if m <= 12, else 9,999
    random ones drawn with a fixed seed, the observed one counted in, so that the level holds.
    Without a difference p is 1.
    Reference: Fisher, The Design of Experiments (1935) section 21; Phipson & Smyth, SAGMB 9 (2010) 39.

    Args:
        differences: float[n].
    """
    row = np.asarray(differences, dtype=np.float64)
    row = row[np.abs(row) > SAME]
    # sorted, and summed exactly, so that p does not depend on the order of the examples
    sizes = np.sort(np.abs(row))
    least = abs(fsum(row)) - SAME
    if sizes.size <= MAX_ENUMERATED:
        bits = (np.arange(2**sizes.size)[:, None] >> np.arange(sizes.size)) & 1
        return float((np.abs((2.0 * bits - 1) @ sizes) >= least).mean())
    rng = np.random.default_rng(0)
    n_extreme, rows = 1, max(1, CHUNK // sizes.size)
    for start in range(0, N_RESAMPLES, rows):
        shape = (min(rows, N_RESAMPLES - start), sizes.size)
        positive = rng.integers(0, 2, size=shape, dtype=np.int8).astype(np.float64) @ sizes
        n_extreme += int((np.abs(2 * positive - sizes.sum()) >= least).sum())
    return n_extreme / (N_RESAMPLES + 1)


def smallest_provable_gain(n: int) -> float | None:
    """Return the smallest gain that `n` test examples can prove at best; None if n < 6: none.

    The best case: 0/1 scores and no example lost. Six wins are needed, as 2 x (1/2)^6 = .031 and
    2 x (1/2)^5 = .063 (exact McNemar, two-sided, level .05). Every example that goes the other way
    raises it: see `Comparison.smallest_provable`.
    """
    return 6 / n if n >= 6 else None


def _smallest_binary(losses: int, n: int) -> float | None:
    """Return the smallest (wins - losses) / n that exact McNemar proves; None if n is too small."""
    wins = np.arange(losses + 1, n - losses + 1)
    proving = wins[_mcnemar_p(wins, losses) <= LEVEL] if wins.size else wins
    return float(proving[0] - losses) / n if proving.size else None


def _smallest_graded(differences: Floats) -> float | None:
    """Return the smallest mean gain that the sign-flip test proves, given the losses of float[n].

    Where few examples change: the losing differences stay, and the winning ones are all of the size
    that is typical here (root mean square of what differs; 1 if nothing does), as few as prove it.
    Where so many change that not even all others could outweigh them: the differences keep their
    spread, and all move by the same amount (to .001).
    """
    n, changed = differences.size, differences[differences != 0]
    lost = changed[changed < 0]
    typical = float(np.sqrt((changed**2).mean())) if changed.size else 1.0

    def win(count: int) -> Floats:
        return np.concatenate([lost, np.full(count, typical)])

    def move(thousandths: int) -> Floats:
        return np.asarray(differences - differences.mean() + thousandths / 1_000)

    for imagine, most in ((win, n - lost.size), (move, 1_000)):
        least = _least_proven(imagine, most)
        if least is not None:
            return float(imagine(least).sum()) / n
    return None


def _least_proven(imagine: Callable[[int], Floats], most: int) -> int | None:
    """Return the least count, up to `most`, for which `imagine(count)` proves a gain; None = none."""

    def is_proven(count: int) -> bool:
        row = imagine(count)
        return float(row.sum()) > SAME and sign_flip_p(row) <= LEVEL

    low, high = 0, most
    if not is_proven(high):
        return None
    while high - low > 1:  # more of it only lowers p: bisect
        middle = (low + high) // 2
        low, high = (low, middle) if is_proven(middle) else (middle, high)
    return high


# ------------------------------------------------------------------- anytime-valid tests


def macro_f1(pairs: Sequence[tuple[str, str | None]], labels: Collection[str]) -> float:
    """Return the mean over `labels` of the F1 of each, in [0, 1]: scikit-learn's, with `zero_division=0`.

    Args:
        pairs: (right class, named class) of each example; None = the answer names no class, and is wrong.
        labels: at least one class; one that no example has and no answer names counts 0.
    """
    hits = Counter(right for right, named in pairs if right == named)
    sizes = Counter(right for right, _ in pairs) + Counter(named for _, named in pairs if named is not None)
    # exact, since a set of labels has another order in each process
    return fsum(2 * hits[label] / sizes[label] for label in labels if sizes[label]) / len(labels)


def log_e_values(wins: ArrayLike, losses: ArrayLike) -> Floats:
    """Return the log e-values that wins are likelier than losses; 0 = no evidence either way.

    H0: P(win | decisive) <= 1/2. E(w, l) is the likelihood ratio to 1/2 with P(win) mixed uniformly
    over [1/2, 1]; it depends on the counts only, and P(E ever >= 1/alpha) <= alpha under H0 however
    often one looks. Assumes independent items; ties are left out.
    Reference: Ville (1939); Robbins, Annals of Mathematical Statistics 41 (1970) 1397-1409.

    Args:
        wins: int[...], how often the one won.
        losses: int[...], how often it lost; shapes broadcast.
    """
    from scipy import special

    w, lost = np.broadcast_arrays(np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64))
    tail = special.betaincc(w + 1, lost + 1, 0.5)
    # E is B(w+1, l+1) times the sum of C(w+l+1, k) over k <= w. Where the tail underflows, the last
    # term of that sum, 1 / (l+1), stands for it: too small, hence safe, and far from any threshold.
    is_tiny = tail < 1e-300
    logarithm = np.log(np.where(is_tiny, 1.0, tail))
    exact = (w + lost + 1) * np.log(2.0) + special.betaln(w + 1, lost + 1) + logarithm
    return np.asarray(np.where(is_tiny, -np.log1p(lost), exact), dtype=np.float64)


class BettingTest:
    """Many betting tests side by side: is the mean of d over a finite pool above -eps?

    Each cell of the arrays is one test of H0: mean(d) <= -eps, d in [-1, 1]. Items arrive in an order
    drawn uniformly at random before any was scored. Under H0, P(E ever >= 1/alpha) <= alpha (Ville's
    inequality), so one may look after each item and stop at will; nothing is assumed of the scores
    but their range. Once the items left cannot bring the mean down to -eps, H0 is refuted and log_e is
    infinite: at the end of the pool the answer is exact.
    Reference: Waudby-Smith & Ramdas, JRSS-B 86 (2024) 1-27 (arXiv 2010.09686), sampling without
    replacement, with their aGRAPA bets; Ville (1939).

    Args:
        shape: of the arrays of tests.
        n_items: N, the size of the pool.
        eps: indifference, >= 0.

    Attributes:
        n_seen: items processed.
        total: float[shape], S.
        squares: float[shape], S2.
        log_e: float[shape].
        max_log_e: float[shape], the largest log_e so far, at least 0; its e^-x is a p-value at any time.
    """

    def __init__(self, shape: Sequence[int], n_items: int, eps: float = 0.0) -> None:
        """Set up the tests before the first item, with a capital of 1 each."""
        self.n_items = n_items
        self.eps = eps
        self.n_seen = 0
        self.total: Floats = np.zeros(shape)
        self.squares: Floats = np.zeros(shape)
        self.log_e: Floats = np.zeros(shape)
        self.max_log_e: Floats = np.zeros(shape)

    def update(self, d: Floats) -> None:
        """Process the next item of the permutation; `d` is float[shape], differences in [-1, 1]."""
        assert self.n_seen < self.n_items, "the pool is exhausted"
        self.n_seen += 1
        m = self._null_mean()
        self.log_e += np.log1p(self._bet(m) * (d - m))
        self.total += d
        self.squares += d * d
        n_left = self.n_items - self.n_seen
        # even d = -1 on all that is left would keep the mean above -eps: impossible under H0
        self.log_e[self.total - n_left > SAME - self.eps * self.n_items] = np.inf
        np.maximum(self.max_log_e, self.log_e, out=self.max_log_e)

    def _null_mean(self) -> Floats:
        """Return m for item t = n_seen, float[shape]."""
        n_left = self.n_items - self.n_seen + 1
        return np.clip((-self.eps * self.n_items - self.total) / n_left, -1.0, 1.0)

    def _bet(self, m: Floats) -> Floats:
        """Return lam for item t = n_seen, float[shape], from the items before it."""
        t = self.n_seen
        mu = self.total / (t + 1)
        # 0.25 and t + 1: prior guess of the variance, worth one item; 1e-3 keeps the bets finite
        v = np.maximum((self.squares + 0.25) / (t + 1) - mu**2, 1e-3)
        edge = mu - m
        # the factor 1 + lam (d - m) is smallest at d = -1; the cap keeps it at 1/4 or more. Where
        # m = -1 nothing can be lost and the cap is no limit, for lam <= 1 / (2 sqrt(v)) anyway
        cap = 0.75 / np.maximum(1 + m, 1e-12)
        return np.asarray(np.clip(edge / (v + edge**2), 0.0, cap), dtype=np.float64)

    def take(self, index: tuple[NDArray[np.intp], ...]) -> None:
        """Keep only the tests at `index` (as of `numpy.ix_`)."""
        self.total, self.squares = self.total[index], self.squares[index]
        self.log_e, self.max_log_e = self.log_e[index], self.max_log_e[index]


# --------------------------------------------------------------------------------- helpers


def _z(confidence: float) -> float:
    """Return the two-sided normal quantile."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _scores(values: ArrayLike) -> Floats:
    """Return float[n], checked: scores in [0, 1], none missing."""
    row = np.asarray(values, dtype=np.float64)
    assert row.ndim == 1, f"shape {row.shape}, expected one row"
    assert bool(((row >= 0) & (row <= 1)).all()), "scores must lie in [0, 1], none missing"
    return row


def _is_binary(row: Floats) -> bool:
    """Tell whether all values of float[n] are 0 or 1."""
    return bool(((row == 0) | (row == 1)).all())


def _n_uncommon(row: Floats) -> int:
    """Return how many values of float[n] differ from the commonest one."""
    if row.size == 0:
        return 0
    _, counts = np.unique(np.round(row / SAME), return_counts=True)
    return row.size - int(counts.max())
