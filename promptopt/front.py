"""Several objectives at once: who dominates whom, fronts, and who survives (NSGA-II).

Deb, Pratap, Agarwal, Meyarivan: "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions
on Evolutionary Computation 6 (2002) 182-197. An item dominates another if it is no worse in every objective and
better in one. Fronts are peeled off: the items that nobody dominates, then those that only they do, and so on.

Symbols: `losses` is float[K, m], one row for each item, lower is better in every column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptopt.errors import ConfigError, nearest
from promptopt.stats import SAME

SCORE, PROMPT_TOKENS, COST = OBJECTIVES = ("score", "prompt_tokens", "cost")


def read_objectives(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return objectives by name, each once and the score first; None = the score alone.

    Raises:
        ConfigError: one is unknown, stands twice, or there is nothing to weigh the score against.
    """
    if given is None:
        return None
    names = given.split(",") if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"objectives is {given!r}; write their names, such as score,prompt_tokens")
    names = [name.strip().replace("-", "_") for name in names]
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(f"--objectives {name!r}: {nearest(name, OBJECTIVES)}")
        if names.count(name) > 1:
            raise ConfigError(f"--objectives: {name} stands twice; name each once")
    if SCORE not in names or len(names) < 2:
        raise ConfigError("--objectives: write score and what it costs, such as score,prompt_tokens or score,cost")
    return tuple(name for name in OBJECTIVES if name in names)


def dominance(losses: ArrayLike) -> NDArray[np.bool_]:
    """Return bool[K, K]: whether item j (row) dominates item i (column); differences of rounding count as none."""
    rows = np.round(np.asarray(losses, dtype=np.float64) / SAME)
    no_worse = (rows[:, None, :] <= rows[None, :, :]).all(axis=2)
    better = (rows[:, None, :] < rows[None, :, :]).any(axis=2)
    return np.asarray(no_worse & better)


def ranks(losses: ArrayLike) -> NDArray[np.intp]:
    """Return int[K]: the number of each item's front; 0 = nobody dominates it."""
    dominates = dominance(losses)
    found = np.full(len(dominates), -1, dtype=np.intp)
    left, rank = np.ones(len(dominates), dtype=np.bool_), 0
    while left.any():
        front = left & ~dominates[left].any(axis=0)
        found[front] = rank
        left &= ~front
        rank += 1
    return found


def crowding(losses: ArrayLike) -> NDArray[np.float64]:
    """Return float[K]: the crowding distance of each item in a front; infinite for the extremes.

    It is the sum, over objectives, of the gap between an item's neighbours, as a share of the front's range. Of
    items alike in every objective only the first has one (not in the paper), the others get -1: else they would
    crowd out what is unlike them.
    """
    every = np.asarray(losses, dtype=np.float64)
    firsts = np.sort(np.unique(np.round(every / SAME), axis=0, return_index=True)[1])
    found = np.full(len(every), -1.0)
    found[firsts] = _crowding(every[firsts])
    return found


def _crowding(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    distance = np.zeros(len(rows))
    for column in rows.T if len(rows) else ():
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        extent = column[order[-1]] - column[order[0]]
        if 0 < extent < np.inf:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
    return distance


def survivors(losses: ArrayLike, keep: int) -> tuple[int, ...]:
    """Return the `keep` items that survive, best first: by front, then the least crowded, then in their order."""
    rows = np.asarray(losses, dtype=np.float64)
    rank = ranks(rows)
    distance = np.zeros(len(rows))
    for front in range(int(rank.max(initial=-1)) + 1):
        members = np.flatnonzero(rank == front)
        distance[members] = crowding(rows[members])
    return tuple(np.lexsort((-distance, rank))[:keep].tolist())
