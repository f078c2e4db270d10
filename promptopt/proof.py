"""The proof: the best prompt against the initial one on the sealed test split, the only place that reads it.

With scores both prompts are scored on the same examples. Without, a judge model compares their answers to each
input twice, once in each order: an answer that it prefers both times wins, anything else is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from promptopt import stats
from promptopt.asking import RunState
from promptopt.errors import BudgetExhausted
from promptopt.evaluation import cell_call, fill_cells
from promptopt.ledger import Lease
from promptopt.plan import Plan
from promptopt.result import Improvement, Outcome, improvement, judged_improvement
from promptopt.sizing import N_PROOF_VOTES
from promptopt.study import SearchSize, Study
from promptopt.types import Candidate, Example

# Where time is limited, test examples are compared so many at a time: what is complete then counts.
TIMED_BATCH = 50
# Paths of the search hold pairs (ordinal, item), so one of odd length is nobody else's.
_PATH = (0,)


async def prove(plan: Plan, state: RunState, lease: Lease, best: Candidate) -> Improvement | None:
    """Return how the best prompt compares with the initial one on unseen data; None if no example was answered.

    First the examples that are certain, then more in batches as large as what is left affords at worst; when
    one is paid, mostly more is left. Where this ends depends on what answers cost, not on whether they are right.

    Raises:
        BudgetExhausted: not even the first batch could be completed.
        Interrupted, ProviderError, TaskError: the run ends; what was paid is kept.
    """
    initial = Candidate(plan.task.initial)
    if not plan.task.is_scored and best.id == initial.id:
        return judged_improvement([])
    made = (state, lease, initial, best)
    meeting: _Meeting = _Scored(*made) if plan.task.is_scored else _Judged(*made)
    queue = plan.sealed
    most = TIMED_BATCH if plan.settings.budget.seconds is not None else len(queue)
    n = min(most, len(plan.task.test), max(1, _n_affordable(plan, *made, queue)))
    try:
        while queue and n:
            examples, queue = queue[:n], queue[n:]
            await meeting.add(examples)
            n = min(most, _n_affordable(plan, *made, queue))
    except BudgetExhausted:
        if not meeting.n_compared:
            raise
    return meeting.improvement() if meeting.n_compared else None


def _n_affordable(
    plan: Plan, state: RunState, lease: Lease, initial: Candidate, best: Candidate, queue: Sequence[Example]
) -> int:
    """Return how many test examples, from the first on, fit at worst; pairs paid before a raise are free."""
    n_free = 0
    if plan.task.is_scored and plan.task.judged is None and plan.task.predict is None:
        pairs = ([cell_call(state, candidate, example).key for candidate in (initial, best)] for example in queue)
        n_free = sum(1 for _ in takewhile(lambda keys: all(map(lease.has, keys)), pairs))
    return n_free + plan.worst_pair.count_in(lease.available)


class _Meeting(Protocol):
    """Two prompts that meet on test examples."""

    @property
    def n_compared(self) -> int:
        """How many examples both prompts have been compared on."""
        ...

    async def add(self, examples: Sequence[Example]) -> None:
        """Compare on further examples; those with a missing answer are left out."""
        ...

    def improvement(self) -> Improvement:
        """Return the comparison so far."""
        ...


class _Scored:
    """Compares by the metric's scores."""

    def __init__(self, state: RunState, lease: Lease, initial: Candidate, best: Candidate) -> None:
        self._state, self._lease = state, lease
        self._candidates = list({candidate.id: candidate for candidate in (initial, best)}.values())
        self._rows: list[tuple[str, float, float]] = []

    @property
    def n_compared(self) -> int:
        return len(self._rows)

    async def add(self, examples: Sequence[Example]) -> None:
        pairs = [(candidate, example) for candidate in self._candidates for example in examples]
        cells = await fill_cells(self._state, self._lease, f"proof:{len(self._rows)}", pairs)
        for example, a, b in zip(examples, cells, cells[-len(examples) :], strict=False):
            if a is not None and b is not None:
                self._rows.append((example.id, a.score.value, b.score.value))

    def improvement(self) -> Improvement:
        comparison = stats.compare([row[1] for row in self._rows], [row[2] for row in self._rows])
        return improvement(comparison, [row[0] for row in self._rows])


class _Judged:
    """Compares by a judge's verdicts, in a study of its own: so they are journaled, budgeted and repeatable."""

    def __init__(self, state: RunState, lease: Lease, initial: Candidate, best: Candidate) -> None:
        self._state, self._initial, self._best = state, initial, best
        self._study = Study(state, lease, SearchSize(0), _PATH)
        self._outcomes: list[Outcome] = []

    @property
    def n_compared(self) -> int:
        return len(self._outcomes)

    async def add(self, examples: Sequence[Example]) -> None:
        await self._study.evaluate([self._initial, self._best], examples)
        prompts = (self._initial.id, self._best.id)
        answered = [e for e in examples if all((prompt, e.id) in self._state.cells for prompt in prompts)]
        outcomes = await self._study.map(self._compare, answered)
        # up to the first that did not fit: taking those behind it too would favour short answers
        known = takewhile(lambda outcome: outcome is not None, outcomes)
        self._outcomes += [outcome for outcome in known if outcome is not None]
        if None in outcomes:
            raise BudgetExhausted("budget exhausted: no more votes of the judge fit")

    async def _compare(self, branch: Study, example: Example) -> Outcome | None:
        """Return how the answers to one input compare; None = the judge's votes do not fit the budget.

        Equal answers tie without a judge.
        """
        initial, best = (self._state.cells[prompt, example.id] for prompt in (self._initial.id, self._best.id))
        if initial.output == best.output:
            return Outcome(example.id, 0)
        try:
            votes = await branch.judge(self._best, self._initial, [example], n_votes=N_PROOF_VOTES)
        except BudgetExhausted:
            return None
        verdict = (votes.wins == N_PROOF_VOTES) - (votes.losses == N_PROOF_VOTES)
        return Outcome(example.id, verdict, votes.n_unparsed)

    def improvement(self) -> Improvement:
        return judged_improvement(self._outcomes)
