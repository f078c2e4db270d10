"""How far ratings agree with labels that people gave, and with themselves when they are repeated.

Glossary: labels: float[n], by hand, in [0, 1]; ratings: float[n], a judge's, in [0, 1]; rows are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atanh, sqrt, tanh

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from promptopt.stats import mean_interval, wilson_interval

Floats = NDArray[np.float64]

_Z = 1.959963984540054  # 97.5% point of the normal distribution
GOOD = 0.5  # a rating from here on agrees with the label yes, where labels are yes or no


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; None = there are too few rows for one, or they leave nothing to vary."""

    value: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Agreement:
    """How ratings agree with labels.

    Args:
        n: rows that have both.
        spearman: rank correlation in [-1, 1]; None = undefined: under 3 rows, or labels or ratings all equal.
        pearson: linear correlation, likewise.
        difference: mean absolute difference, in [0, 1], lower is better.
        accuracy: share of rows on the same side of 0.5; None = the labels are not just 0 and 1.
        kappa: Cohen's kappa of the same, at most 1, 0 = as by chance; None also where chance alone explains all.
    """

    n: int
    spearman: Estimate | None
    pearson: Estimate | None
    difference: Estimate
    accuracy: Estimate | None
    kappa: Estimate | None


@dataclass(frozen=True)
class Noise:
    """How ratings of the same reply differ.

    Args:
        n: rows that were rated at least twice.
        changed: share of them whose ratings are not all the same.
        sd: standard deviation between the ratings of a row, pooled over rows (n - 1 in each).
    """

    n: int
    changed: Estimate
    sd: float


def agreement(labels: Sequence[float], ratings: Sequence[float]) -> Agreement:
    """Return how `ratings` agree with `labels`, of at least one row."""
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    gap = np.abs(x - y)
    is_binary = bool(np.isin(x, (0.0, 1.0)).all())
    return Agreement(
        n=len(x),
        spearman=_correlation(x, y, is_ranked=True),
        pearson=_correlation(x, y, is_ranked=False),
        difference=Estimate(float(gap.mean()), mean_interval(gap)),
        accuracy=_accuracy(x > 0, y >= GOOD) if is_binary else None,
        kappa=_kappa(x > 0, y >= GOOD) if is_binary else None,
    )


def noise(rows: Sequence[Sequence[float]]) -> Noise | None:
    """Return how the ratings within each row differ; rows of one do not count; None = no row has two."""
    repeated = [np.asarray(row, dtype=np.float64) for row in rows if len(row) > 1]
    if not repeated:
        return None
    n_changed = sum(bool((row != row[0]).any()) for row in repeated)
    squares = sum(float(((row - row.mean()) ** 2).sum()) for row in repeated)
    changed = Estimate(n_changed / len(repeated), wilson_interval(n_changed, len(repeated)))
    return Noise(len(repeated), changed, sqrt(squares / sum(len(row) - 1 for row in repeated)))


def _correlation(x: Floats, y: Floats, *, is_ranked: bool) -> Estimate | None:
    """Return Spearman's or Pearson's correlation with an interval by Fisher's z.

    The standard error of z is 1 / sqrt(n - 3), for ranks sqrt((1 + r^2 / 2) / (n - 3)) (Bonett & Wright,
    Psychometrika 65 (2000) 23-28). Assumes independent rows; for Pearson, roughly normal ones.
    """
    n = len(x)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    found = scipy_stats.spearmanr(x, y) if is_ranked else scipy_stats.pearsonr(x, y)
    r = float(np.clip(found.statistic, -1.0, 1.0))
    if n < 4 or abs(r) > 1 - 1e-9:  # z of a perfect correlation is infinite, and its interval a point
        return Estimate(r, None)
    half = _Z * sqrt((1 + r * r / 2 if is_ranked else 1.0) / (n - 3))
    return Estimate(r, (tanh(atanh(r) - half), tanh(atanh(r) + half)))


def _accuracy(x: NDArray[np.bool_], y: NDArray[np.bool_]) -> Estimate:
    n_same = int((x == y).sum())
    return Estimate(n_same / len(x), wilson_interval(n_same, len(x)))


def _kappa(x: NDArray[np.bool_], y: NDArray[np.bool_]) -> Estimate | None:
    """Return Cohen's kappa; its interval is normal, by the standard error of the observed agreement (1960)."""
    observed = float((x == y).mean())
    chance = float(x.mean() * y.mean() + (1 - x.mean()) * (1 - y.mean()))
    if chance >= 1:
        return None
    value = (observed - chance) / (1 - chance)
    half = _Z * sqrt(observed * (1 - observed) / len(x)) / (1 - chance)
    return Estimate(value, (max(-1.0, value - half), min(1.0, value + half)) if half > 0 else None)
