"""The rules of a race: who has to leave, and with what guarantee. Any of them serves any strategy that races.

| rule | guarantee | by name |
|---|---|---|
| `Predictive` | by a model of the items to come; its error level is confirmed by simulation | `predictive` |
| `Betting` | for any scores, at any number of looks | `betting` |
| `PairedT` | none at repeated looks; CAPO's | `paired-t` |
| `Halving` | none; the evaluations are known beforehand | `halving` |

Symbols: K arms at the start; N items in the pool; n items seen; `keep` arms wanted; d = s_j - s_i, the
difference of the penalised scores of arm j and arm i on an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from promptopt.errors import ConfigError
from promptopt.stats.betting import BettingTest
from promptopt.stats.rows import SAME, Bools, Floats

Index = tuple[NDArray[np.intp], ...]


def _check_eps(eps: float) -> None:
    """Refuse an indifference out of range."""
    if not 0 <= eps < 1:
        raise ConfigError(f"eps={eps}; expected at least 0 and below 1, for example 0.02")


@dataclass(frozen=True)
class Field:
    """What a race is run on.

    Args:
        n_arms: K, at the start.
        n_items: N, the size of the pool.
        n_protected: arms that should not be lost: the best `keep`.
        n_rivals: arms that may wrongly drop one of these: K - keep.
        offset: float[j, i], p_i - p_j: what the length penalties add to s_j - s_i.
        top_price: the largest penalty, P: with penalties, d is (s_j - s_i + offset) / (1 + P), in [-1, 1] again.
    """

    n_arms: int
    n_items: int
    n_protected: int
    n_rivals: int
    offset: Floats
    top_price: float


class PairTest(Protocol):
    """What a rule knows of all ordered pairs of arms; row j, column i: how much j is ahead of i."""

    def update(self, difference: Floats) -> None:
        """Add one item: float[j, i], s_j - s_i without penalties."""

    def strength(self) -> Floats:
        """Return float[j, i], the case of j against i; more is stronger."""

    def beats(self) -> Bools:
        """Return bool[j, i], whether it is strong enough, looking at all items seen."""

    def take(self, index: Index) -> None:
        """Keep only the pairs at `index` (as of `numpy.ix_`)."""


@dataclass(frozen=True)
class Predictive:
    """The default: an arm leaves when it is unlikely ever to lead `keep` others by more than `eps`.

    From the n paired differences seen, those of the N - n items to come are predicted: Student's t with mean and
    variance of what was seen and of one imagined item of d = 0 and d^2 = 1/4. An arm leaves when, for `keep` arms
    before it, the predicted chance that it leads them by more than `eps` at the end of the pool is below
    alpha / (K - keep). If it belongs to the best `keep`, one of those arms at least is none of the best, and
    there are K - keep of these: so the chance that a race loses an arm of the best `keep` to one that it leads
    by more than `eps` is at most `alpha`, *if the prediction is right*. Looking often does not add up: the chance
    that something comes true after its forecast was ever below a is at most a. That the prediction is right
    enough is shown by simulation (benchmarks/races.py), not proved: for any scores whatever, only `Betting` holds.
    Reference: Lan, Simon & Halperin, Sequential Analysis 1 (1982) 207-219 (stochastic curtailment); Spiegelhalter,
    Freedman & Blackburn, Controlled Clinical Trials 7 (1986) 8-17 (predictive probability).

    Args:
        alpha: error of one race, in (0, 0.5).
        eps: indifference in score units, in [0, 1): a lead that is not worth paying for.
    """

    alpha: float = 0.05
    eps: float = 0.02

    curtails = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha={self.alpha}; expected between 0 and 0.5, for example 0.05")
        _check_eps(self.eps)

    def begin(self, field: Field) -> PairTest:
        """Return the tests before the first item."""
        return _Prediction(field, self.alpha / max(field.n_rivals, 1), self.eps)


@dataclass(frozen=True)
class Betting:
    """The distribution-free rule: an arm leaves when `keep` better ones have each won a bet against it.

    With `eps` = 0 and scores that are fixed per cell, the chance that a race loses the arm (with
    "all": any of the `keep` arms) that is best on the whole pool is at most `alpha`, at any number
    of looks. With `eps` > 0 the same holds for arms that lead their rivals by more than `eps`.
    Reference: see `promptopt.stats.BettingTest`.

    Args:
        alpha: error of one race, in (0, 1).
        eps: indifference in score units, in [0, 1): a lead that is not worth paying for.
        protect: "all" `keep` best arms at once, or "each" of them on its own, which saves more.
    """

    alpha: float = 0.10
    eps: float = 0.02
    protect: Literal["all", "each"] = "all"

    curtails = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha={self.alpha}; expected between 0 and 1, for example 0.1")
        _check_eps(self.eps)
        if self.protect not in ("all", "each"):
            raise ConfigError(f"protect={self.protect!r}; expected 'all' or 'each'")

    def begin(self, field: Field) -> PairTest:
        """Return the tests before the first item."""
        factor = field.n_protected if self.protect == "all" else 1
        return _Bets(field, log(factor * max(field.n_arms - 1, 1) / self.alpha), self.eps)


@dataclass(frozen=True)
class PairedT:
    """CAPO's rule: an arm leaves when `keep` others beat it in one-sided paired t-tests.

    All ordered pairs, all items seen, no correction for many pairs or many looks, so `alpha` is no
    error rate of the race: it drops good arms far more often (docs/racing.md). A constant difference
    that is not 0 counts as better, equal scores do not, and one item is no evidence.
    Reference: Zehle et al., CAPO, 2025, arXiv 2504.16005.

    Args:
        alpha: level of each test, in (0, 0.5): from 0.5 on, arms could drop each other in a circle.
    """

    alpha: float = 0.20

    curtails = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha={self.alpha}; expected between 0 and 0.5, for example 0.2")

    def begin(self, field: Field) -> PairTest:
        """Return the tests before the first item."""
        return _TTest(field, self.alpha)


@dataclass(frozen=True)
class Halving:
    """Successive halving: of K arms the better 1/eta go on, on eta times as many items, until `keep` are left.

    The arms that are left at last see all N items; the first cut comes after N / eta^L items, with
    L = ceil(log_eta(K / keep)) cuts in all, but not before the first block. Scores add up over the shared items.
    So the evaluations are known beforehand, and nothing is guaranteed of who is lost.
    Reference: Karnin, Koren & Somekh, ICML 2013; Jamieson & Talwalkar, AISTATS 2016 (arXiv 1502.07943).

    Args:
        eta: above 1; 2 halves the field at each cut.
    """

    eta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 1 < self.eta <= 100:
            raise ConfigError(f"eta={self.eta}; expected above 1 and at most 100, for example 2")

    def n_left(self, n_arms: int, n_items: int, keep: int, n_seen: int) -> int:
        """Return how many arms may be left after `n_seen` items."""
        n_cuts = ceil(log(max(n_arms / keep, 1), self.eta) - SAME)
        made = sum(n_seen >= n_items / self.eta ** (n_cuts - i) - SAME for i in range(n_cuts))
        return max(keep, ceil(n_arms / self.eta**made - SAME))


Rule = Predictive | Betting | PairedT | Halving
RULES: dict[str, Rule] = {
    "predictive": Predictive(),
    "betting": Betting(),
    "paired-t": PairedT(),
    "halving": Halving(),
}


class _Prediction:
    """What the differences at the end of the pool will be, for all ordered pairs.

    Args:
        level: chance below which nothing is expected any more.
    """

    def __init__(self, field: Field, level: float, eps: float) -> None:
        self._level, self._scale, self._offset = level, 1 + field.top_price, field.offset
        self._n_items, self._n = field.n_items, 0
        self._eps = eps / self._scale
        self._total: Floats = np.zeros(field.offset.shape)
        self._squares: Floats = np.zeros(field.offset.shape)

    def update(self, difference: Floats) -> None:
        """Add one item."""
        d = (difference + self._offset) / self._scale
        self._n += 1
        self._total += d
        self._squares += d * d

    def strength(self) -> Floats:
        """Return minus the chance that i leads j by more than eps at the end; infinity where it cannot."""
        from scipy import special

        left = self._n_items - self._n
        imagined = self._n + 1  # items, with one of d = 0 and d^2 = 1/4
        mean = self._total / imagined
        variance = np.maximum((self._squares + 0.25) / imagined - mean**2, 1e-3)
        ahead = self._total + self._eps * self._n_items
        # the variance of the items to come, and that of the mean which they are predicted from
        spread = np.sqrt(variance * max(left, SAME) * (1 + left / imagined))
        chance = special.stdtr(self._n, -(ahead + left * mean) / spread)
        case = np.where(ahead - left > SAME, np.inf, -chance)  # even d = -1 on all that is left would not do
        # equal scores never drop an arm
        return np.asarray(np.where(self._squares <= self._n * SAME**2, -1.0, case), dtype=np.float64)

    def beats(self) -> Bools:
        """Tell where the chance is below the level."""
        return np.asarray(-self.strength() < self._level, dtype=np.bool_)

    def take(self, index: Index) -> None:
        """Keep only the pairs at `index`."""
        self._offset = self._offset[index]
        self._total, self._squares = self._total[index], self._squares[index]


class _Bets:
    """Betting tests of all ordered pairs.

    Args:
        threshold: log evidence that beats.
    """

    def __init__(self, field: Field, threshold: float, eps: float) -> None:
        self._threshold, self._scale, self._offset = threshold, 1 + field.top_price, field.offset
        self._test = BettingTest(field.offset.shape, field.n_items, eps / self._scale)

    def update(self, difference: Floats) -> None:
        """Add one item."""
        self._test.update((difference + self._offset) / self._scale)

    def strength(self) -> Floats:
        """Return the largest log evidence so far."""
        return self._test.max_log_e

    def beats(self) -> Bools:
        """Tell where it reaches the threshold."""
        # with eps > 0, scoring the same counts as evidence of not being worse
        differs = self._test.squares > self._test.n_seen * SAME**2
        return np.asarray((self.strength() >= self._threshold) & differs, dtype=np.bool_)

    def take(self, index: Index) -> None:
        """Keep only the pairs at `index`."""
        self._offset = self._offset[index]
        self._test.take(index)


class _TTest:
    """One-sided paired t-tests of all ordered pairs, H1: the mean of d is above 0.

    The offsets are kept apart, since only so a constant difference is told from rounding.
    """

    def __init__(self, field: Field, alpha: float) -> None:
        self._n, self._alpha = 0, alpha
        shape = field.offset.shape
        self._offset = field.offset
        self._first: Floats = np.zeros(shape)
        self._is_constant: Bools = np.ones(shape, dtype=np.bool_)
        self._total: Floats = np.zeros(shape)
        self._squares: Floats = np.zeros(shape)

    def update(self, difference: Floats) -> None:
        """Add one item."""
        d = difference
        if self._n == 0:
            self._first = d.copy()
        self._n += 1
        self._is_constant &= np.abs(d - self._first) <= SAME
        # relative to the first difference, so that a near-constant row does not cancel
        self._total += d - self._first
        self._squares += (d - self._first) ** 2

    def strength(self) -> Floats:
        """Return minus the p-values."""
        return -self.p_values()

    def beats(self) -> Bools:
        """Tell where the test is significant."""
        return np.asarray(self.p_values() < self._alpha, dtype=np.bool_)

    def p_values(self) -> Floats:
        """Return float[j, i]; 1 where there is no evidence at all, 0 where d is constant and above 0."""
        from scipy import special

        shift = self._total / max(self._n, 1)
        mean = shift + self._first + self._offset
        mean = np.where(np.abs(mean) <= SAME, 0.0, mean)
        constant = np.where(mean > 0, 0.0, 1.0)
        if self._n < 2:
            return np.ones_like(constant)
        variance = (self._squares - self._n * shift**2) / (self._n - 1)
        is_constant = self._is_constant | (variance <= 0)
        t = mean / np.sqrt(np.where(is_constant, 1.0, variance) / self._n)
        return np.asarray(np.where(is_constant, constant, special.stdtr(self._n - 1, -t)), dtype=np.float64)

    def take(self, index: Index) -> None:
        """Keep only the tests at `index` (as of `numpy.ix_`)."""
        self._offset, self._first = self._offset[index], self._first[index]
        self._is_constant = self._is_constant[index]
        self._total, self._squares = self._total[index], self._squares[index]
