"""Replays tables of scores under the rules of a race: what each would have spent, and lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from promptopt.errors import ConfigError
from promptopt.stats.race import Race, block_size, blocks
from promptopt.stats.rows import Floats
from promptopt.stats.rules import RULES, Rule


@dataclass(frozen=True)
class SimulatedRace:
    """What a race would have done with a table of scores.

    Args:
        kept: numbers of the arms that are left, best first by what the race saw of them.
        n_evaluated: cells that it takes.
        share: of all cells, in (0, 1].
        regret: mean score on the whole table that the arms kept give up against the best `keep`; 0 = none.
        worst_regret: the largest such difference between the r-th best arm kept and the r-th best of all.
    """

    kept: tuple[int, ...]
    n_evaluated: int
    share: float
    regret: float
    worst_regret: float


def simulate_race(
    score_table: ArrayLike,
    rules: Mapping[str, Rule] | None = None,
    *,
    keep: int = 1,
    block: int | None = None,
    seed: int | None = 0,
) -> dict[str, SimulatedRace]:
    """Return what each rule makes of a recorded table of scores.

    Args:
        score_table: float[K, N], scores of K arms (prompts) on N items (examples) in [0, 1]; NaN = not evaluated.
            Items that some arm has no score on are left out, as they are in a live race.
        rules: by name; None = all of `RULES` with their defaults.
        keep: how many arms are wanted.
        block: items between two looks; None = chosen from their number.
        seed: of the order in which items are taken; None = as they stand.

    Raises:
        ConfigError: the table has no shape of that kind, scores out of range, or no item that all arms have.
    """
    table = np.asarray(score_table, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] == 0:
        raise ConfigError(f"a score table of shape {table.shape}; expected arms x items, float[K, N]")
    table = table[:, ~np.isnan(table).any(axis=0)]
    if table.shape[1] == 0:
        raise ConfigError(
            "the score table has no item that all arms were scored on; leave out arms that were dropped"
        )
    if not ((table >= 0) & (table <= 1)).all():
        raise ConfigError("the score table has scores outside of 0 to 1")
    if seed is not None:
        table = table[:, np.random.default_rng(seed).permutation(table.shape[1])]
    size = block_size(table.shape[1]) if block is None else block
    return {name: _replay(table, rule, keep, size) for name, rule in (rules or RULES).items()}


def _replay(table: Floats, rule: Rule, keep: int, size: int) -> SimulatedRace:
    """Return what one rule makes of a complete table."""
    n_arms, n_items = table.shape
    race = Race(n_items, keep, [1] * n_arms, range(n_arms), rule=rule)
    n_evaluated = 0
    for cut in blocks(n_items, size):
        if race.is_over:
            break
        cells = table[list(race.alive), cut]
        n_evaluated += cells.size
        race.observe(cells)
    kept = race.ranking()[:keep]
    means = table.mean(axis=1)
    lost = np.sort(means)[-len(kept) :] - np.sort(means[list(kept)])
    return SimulatedRace(kept, n_evaluated, n_evaluated / table.size, float(lost.mean()), float(lost.max()))
