"""The final comparison of two prompts: one look, paired, at examples that the search never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptopt.stats.intervals import MIN_SPREAD, bca, square_and_add
from promptopt.stats.rows import CHUNK, N_RESAMPLES, SAME, Floats, Interval, is_binary, n_uncommon, scores

Verdict = Literal["proven", "not_proven", "worse"]
TestName = Literal["exact McNemar", "sign-flip permutation"]

LEVEL = 0.05  # of the final test, two-sided; fixed by the design
MAX_ENUMERATED = 12  # 2^12 arrangements are fewer than N_RESAMPLES, so exact is also cheaper


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
    first, last = scores(initial), scores(best)
    assert first.shape == last.shape, f"rows differ in length: {first.size}, {last.size}"
    assert first.size > 0, "no example to compare on"
    differences = np.where(np.abs(last - first) <= SAME, 0.0, last - first)
    fixed, broken = np.flatnonzero(differences > 0), np.flatnonzero(differences < 0)
    ci95 = square_and_add(first, last)
    test: TestName
    if is_binary(first) and is_binary(last):
        test, p_value = "exact McNemar", mcnemar_p(fixed.size, broken.size)
        smallest = _smallest_binary(broken.size, differences.size)
    else:
        test, p_value = "sign-flip permutation", sign_flip_p(differences)
        smallest = _smallest_graded(differences)
        if n_uncommon(differences) >= MIN_SPREAD:
            ci95 = bca(differences, 1 - LEVEL)
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
