"""Runs a race on live cells: feeds it blocks, journals who leaves, and counts what was saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from promptopt.asking import RunState
from promptopt.errors import BudgetExhausted
from promptopt.evaluation import fill_cells
from promptopt.ledger import Lease
from promptopt.progress import RaceNow
from promptopt.stats import Race
from promptopt.types import Candidate, Example


@dataclass(frozen=True)
class Survivors:
    """The outcome of a race.

    Args:
        candidates: those left, best first.
        means: their mean scores on the common examples, in the same order.
        n_examples: how many examples all of them were compared on.
        is_complete: False if the budget ended the race early.
    """

    candidates: tuple[Candidate, ...]
    means: tuple[float, ...]
    n_examples: int
    is_complete: bool


@dataclass(frozen=True)
class Contest:
    """A race with the candidates and examples behind its numbers.

    Args:
        place: names this race, and no other of the run.
        note: journals an event of the branch.
        sizes: returns float[C, m], the objectives besides the score, of candidates on examples; None = none.
        seen: the examples that the race's scores stand on.
    """

    state: RunState
    lease: Lease
    race: Race
    candidates: Sequence[Candidate]
    blocks: Sequence[Sequence[Example]]
    place: str
    note: Callable[..., None]
    sizes: Callable[[Sequence[Candidate], Sequence[Example]], NDArray[np.float64]] | None = None
    seen: list[Example] = field(default_factory=list)

    async def run(self) -> bool:
        """Feed blocks to the race until it is over; return whether it ended on its own.

        Raises:
            BudgetExhausted: not even the first block fits.
        """
        blocks = [len(block) for block in self.blocks]
        arms = [candidate.id for candidate in self.candidates]
        self._tell("race", 0, candidates=arms, blocks=blocks, keep=self.race.keep)
        try:
            is_complete = await self._feed()
        finally:
            self.state.races.pop(self.place, None)
        self._count_saved(is_complete)
        return is_complete

    async def _feed(self) -> bool:
        for i_block, block in enumerate(self.blocks):
            if self.race.is_over:
                break
            self._show()
            try:
                table = await self._block_scores(block, f"{self.place}.{i_block}")
            except BudgetExhausted:
                if i_block == 0:
                    raise
                self.note("race cut short", n_examples=self.race.n_seen)
                return False
            sizes = None
            if self.sizes is not None:
                sizes = self.sizes([self.candidates[i] for i in self.race.alive], self.seen)
            gone = self.race.observe(table, sizes)
            self._tell("block", i_block, n=self.race.n_seen, gone=[self.candidates[out.arm].id for out in gone])
            for out in gone:
                self.note(
                    "elimination",
                    candidate=self.candidates[out.arm].id,
                    killer=self.candidates[out.killer].id,
                    n=out.n,
                    wins=out.wins,
                    losses=out.losses,
                    log_e=out.log_e,
                    reason=out.reason,
                )
        return True

    def _show(self) -> None:
        """Tell whoever watches the run how far the race is."""
        race, n_arms = self.race, len(self.candidates)
        self.state.races[self.place] = RaceNow(len(race.alive), n_arms, race.keep, race.n_seen, race.n_items)

    async def _block_scores(self, block: Sequence[Example], place: str) -> NDArray[np.float64]:
        """Return float[alive, examples that all completed]; the others leave the race for everybody."""
        alive = [self.candidates[i] for i in self.race.alive]
        pairs = [(candidate, example) for candidate in alive for example in block]
        flat = await fill_cells(self.state, self.lease, place, pairs)
        rows = [flat[i * len(block) : (i + 1) * len(block)] for i in range(len(alive))]
        usable = []
        for i, example in enumerate(block):
            column = [row[i] for row in rows]
            if all(cell is not None and cell.cause is not None for cell in column) and len(alive) > 1:
                self._drop_example(example, str(column[0].cause if column[0] else ""))
            elif None not in column:
                usable.append(i)
        self.seen.extend(block[i] for i in usable)
        if len(usable) < len(block):
            self.race.shrink(len(block) - len(usable))
        values = [[cell.score.value for i in usable if (cell := row[i]) is not None] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(alive), len(usable))

    def _tell(self, kind: str, number: int, **payload: object) -> None:
        """Journal an event at the race's own place, for reports."""
        self.state.journal.add_event(kind, self.place, number, payload)

    def _drop_example(self, example: Example, cause: str) -> None:
        """Take an example on which every candidate was refused out of the pool, visibly."""
        self.state.unused_examples[example.id] = cause
        self.note("example left the pool", example=example.id, cause=cause)

    def _count_saved(self, is_complete: bool) -> None:
        """Remember the cells that a full evaluation would have taken and this race did not."""
        dropped = set(range(len(self.candidates))) - set(self.race.alive)
        spared = range(len(self.candidates)) if is_complete else dropped
        examples = [example for block in self.blocks for example in block]
        self.state.saved_cells.update((self.candidates[i].id, example.id) for i in spared for example in examples)
