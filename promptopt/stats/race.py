"""One race: spend evaluations only on the prompts that can still be among the best.

Several arms (prompts) are scored on the same items (dev examples), block by block, in one random
order that was fixed before any was scored; after each block the arms that have fallen behind leave
the race. Pure bookkeeping: whoever drives a race fetches the scores (see docs/racing.md).

Symbols: K arms at the start; N items in the pool; n items seen; `keep` arms wanted; p_i length
penalty of arm i, P the largest; i the arm in question, j one that may drop it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptopt.errors import ConfigError
from promptopt.stats.rows import SAME, Bools, Floats
from promptopt.stats.rules import Betting, Field, Halving, PairedT, PairTest, Predictive, Rule

BLOCK = 10  # items between two looks; measured in docs/racing.md
Reason = Literal["beaten", "curtailed", "halved"]

MIN_LOOKS = 4  # a small dev set is cut into at least that many blocks, or racing could save nothing


@dataclass(frozen=True)
class Elimination:
    """Why an arm left a race.

    Args:
        arm: number of the arm.
        killer: the arm that decided it: the weakest of the `keep` strongest cases against it, or the
            `keep`-th best arm, out of reach.
        n: items seen.
        wins: items on which the killer scored higher.
        losses: items on which the killer scored lower.
        reason: "beaten" by evidence; "curtailed": the items that are left could not save it (not by more than eps,
            where the rule has one); "halved": too many were left.
        log_e: log evidence of the killer's lead (largest so far), under `Betting`; else None.
        p_value: of the killer's t-test under `PairedT`; under `Predictive` the chance that the arm would lead its
            killer by more than eps at the end of the pool; else None.
    """

    arm: int
    killer: int
    n: int
    wins: int
    losses: int
    reason: Reason
    log_e: float | None = None
    p_value: float | None = None


def block_size(n_items: int) -> int:
    """Return how many items lie between two looks: 10, fewer where that would make under 4 looks.

    It depends on the pool alone: were it to follow the concurrency or the number of arms left,
    another machine would take other decisions on the same scores.
    """
    return max(1, min(BLOCK, n_items // MIN_LOOKS))


def blocks(n_items: int, size: int, *, drop_remainder: bool = False) -> tuple[slice, ...]:
    """Return consecutive slices of `size` items; the last one is shorter, no item is left out.

    `drop_remainder` gives the equal blocks of the CAPO paper instead, with what is left over at the
    end never used; unless there is not even one whole block, for a race cannot do without items.
    """
    assert size >= 1, f"{size=}"
    stop = n_items - n_items % size if drop_remainder and n_items >= size else n_items
    return tuple(slice(start, min(start + size, stop)) for start in range(0, stop, size))


class Race:
    """One race: takes complete blocks of scores, tells who is left.

    Guarantees: at least min(keep, K) arms survive; an arm is never dropped by one with identical
    penalised scores; decisions depend on neither the order of the arms nor the time of arrival.

    Length penalties steer eliminations only. They enter as v = (s + P - p_i) / (1 + P), which lies in
    [0, 1] again, so the betting test stays valid: for the order of the penalised scores s - p_i.

    With several objectives, `observe` gets the others' values as well, lower is better. Then only an arm that is
    no larger in any of them counts against another: an arm leaves when `keep` such arms have each beaten it, or
    are out of its reach. If they are indeed better, each of them dominates it and stands on an earlier front, so
    it cannot be among the `keep` best by fronts (promptopt.front). The rule's guarantee then holds for every arm
    that fewer than `keep` arms dominate on the whole pool ("all": all of these at once), where the other
    objectives are known exactly, as lengths are; of a cost that is only estimated, nothing is guaranteed.

    Args:
        n_items: N, the size of the pool.
        keep: how many arms are wanted, at least 1.
        tokens: length of each arm's prompt; of equally good arms the shorter one comes first.
        births: when each arm was made, distinct; of equally long arms the older one comes first.
        rule: who has to leave.
        penalties: p_i >= 0, in score units; None = none.
    """

    def __init__(
        self,
        n_items: int,
        keep: int,
        tokens: Sequence[int],
        births: Sequence[int],
        *,
        rule: Rule | None = None,
        penalties: Sequence[float] | None = None,
    ) -> None:
        """Set up a race before its first item; `rule=None` means `Predictive()`."""
        if keep < 1:
            raise ConfigError(f"keep={keep}; a race keeps at least 1 arm")
        n_arms = len(tokens)
        price = np.zeros(n_arms) if penalties is None else np.asarray(penalties, dtype=np.float64)
        assert len(births) == price.size == n_arms, f"{len(births)=}, {price.size=}, {n_arms=}"
        assert bool(((price >= 0) & np.isfinite(price)).all()), f"{penalties=}"
        self.rule: Rule = Predictive() if rule is None else rule
        self.keep = keep
        self.n_items = n_items
        self._n_arms = n_arms
        self._tokens, self._births = np.asarray(tokens), np.asarray(births)
        self._price = price
        self._top_price = float(price.max(initial=0.0))
        self._has_sizes = False
        self._alive: NDArray[np.intp] = np.arange(n_arms)
        self._scores: Floats = np.zeros((n_arms, 0))  # rows: alive arms; columns: items seen
        self._start()

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the arms still in the race, ascending: the row order of `observe`."""
        return tuple(self._alive.tolist())

    @property
    def n_seen(self) -> int:
        """Items that every arm alive was scored on."""
        return int(self._scores.shape[1])

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to decide: `keep` arms or fewer, or no more items."""
        return len(self._alive) <= self.keep or self.n_seen == self.n_items

    @property
    def means(self) -> tuple[float, ...]:
        """Mean scores of the arms in `alive`, unpenalised, on the items seen; NaN before the first."""
        return tuple((self._total / self.n_seen if self.n_seen else self._total * np.nan).tolist())

    def observe(self, scores: ArrayLike, sizes: ArrayLike | None = None) -> tuple[Elimination, ...]:
        """Take the next block and drop the arms that have fallen behind.

        Only complete blocks: the scores of all arms in `alive`, on the next items of the permutation.

        Args:
            scores: float[len(alive), b], in [0, 1], none missing; b may vary from block to block.
            sizes: float[len(alive), m], the other objectives as known now, lower is better; None = none.

        Returns:
            The arms that leave, with the reason; all leave at once, so their order means nothing.
        """
        block = np.asarray(scores, dtype=np.float64)
        n_alive = len(self._alive)
        assert block.shape == (n_alive, block.size // max(n_alive, 1)), f"{block.shape=}, {n_alive=}"
        assert self.n_seen + block.shape[1] <= self.n_items, "more items than the pool holds"
        assert bool(((block >= 0) & (block <= 1)).all()), "scores must lie in [0, 1], none missing"
        if sizes is not None and not self._has_sizes:
            assert self.n_seen == 0, "sizes from the first block on, or never"
            self._has_sizes = True
            self._start()
        for column in block.T:
            self._see(column)
        self._scores = np.hstack([self._scores, block])
        if block.shape[1] == 0:
            return ()
        no_larger = None
        if sizes is not None:
            rows = np.asarray(sizes, dtype=np.float64)
            assert rows.shape[0] == n_alive, f"{rows.shape=}, {n_alive=}"
            no_larger = np.asarray((rows[:, None, :] <= rows[None, :, :]).all(axis=2))
        leaving = self._judge(no_larger)
        self._remove({elimination.arm for elimination in leaving})
        return leaving

    def shrink(self, k: int) -> None:
        """Take `k` items out of the pool for all arms; they have not been seen.

        The tests depend on N, so they are worked out anew, as if those items had never been there;
        who has left stays out. Sound if what removes an item does not depend on who is ahead (such
        as a request that every arm's provider refuses).
        """
        assert 0 <= k <= self.n_items - self.n_seen, f"{k=}, {self.n_items=}, {self.n_seen=}"
        self.n_items -= k
        self._start()
        for column in self._scores.T:
            self._see(column)

    def ranking(self) -> tuple[int, ...]:
        """Return the survivors, best first: unpenalised mean on all items seen, fewer tokens, older."""
        return tuple(self._alive[self._order(self._total)].tolist())

    def _start(self) -> None:
        """Set the state of the tests to that before the first item."""
        shape = (len(self._alive), len(self._alive))
        self._total: Floats = np.zeros(shape[0])
        self._wins: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        offset = self._price[self._alive]
        self._test: PairTest | None = None
        if not isinstance(self.rule, Halving):
            between: Floats = offset[None, :] - offset[:, None]  # p_i - p_j: added to s_j - s_i
            # by fronts, more arms are protected, and any arm that is no better may wrongly drop one of them
            n_protected, n_rivals = self.keep, self._n_arms - self.keep
            if self._has_sizes:
                n_protected, n_rivals = self._n_arms, self._n_arms - 1
            field = Field(self._n_arms, self.n_items, n_protected, n_rivals, between, self._top_price)
            self._test = self.rule.begin(field)

    def _see(self, column: Floats) -> None:
        """Add one item, float[len(alive)], to the state."""
        self._total += column
        d = column[:, None] - column[None, :]  # row j, column i: how much j is ahead of i
        self._wins += d > 0
        if self._test is not None:
            self._test.update(d)

    def _judge(self, no_larger: Bools | None) -> tuple[Elimination, ...]:
        """Return who has to leave, looking at all items seen.

        Args:
            no_larger: bool[j, i], whether j is no larger than i in any other objective; None = there is none.
        """
        if isinstance(self.rule, Halving):
            assert no_larger is None, "halving drops whoever scores less, however small"
            return self._halve(self.rule)
        assert self._test is not None
        place = self._places()
        # the strict order: without it, two arms within eps of each other could drop each other
        may_count = place[:, None] < place[None, :]
        if no_larger is not None:
            may_count &= no_larger
        out_of_reach = {} if isinstance(self.rule, PairedT) else self._out_of_reach(no_larger)
        return self._eliminate(self._test.beats() & may_count, self._test.strength(), out_of_reach)

    def _halve(self, rule: Halving) -> tuple[Elimination, ...]:
        """Return those beyond the places that are left, each with the last one that stays as its killer."""
        n_left = rule.n_left(self._n_arms, self.n_items, self.keep, self.n_seen)
        order = self._order(self._value_totals())
        last = int(order[min(n_left, order.size) - 1])
        return tuple(self._elimination(int(i), last, None, "halved") for i in order[n_left:])

    def _places(self) -> NDArray[np.intp]:
        """Return each row's place in the strict total order: sum of v, fewer tokens, older; 0 = first."""
        order = self._order(self._value_totals())
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        return place

    def _order(self, totals: Floats) -> NDArray[np.intp]:
        """Return rows, best first: by float[len(alive)] `totals`, then fewer tokens, then older."""
        # rounded: scores that add up to the same in another order must tie
        keys = (self._births[self._alive], self._tokens[self._alive], -np.round(totals / SAME))
        return np.lexsort(keys)

    def _value_totals(self) -> Floats:
        """Return the sums of v, float[len(alive)]."""
        top = self._top_price
        totals: Floats = (self._total + self.n_seen * (top - self._price[self._alive])) / (1 + top)
        return totals

    def _out_of_reach(self, no_larger: Bools | None) -> dict[int, int]:
        """Return rows that cannot reach the `keep`-th best sum of v even with v = 1 on all that is left.

        Returns:
            With each of them the row of that best one, among those that count against it.
        """
        totals = self._value_totals()
        if totals.size <= self.keep:
            return {}
        reachable = totals + (self.n_items - self.n_seen)
        if no_larger is None:
            mark, last = np.sort(totals)[-self.keep], int(self._order(totals)[self.keep - 1])
            return dict.fromkeys(np.flatnonzero(reachable < mark - SAME).tolist(), last)
        is_ahead = (reachable[None, :] < totals[:, None] - SAME) & no_larger
        order = self._order(totals)
        rivals = {i: order[is_ahead[order, i]] for i in np.flatnonzero(is_ahead.sum(axis=0) >= self.keep).tolist()}
        return {i: int(rows[self.keep - 1]) for i, rows in rivals.items()}

    def _eliminate(
        self,
        beats: Bools,
        strength: Floats,
        out_of_reach: dict[int, int],
    ) -> tuple[Elimination, ...]:
        """Return what follows from bool[j, i] `beats` with its float[j, i] `strength`, and curtailment."""
        order = self._order(self._value_totals())
        gone = []
        for i in range(len(self._alive)):
            rivals = order[beats[order, i]]  # best first, so that ties do not depend on the arms' numbers
            if rivals.size >= self.keep:
                j = int(rivals[np.argsort(-strength[rivals, i], kind="stable")][self.keep - 1])
                gone.append(self._elimination(i, j, float(strength[j, i]), "beaten"))
            elif i in out_of_reach:
                gone.append(self._elimination(i, out_of_reach[i], None, "curtailed"))
        return tuple(gone)

    def _elimination(self, i: int, j: int, strength: float | None, reason: Reason) -> Elimination:
        """Return the record of row `i` leaving because of row `j`; no strength: no test decided it."""
        is_certain = strength is None or not isfinite(strength)
        is_bet = isinstance(self.rule, Betting)
        return Elimination(
            arm=int(self._alive[i]),
            killer=int(self._alive[j]),
            n=self.n_seen,
            wins=int(self._wins[j, i]),
            losses=int(self._wins[i, j]),
            reason="curtailed" if is_certain and reason == "beaten" else reason,
            log_e=strength if is_bet and not is_certain else None,
            p_value=None if is_bet or is_certain or strength is None else abs(strength),
        )

    def _remove(self, arms: set[int]) -> None:
        """Take arms out of all state."""
        rows = np.flatnonzero(~np.isin(self._alive, list(arms)))
        pairs = np.ix_(rows, rows)
        self._alive, self._total, self._scores = self._alive[rows], self._total[rows], self._scores[rows]
        self._wins = self._wins[pairs]
        if self._test is not None:
            self._test.take(pairs)
