"""Anytime-valid tests: one may look after each item, and stop at will.

Symbols, as in the literature:

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

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptopt.stats.rows import SAME, Floats


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
