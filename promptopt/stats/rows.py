"""Rows of scores: how they are checked, and what tells them apart."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

SAME = 1e-9  # scores closer than that are equal: sums of decimal fractions are not exact
CHUNK = 1 << 21  # random numbers held in memory at once: 16 MB
N_RESAMPLES = 9_999  # with the observed arrangement 10,000, so p has four exact decimals


def normal_quantile(confidence: float) -> float:
    """Return the two-sided normal quantile."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def scores(values: ArrayLike) -> Floats:
    """Return float[n], checked: scores in [0, 1], none missing."""
    row = np.asarray(values, dtype=np.float64)
    assert row.ndim == 1, f"shape {row.shape}, expected one row"
    assert bool(((row >= 0) & (row <= 1)).all()), "scores must lie in [0, 1], none missing"
    return row


def is_binary(row: Floats) -> bool:
    """Tell whether all values of float[n] are 0 or 1."""
    return bool(((row == 0) | (row == 1)).all())


def n_uncommon(row: Floats) -> int:
    """Return how many values of float[n] differ from the commonest one."""
    if row.size == 0:
        return 0
    _, counts = np.unique(np.round(row / SAME), return_counts=True)
    return row.size - int(counts.max())
