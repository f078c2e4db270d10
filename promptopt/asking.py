"""What one run knows and spends, and how its calls are asked: admitted, answered, charged, counted.

A *cell* is one candidate on one example. A call that gives no answer leaves a *gap*, which the run goes on
without only where the journal says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import get_args

from promptopt import errors
from promptopt.errors import (
    CallRefused,
    ProviderError,
    ReplayDiverged,
    ReservationBroken,
    TaskError,
)
from promptopt.gate import Gate, prompt_tokens
from promptopt.gateway import Call, Gateway, leaves_a_gap
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease
from promptopt.progress import RaceNow
from promptopt.providers import ModelSpec
from promptopt.stats import Rule
from promptopt.task import Task
from promptopt.tokens import Tokenizer, tokenizer_of
from promptopt.types import Candidate, Example, Phase, Request, Response, Role, Score

N_ROUNDS = 3  # a batch is asked for so often before its gaps count as missing

Gap = tuple[bytes, ProviderError]  # identity of a call that gave no answer, and why


@dataclass(frozen=True, slots=True)
class Cell:
    """The outcome of one candidate on one example.

    Args:
        key: identity of the answer behind it.
        cause: why a request that its own candidate spoiled scored 0; None = it was answered.
        logprobs: (token, natural log-probability) of the reply's first token; None = not asked for or given.
        rating_keys: identities of the judge's answers behind the score; () = no judge gave it.
        cost_usd: dollars that the answer took, a rating aside; None = unknown.
    """

    key: bytes
    score: Score
    output: str | None
    cause: str | None = None
    logprobs: tuple[tuple[str, float], ...] | None = None
    rating_keys: tuple[bytes, ...] = ()
    cost_usd: Decimal | None = None


@dataclass
class Tally:
    """Answers used, by role and phase; `cost_usd` None once a price was unknown."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = Decimal(0)
    amount: Amount = Amount()

    def add(self, response: Response, charged: Amount) -> None:
        """Count one answer, and what the budget is charged for it."""
        self.calls += 1
        self.amount = self.amount.plus(charged)
        if response.usage is not None:
            self.input_tokens += response.usage.input_tokens
            self.output_tokens += response.usage.output_tokens
        known = self.cost_usd is not None and response.cost_usd is not None
        self.cost_usd = self.cost_usd + response.cost_usd if known else None  # type: ignore[operator]


@dataclass
class RunState:
    """Everything that the studies of one run share.

    Args:
        task: without its test split during the search.
        models: by role.
        seed: the run's random seed.
        rule: of every race; None = as the strategy has it.
        limits: which of tokens and dollars are limited; only there a broken reservation ends the run.
        evaluated_before: cells, by ids of candidate and example, that were made before the budget was raised.
        races: those that are going on, by place; for the screen alone.
        objectives: what the search weighs; the score alone where it is not asked for more.
        front: the prompts that a strategy named last as its front, and the dev examples that all were scored on.
        most_unrated: answers that are asked for before a judge rates them; None = as many as the budget affords.
    """

    task: Task
    models: Mapping[Role, ModelSpec]
    gateway: Gateway
    journal: Journal
    gate: Gate
    seed: int
    limits: Amount
    rule: Rule | None = None
    objectives: tuple[str, ...] = ("score",)
    front: tuple[tuple[Candidate, ...], tuple[Example, ...]] = ((), ())
    phase: Phase = "search"
    most_unrated: int | None = None
    tallies: dict[tuple[Role, Phase], Tally] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    births: dict[str, int] = field(default_factory=dict)
    proposals: list[Candidate] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    refused: dict[bytes, CallRefused] = field(default_factory=dict)
    fresh_gaps: list[str] = field(default_factory=list)
    n_missing: int = 0
    saved_cells: set[tuple[str, str]] = field(default_factory=set)
    races: dict[str, RaceNow] = field(default_factory=dict)
    unused_examples: dict[str, str] = field(default_factory=dict)
    n_unparsed: int = 0
    evaluated_before: set[tuple[str, str]] = field(default_factory=set)
    _counted: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Remember which examples are dev's: only there is a candidate tried, train makes demonstrations."""
        self._dev = {example.id for example in self.task.dev}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The task model's tokenizer, or the splitter of words."""
        return tokenizer_of(self.models["task"])

    def keep(self, ids: tuple[str, str], cell: Cell) -> None:
        """Store a cell by the ids of its candidate and example."""
        self.cells[ids] = cell
        if ids[1] in self._dev and ids[0] != self.task.initial.id:
            self.tried.add(ids[0])

    def dev_scores(self, candidate_id: str) -> list[float]:
        """Return a candidate's scores on the dev examples that it was evaluated on; none without a metric."""
        cells = (self.cells.get((candidate_id, example.id)) for example in self.task.dev)
        return [cell.score.value for cell in cells if cell is not None and self.task.is_scored]

    def losses(
        self, candidates: Sequence[Candidate], examples: Sequence[Example], *, with_score: bool = True
    ) -> list[list[float]]:
        """Return a row for each candidate: its objectives on examples that it was scored on, lower is better.

        The score enters with its sign turned. Where the cost of an answer is unknown, that of its candidate counts
        as endless.
        """
        rows = []
        for candidate in candidates:
            cells = [self.cells[candidate.id, example.id] for example in examples]
            costs = [cell.cost_usd for cell in cells if cell.cause is None]
            known = [float(cost) for cost in costs if cost is not None]
            is_known = len(known) == len(costs) > 0
            of = {
                "score": -math.fsum(cell.score.value for cell in cells) / max(1, len(cells)),
                "prompt_tokens": float(prompt_tokens(candidate.prompt)),
                "cost": math.fsum(known) / len(known) if is_known else math.inf,
            }
            rows.append([of[name] for name in self.objectives if with_score or name != "score"])
        return rows

    def meet(self, candidate: Candidate) -> int:
        """Return the birth number of a candidate; a new one is journaled.

        Raises:
            TaskError: the gate refuses it, and the strategy did not ask.
        """
        birth = self.births.get(candidate.id)
        if birth is None:
            reason = self.gate.refusal(candidate.prompt)
            if reason is not None:
                raise TaskError(
                    f"the strategy uses a candidate that the gate refuses ({reason}); make candidates with "
                    "study.candidate, which returns None for such"
                )
            birth = self.births[candidate.id] = len(self.births)
            self.journal.add_candidate(candidate, birth)
        return birth

    def count(self, call: Call, response: Response, charged: Amount, path: str) -> None:
        """Count an answer of this run, once."""
        if call.key in self._counted:
            return
        self._counted.add(call.key)
        self.tallies.setdefault((call.role, call.phase), Tally()).add(response, charged)
        self.journal.add_use(call.key, call.role, call.phase, path)

    def has_counted(self, key: bytes) -> bool:
        """Return whether an answer has been counted as used by this run."""
        return key in self._counted

    def carry_over(self, unknown_tokens: int) -> dict[Phase, dict[bytes, Amount]]:
        """Count what the run used before its budget was raised, and return it: it is paid, and free now.

        Args:
            unknown_tokens: what an answer counts for whose endpoint reported no usage.
        """
        amounts: dict[Phase, dict[bytes, Amount]] = {phase: {} for phase in get_args(Phase)}
        for key, role, phase, response in self.journal.earlier_uses():
            amounts[phase][key] = actual_amount(response, Amount(1, unknown_tokens))
            self._counted.add(key)
            self.tallies.setdefault((role, phase), Tally()).add(response, amounts[phase][key])
        if any(amounts.values()):
            self.evaluated_before = self.journal.evaluated()
        return amounts

    @property
    def n_accepted(self) -> int:
        """How many prompts besides the user's were proposed as better than the best before."""
        return sum(candidate.id != self.task.initial.id for candidate in self.proposals)

    def spent(self, *phases: Phase) -> Amount:
        """Return what the run has taken in some phases so far, before its budget was raised too."""
        total = Amount()
        for (_, phase), tally in self.tallies.items():
            total = total.plus(tally.amount) if phase in phases else total
        return total

    def call(self, request: Request, role: Role, *, keeps_request: bool = False) -> Call:
        """Return the call that asks `request` in the current phase."""
        timeout_s = self.models[role].timeout_s
        return Call(request, bytes.fromhex(request.digest), role, self.phase, timeout_s, keeps_request)


async def ask_all(
    state: RunState, lease: Lease, place: str, calls: Sequence[Call]
) -> list[Response | ProviderError]:
    """Return the answers to `calls`, in order; a failed call gives its error instead.

    Calls are admitted in waves, each the longest prefix that is affordable at worst. A request that was
    refused before is not asked again, nor one that an earlier session of the run went on without here.

    Raises:
        BudgetExhausted: a call does not fit; those before it have been answered and kept.
    """
    first_use = {call.key: call for call in reversed(calls)}
    known = {**state.refused, **gaps_at(state, place)}
    outcomes: dict[bytes, Response | ProviderError] = {key: known[key] for key in first_use if key in known}
    todo = []
    for call in dict.fromkeys(first_use[call.key] for call in calls if call.key not in outcomes):
        if lease.has(call.key):
            lease.reuse(call.key)
            outcomes[call.key] = await state.gateway.answer(call)
        else:
            todo.append(call)
    while todo:
        worst_cases = [state.models[call.role].worst_case(call.request) for call in todo]
        n = await lease.admit(worst_cases)
        wave, todo = todo[:n], todo[n:]
        replies = await state.gateway.answer_all(wave)
        errors = [_settle(state, lease, place, *row) for row in zip(wave, replies, worst_cases, strict=False)]
        for error in errors:
            if error is not None:
                raise error
        outcomes.update((call.key, reply) for call, reply in zip(wave, replies, strict=True))  # type: ignore[misc]
    return [outcomes[call.key] for call in calls]


def _settle(
    state: RunState,
    lease: Lease,
    path: str,
    call: Call,
    reply: Response | BaseException,
    worst_case: Amount,
) -> BaseException | None:
    """Charge what a reply took; return the error that must end the run, if there is one."""
    if isinstance(reply, BaseException):
        lease.settle(call.key, worst_case, None)
        if isinstance(reply, ReplayDiverged):
            reply.path = reply.path or (f"root{path}" if path.startswith(":") else path)
        if isinstance(reply, CallRefused):
            state.refused[call.key] = reply
        return None if leaves_a_gap(reply) else reply
    actual = actual_amount(reply, worst_case)
    lease.settle(call.key, worst_case, actual)
    state.count(call, reply, actual, path)
    return broken_reservation(state.models, state.limits, call, reply)


def broken_reservation(
    models: Mapping[Role, ModelSpec], limits: Amount, call: Call, response: Response
) -> ReservationBroken | None:
    """Return the error of an answer that took more than its call's worst case, where that is limited."""
    are_limited = (limits.tokens < Amount.endless().tokens, limits.usd.is_finite())
    if not any(are_limited):
        return None
    worst_case = models[call.role].worst_case(call.request)
    actual = actual_amount(response, worst_case)
    more = actual.minus(worst_case)
    if not (more.tokens > 0 and are_limited[0]) and not (more.usd > 0 and are_limited[1]):
        return None
    return ReservationBroken(
        f"{call.request.model} reported more than the worst case of a call ({actual.excess(worst_case)}: "
        f"{more.in_words()} more than was reserved); the run stops, since its budget can no longer be guaranteed: "
        "lower --max-tokens or ask the endpoint's operator"
    )


def actual_amount(response: Response, worst_case: Amount) -> Amount:
    """Return what an answer took; what the endpoint does not report, or cannot be, counts as the worst case."""
    usage, usd = response.usage, response.cost_usd
    is_absurd = usage is not None and (usage.input_tokens <= 0 or usage.output_tokens < 0)
    tokens = worst_case.tokens if is_absurd or usage is None else usage.input_tokens + usage.output_tokens
    return Amount(1, tokens, worst_case.usd if usd is None or usd < 0 or is_absurd else usd)


def gaps_at(state: RunState, place: str) -> dict[bytes, ProviderError]:
    """Return the calls that an earlier session of the run went on without at a place, with their errors."""
    rows = state.journal.event("gaps", place)
    return {bytes.fromhex(key): getattr(errors, kind)(message) for key, (kind, message) in rows.items()}


def note_gaps(state: RunState, place: str, gaps: Iterable[Gap]) -> None:
    """Journal the calls that the run goes on without at a place, so that a resumed run does the same."""
    rows = {key.hex(): (type(error).__name__, str(error)) for key, error in gaps}
    if rows:
        state.journal.add_event("gaps", place, 0, rows)
        state.fresh_gaps.append(place)
