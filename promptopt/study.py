"""The Study: all that a search strategy may touch.

A study is one branch of a run: it has a path, an own random generator, an own numbering of its verbs
(ordinals) and a lease on the budget. `map` makes child studies and is the only concurrency. Thus the
same seed gives the same run, whatever the latencies, and a killed run repeats itself from its journal.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from promptopt import racing
from promptopt.errors import (
    BudgetExhausted,
    ContentRefused,
    ContextTooLong,
    Interrupted,
    ProviderError,
    ReplayDiverged,
    TransientError,
)
from promptopt.evaluation import N_ROUNDS, Cell, RunState, ask_all, fill_cells, note_gaps
from promptopt.gate import normal_form, prompt_tokens
from promptopt.gateway import Call
from promptopt.journal import Step
from promptopt.ledger import Amount, Lease
from promptopt.task import Task
from promptopt.types import Candidate, Demo, Example, Message, Prompt, Role, ScoreTable

T = TypeVar("T")
R = TypeVar("R")

# Refusals that a request brings upon itself; a text refused so is left out, all other failures end the run.
_SPOILED = (ContextTooLong, ContentRefused)
_FIELD = re.compile(r"\{(\w+)\}")
# Streams of random numbers that belong to the framework, apart from the strategy's own in `Study.rng`.
_RACE_STREAM = 2**31


@dataclass(frozen=True)
class SearchSize:
    """How large a search can be, fixed before it starts; what strategies scale to.

    Args:
        n_calls: answers that the search is expected to afford, of all roles.
    """

    n_calls: int


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


class Study:
    """One branch of a run, with the verbs of a strategy.

    Args:
        state: what all branches share.
        lease: this branch's share of the budget.
        size: how large the search can be.
        path: where this branch stands: (ordinal, item) pairs from the root.
    """

    def __init__(self, state: RunState, lease: Lease, size: SearchSize, path: tuple[int, ...] = ()) -> None:
        self._state = state
        self._lease = lease
        self._path = path
        self._ordinal = 0
        self._n_events = 0
        self.size = size
        self.rng = np.random.default_rng(np.random.SeedSequence(state.seed, spawn_key=path))

    @property
    def task(self) -> Task:
        """The task, without its test split."""
        return self._state.task

    @property
    def initial(self) -> Candidate:
        """The user's prompt as a candidate."""
        return Candidate(self.task.initial)

    @property
    def demands(self) -> str:
        """What every written prompt must keep, in words for the model that writes it."""
        return self._state.gate.demands

    @property
    def remaining_calls(self) -> int:
        """Answers that may still be used; readable at the root between maps only."""
        assert not self._path, "the remaining budget may be read at the root of a run only"
        return self._lease.available.calls

    # Candidates -----------------------------------------------------------------------------------

    def candidate(
        self,
        instruction: str,
        demos: Sequence[Demo] = (),
        *,
        parents: Sequence[Candidate] = (),
        operator: str,
        note: str = "",
    ) -> Candidate | None:
        """Return a new candidate, or None if the gate refuses it; the refusal is journaled."""
        prompt = Prompt(normal_form(instruction), tuple(demos))
        reason = self._state.gate.refusal(prompt)
        if reason is not None:
            self.note("candidate refused", reason=reason, operator=operator, instruction=prompt.instruction)
            return None
        return Candidate(prompt, tuple(parent.id for parent in parents), operator, note)

    def propose(self, candidate: Candidate) -> None:
        """Name the best candidate so far: what a budget's end or an interruption returns."""
        proposals = self._state.proposals
        if proposals and proposals[-1].id == candidate.id:
            return
        proposals.append(candidate)
        self._state.meet(candidate)
        self.note("proposal", candidate=candidate.id)

    def tokens(self, candidate: Candidate) -> int:
        """Estimate the tokens of a candidate's prompt without an example's input."""
        return prompt_tokens(candidate.prompt)

    def scores(self, candidates: Sequence[Candidate], examples: Sequence[Example]) -> ScoreTable:
        """Return the scores known so far, NaN elsewhere; free, and readable at the root between maps only."""
        assert not self._path, "known scores may be read at the root of a run only"
        cells = [self._state.cells.get((c.id, e.id)) for c in candidates for e in examples]
        return _table(tuple(candidates), tuple(examples), cells)

    def note(self, kind: str, **payload: object) -> None:
        """Journal an event of the search, for reports; costs nothing."""
        self._state.journal.add_event(kind, self._path_text, self._n_events, payload)
        self._n_events += 1

    # Verbs that spend -----------------------------------------------------------------------------

    async def generate(self, template: str, role: Role = "optimizer", n: int = 1, **fields: object) -> list[str]:
        """Return `n` texts that a model writes; `{name}` in `template` is replaced literally by a field.

        A text is missing whose request a content filter stops or that is too long: the list is then shorter.

        Raises:
            BudgetExhausted: it does not fit.
            ProviderError: a call kept failing or was refused; the run ends as failed and can be resumed.
        """
        content = _FIELD.sub(lambda m: str(fields.get(m.group(1), m.group())), template)
        return await self._ask((Message("user", content),), role, n)

    async def write(self, template: str, tag: str, role: Role = "optimizer", **fields: object) -> str | None:
        """Return what a model writes between `<tag>` and `</tag>`; one repair is asked for if it is missing.

        None = there was no such text in either reply: chatter never becomes a prompt.
        """
        content = _FIELD.sub(lambda m: str(fields.get(m.group(1), m.group())), template)
        asked = (Message("user", content),)
        replies = await self._ask(asked, role, 1)
        if not replies:
            return None
        found = tagged(replies[0], tag)
        if found is None:
            plea = f"Your reply holds no text between <{tag}> and </{tag}>. Send it again, between these tags."
            repair = (*asked, Message("assistant", replies[0]), Message("user", plea))
            replies = await self._ask(repair, role, 1)
            found = tagged(replies[0], tag) if replies else None
            if found is None:
                self.note("unparsed reply", tag=tag, reply=replies[0] if replies else "")
        return found

    async def evaluate(self, candidates: Sequence[Candidate], examples: Sequence[Example]) -> ScoreTable:
        """Return the scores of every candidate on every example; cells already known are free.

        Raises:
            BudgetExhausted: they do not all fit; if the number of calls alone shows it, nothing is spent.
        """
        place = f"{self._path_text}:{self._next_ordinal()}"
        pairs = [(candidate, example) for candidate in candidates for example in examples]
        cells = await fill_cells(self._state, self._lease, place, pairs)
        return _table(tuple(candidates), tuple(examples), cells)

    async def race(
        self,
        candidates: Sequence[Candidate],
        keep: int = 1,
        examples: Sequence[Example] | None = None,
        *,
        rule: racing.Rule | None = None,
        penalties: Sequence[float] | None = None,
        block: int | None = None,
        max_blocks: int | None = None,
        is_shuffled: bool = True,
        drops_remainder: bool = False,
    ) -> Survivors:
        """Return the best `keep` of `candidates`, spending evaluations only where they can change that.

        All are evaluated on the same examples, block by block in a fresh random order; who cannot be
        among the best any more leaves. Sound at any moment of stopping (see promptopt.racing).

        Args:
            examples: None = all of dev.
            rule: None = the betting test without replacement.
            penalties: added loss of each candidate, for elimination only.
            block: examples per block; None = chosen from their number.
            max_blocks: None = until all examples are used.
            is_shuffled: False keeps the examples' order in every race.
            drops_remainder: leave out the last, shorter block.

        Raises:
            BudgetExhausted: not even one block fits.
        """
        ordinal = self._next_ordinal()
        losses = dict(zip((c.id for c in candidates), penalties or [0.0] * len(candidates), strict=True))
        candidates = tuple({candidate.id: candidate for candidate in candidates}.values())
        for candidate in candidates:
            self._state.meet(candidate)
        pool = [e for e in (examples or self.task.dev) if e.id not in self._state.unused_examples]
        if len(candidates) <= keep:
            return Survivors(candidates, (float("nan"),) * len(candidates), 0, is_complete=True)
        if is_shuffled:
            stream = np.random.SeedSequence(self._state.seed, spawn_key=(*self._path, ordinal, _RACE_STREAM))
            pool = [pool[i] for i in np.random.default_rng(stream).permutation(len(pool))]
        slices = racing.blocks(len(pool), block or racing.block_size(len(pool)), drop_remainder=drops_remainder)[
            :max_blocks
        ]
        race = racing.Race(
            sum(s.stop - s.start for s in slices),
            keep,
            [self.tokens(candidate) for candidate in candidates],
            range(len(candidates)),  # not the numbers of their births, whose order in branches timing decides
            rule=rule or racing.Betting(),
            penalties=[losses[candidate.id] for candidate in candidates],
        )
        place = f"{self._path_text}:{ordinal}"
        is_complete = await self._run_race(race, candidates, [pool[s] for s in slices], place)
        self._count_saved(race, candidates, [pool[s] for s in slices], is_complete)
        means = dict(zip(race.alive, race.means, strict=True))
        kept = race.ranking()[:keep]
        return Survivors(
            tuple(candidates[i] for i in kept), tuple(means[i] for i in kept), race.n_seen, is_complete
        )

    async def map(self, function: Callable[[Study, T], Awaitable[R]], items: Iterable[T]) -> list[R]:
        """Return `function(child study, item)` for every item, concurrently; the only concurrency there is.

        All items are awaited even if one fails; then the first error in item order is raised, errors
        that are more than an exhausted budget first.
        """
        ordinal = self._next_ordinal()
        rows = list(items)
        leases = self._lease.split(len(rows)) if rows else []

        async def run(i: int, lease: Lease, item: T) -> R:
            try:
                return await function(Study(self._state, lease, self.size, (*self._path, ordinal, i)), item)
            finally:
                lease.finish()

        jobs = (run(i, lease, item) for i, (lease, item) in enumerate(zip(leases, rows, strict=True)))
        results = await asyncio.gather(*jobs, return_exceptions=True)
        self._lease.join()
        errors = [result for result in results if isinstance(result, BaseException)]
        errors.sort(key=lambda error: isinstance(error, (BudgetExhausted, Interrupted)))
        if errors:
            raise errors[0]
        return [result for result in results if not isinstance(result, BaseException)]

    # Inside -----------------------------------------------------------------------------------------

    @property
    def _path_text(self) -> str:
        return "/".join(map(str, self._path))

    def _next_ordinal(self) -> int:
        self._ordinal += 1
        return self._ordinal - 1

    async def _ask(self, messages: tuple[Message, ...], role: Role, n: int) -> list[str]:
        """Ask for `n` samples at this place of the run; those refused for good are left out."""
        ordinal = self._next_ordinal()
        calls = []
        for i in range(n):
            place = f"{self._state.seed}/{self._path_text}/{ordinal}/{i}"
            request = self._state.models[role].request(messages, place)
            call = self._state.call(request, role, keeps_request=True)
            self._check_place(Step(self._path_text, ordinal, i), call)
            calls.append(call)
        await self._lease.require(Amount(calls=sum(not self._lease.has(call.key) for call in calls)))
        spot = f"{self._path_text}:{ordinal}"
        for _ in range(N_ROUNDS):
            outcomes = await ask_all(self._state, self._lease, spot, calls)
            failed = [o for o in outcomes if isinstance(o, ProviderError) and not isinstance(o, _SPOILED)]
            if not any(isinstance(error, TransientError) for error in failed):
                break
        if failed:  # going on without it would make the run another one than it is without the failure
            raise failed[0]
        refused = [(c.key, o) for c, o in zip(calls, outcomes, strict=True) if isinstance(o, ProviderError)]
        self._state.fresh_gaps.clear()  # what was written now hangs on the decisions that they led to
        note_gaps(self._state, spot, refused)
        return [outcome.text for outcome in outcomes if not isinstance(outcome, ProviderError)]

    def _check_place(self, step: Step, call: Call) -> None:
        """Note which request stands at a place; raise ReplayDiverged if the journal holds another."""
        known = self._state.journal.step_digest(step)
        if known is None:
            self._state.journal.add_step(step, call.request.digest)
        elif known != call.request.digest:
            raise ReplayDiverged(
                f"the run asks for something else than its journal at path {step.path or 'root'!r}, ordinal "
                f"{step.ordinal}, item {step.item}: the strategy, the prompt or the data changed since; "
                "start anew in another --out folder"
            )

    async def _run_race(
        self, race: racing.Race, candidates: tuple[Candidate, ...], blocks: list[list[Example]], place: str
    ) -> bool:
        """Feed blocks to a race until it is over; return whether it ended on its own."""
        for i_block, block in enumerate(blocks):
            if race.is_over:
                break
            alive = [candidates[i] for i in race.alive]
            try:
                table = await self._block_scores(race, alive, block, f"{place}.{i_block}")
            except BudgetExhausted:
                if i_block == 0:
                    raise
                self.note("race cut short", n_examples=race.n_seen)
                return False
            for out in race.observe(table):
                killer = candidates[out.killer].id
                self.note(
                    "elimination",
                    candidate=candidates[out.arm].id,
                    killer=killer,
                    n=out.n,
                    wins=out.wins,
                    losses=out.losses,
                    log_e=out.log_e,
                    reason=out.reason,
                )
        return True

    async def _block_scores(
        self, race: racing.Race, alive: list[Candidate], block: list[Example], place: str
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return float[alive, examples that all completed]; the others leave the race for everybody."""
        pairs = [(candidate, example) for candidate in alive for example in block]
        flat = await fill_cells(self._state, self._lease, place, pairs)
        rows = [flat[i * len(block) : (i + 1) * len(block)] for i in range(len(alive))]
        usable = []
        for i, example in enumerate(block):
            column = [row[i] for row in rows]
            if all(cell is not None and cell.cause is not None for cell in column) and len(alive) > 1:
                self._drop_example(example, str(column[0].cause if column[0] else ""))
            elif None not in column:
                usable.append(i)
        if len(usable) < len(block):
            race.shrink(len(block) - len(usable))
        values = [[cell.score.value for i in usable if (cell := row[i]) is not None] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(alive), len(usable))

    def _drop_example(self, example: Example, cause: str) -> None:
        """Take an example on which every candidate was refused out of the pool, visibly."""
        self._state.unused_examples[example.id] = cause
        self.note("example left the pool", example=example.id, cause=cause)

    def _count_saved(
        self,
        race: racing.Race,
        candidates: tuple[Candidate, ...],
        blocks: list[list[Example]],
        is_complete: bool,
    ) -> None:
        """Remember the cells that a full evaluation would have taken and this race did not."""
        dropped = set(range(len(candidates))) - set(race.alive)
        spared = range(len(candidates)) if is_complete else dropped
        examples = [example for block in blocks for example in block]
        self._state.saved_cells.update((candidates[i].id, example.id) for i in spared for example in examples)


def tagged(reply: str, tag: str) -> str | None:
    """Return the text after the last `<tag>` that is closed, up to its `</tag>`; None if there is none."""
    end = reply.rfind(f"</{tag}>")
    start = reply.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    if start < 0:
        return None
    return reply[start + len(tag) + 2 : end].strip() or None


def _table(
    candidates: tuple[Candidate, ...], examples: tuple[Example, ...], flat: list[Cell | None]
) -> ScoreTable:
    n = len(examples)
    rows = [flat[i * n : (i + 1) * n] for i in range(len(candidates))]
    values = np.array([[np.nan if c is None else c.score.value for c in row] for row in rows], dtype=np.float64)
    return ScoreTable(
        candidates,
        examples,
        values.reshape(len(candidates), n),
        outputs=tuple(tuple(None if c is None else c.output for c in row) for row in rows),
        feedback=tuple(tuple(None if c is None else c.score.feedback for c in row) for row in rows),
    )
