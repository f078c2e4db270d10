"""Intervals of means and of paired differences, and where a bootstrap may not be used."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from promptopt.stats.rows import (
    CHUNK,
    N_RESAMPLES,
    SAME,
    Floats,
    Interval,
    is_binary,
    n_uncommon,
    normal_quantile,
    scores,
)

MIN_SPREAD = 5  # below that many values off the commonest one, a bootstrap under-covers (docs/racing.md)


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
    z2 = normal_quantile(confidence) ** 2
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
    row = scores(values)
    if n_uncommon(row) < MIN_SPREAD:
        return wilson_interval(min(float(row.sum()), row.size), row.size, confidence)
    low, high = bca(row, confidence)
    return max(0.0, low), min(1.0, high)


def score_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return an interval of a mean score: Wilson's if all scores are 0 or 1, else `mean_interval`.

    Args:
        values: float[n], scores in [0, 1].
        confidence: of the interval.
    """
    row = scores(values)
    if is_binary(row):
        return wilson_interval(float(row.sum()), row.size, confidence)
    return mean_interval(row, confidence)


def bca(values: Floats, confidence: float) -> Interval:
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
    for z in (bias - normal_quantile(confidence), bias + normal_quantile(confidence)):
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return float(low), float(high)


def square_and_add(initial: Floats, best: Floats) -> Interval:
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
    if is_binary(best) and is_binary(initial) and cross > 0:
        cross = max(cross - 0.5, 0.0)
    spread = sqrt(float(((best - p1) ** 2).sum() * ((initial - p2) ** 2).sum()))
    correlation = cross / spread if spread > 0 else 0.0

    def reach(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    low = p1 - p2 - reach(p1 - low1, high2 - p2)
    high = p1 - p2 + reach(high1 - p1, p2 - low2)
    return max(-1.0, low), min(1.0, high)
