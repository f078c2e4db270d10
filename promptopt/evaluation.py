"""What one run knows and spends: its models, its cells, its tally; and how calls and cells are made.

A *cell* is one candidate on one example. A cell whose answer was already charged to a branch is free
in it. A failed call leaves its cell missing; it is asked again, and never counts as a score of 0.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from inspect import iscoroutinefunction
from typing import Any

from promptopt import errors
from promptopt.errors import (
    CallRefused,
    ContentRefused,
    ContextTooLong,
    PromptoptError,
    ProviderError,
    ReservationBroken,
    TaskError,
    TooManyMissing,
)
from promptopt.gate import Gate
from promptopt.gateway import Call, Gateway, leaves_a_gap
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease
from promptopt.providers import ModelSpec
from promptopt.task import Task
from promptopt.types import Candidate, Example, Message, Phase, Request, Response, Role, Score, digest

# Above this share of missing cells in a batch (and above one), comparisons are not sound and the run ends.
MAX_MISSING = 0.1
_MAX_THREADS = 64
N_ROUNDS = 3  # a batch is asked for so often before its gaps count as missing


Gap = tuple[bytes, ProviderError]  # identity of a call that gave no answer, and why


@dataclass(frozen=True, slots=True)
class Cell:
    """The outcome of one candidate on one example.

    Args:
        key: identity of the answer behind it.
        cause: why a request that its own candidate spoiled scored 0; None = it was answered.
    """

    key: bytes
    score: Score
    output: str | None
    cause: str | None = None


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
        limits: which of tokens and dollars are limited; only there a broken reservation ends the run.
    """

    task: Task
    models: Mapping[Role, ModelSpec]
    gateway: Gateway
    journal: Journal
    gate: Gate
    seed: int
    limits: Amount
    phase: Phase = "search"
    tallies: dict[tuple[Role, Phase], Tally] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    births: dict[str, int] = field(default_factory=dict)
    proposals: list[Candidate] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    refused: dict[bytes, CallRefused] = field(default_factory=dict)
    fresh_gaps: list[str] = field(default_factory=list)
    n_missing: int = 0
    saved_cells: set[tuple[str, str]] = field(default_factory=set)
    unused_examples: dict[str, str] = field(default_factory=dict)
    n_unparsed: int = 0
    _counted: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Remember which examples are dev's: only there is a candidate tried, train makes demonstrations."""
        self._dev = {example.id for example in self.task.dev}

    def keep(self, ids: tuple[str, str], cell: Cell) -> None:
        """Store a cell by the ids of its candidate and example."""
        self.cells[ids] = cell
        if ids[1] in self._dev and ids[0] != self.task.initial.id:
            self.tried.add(ids[0])

    def dev_scores(self, candidate_id: str) -> list[float]:
        """Return a candidate's scores on the dev examples that it was evaluated on."""
        cells = (self.cells.get((candidate_id, example.id)) for example in self.task.dev)
        return [cell.score.value for cell in cells if cell is not None]

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

    def carry_over(self, unknown_tokens: int) -> dict[bytes, Amount]:
        """Count what the run used before its budget was raised, and return it by key: it is paid, and free now.

        Args:
            unknown_tokens: what an answer counts for whose endpoint reported no usage.
        """
        amounts = {}
        for key, role, phase, response in self.journal.earlier_uses():
            amounts[key] = actual_amount(response, Amount(1, unknown_tokens))
            self._counted.add(key)
            self.tallies.setdefault((role, phase), Tally()).add(response, amounts[key])
        return amounts

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
            outcomes[call.key] = await state.gateway.answer(call)
        else:
            todo.append(call)
    while todo:
        worst_cases = [state.models[call.role].worst_case(call.request) for call in todo]
        n = await lease.admit(worst_cases)
        wave, todo = todo[:n], todo[n:]
        replies = await asyncio.gather(*(state.gateway.answer(call) for call in wave), return_exceptions=True)
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
        if isinstance(reply, CallRefused):
            state.refused[call.key] = reply
        return None if leaves_a_gap(reply) else reply
    actual = actual_amount(reply, worst_case)
    lease.settle(call.key, worst_case, actual)
    state.count(call, reply, actual, path)
    over = actual.excess(worst_case)
    is_limited = actual.tokens > worst_case.tokens and state.limits.tokens < Amount.endless().tokens
    is_limited |= actual.usd > worst_case.usd and state.limits.usd.is_finite()
    if over and is_limited:
        return ReservationBroken(
            f"{call.request.model} reported more than the worst case of a call ({over}); the run stops, since "
            "its budget can no longer be guaranteed: lower --max-tokens or ask the endpoint's operator"
        )
    return None


def actual_amount(response: Response, worst_case: Amount) -> Amount:
    """Return what an answer took; what the endpoint does not report counts as the worst case."""
    usage = response.usage
    tokens = worst_case.tokens if usage is None else usage.input_tokens + usage.output_tokens
    return Amount(1, tokens, worst_case.usd if response.cost_usd is None else response.cost_usd)


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


async def fill_cells(
    state: RunState, lease: Lease, place: str, pairs: Sequence[tuple[Candidate, Example]]
) -> list[Cell | None]:
    """Return the cells of `pairs`, evaluating those that this branch has not; None = missing.

    Args:
        place: names this batch, and no other of the run.

    Raises:
        BudgetExhausted: they do not all fit. If the number of calls alone shows it, nothing is spent.
        TooManyMissing: over a tenth of them stayed without an answer.
        TaskError: the metric or the task's own function raised.
    """
    for candidate, _ in pairs:
        state.meet(candidate)
    fill = _fill_by_call if state.task.predict is None else _fill_by_function
    unique = list(dict.fromkeys(pairs))
    gaps: dict[tuple[str, str], Gap] = {}
    for _ in range(N_ROUNDS):
        final = {ids for ids, (_, error) in gaps.items() if isinstance(error, CallRefused)}
        todo = [pair for pair in unique if not _is_free(state, lease, pair) and _ids(pair) not in final]
        if not todo:
            break
        gaps = {ids: gaps[ids] for ids in final} | await fill(state, lease, place, todo)
    missing = [pair for pair in unique if not _is_free(state, lease, pair)]
    if missing:
        _check_missing([gaps[_ids(pair)][1] for pair in missing], len(unique))
        state.n_missing += len(missing)
    note_gaps(state, place, gaps.values())
    await state.journal.committed()
    lost = {_ids(pair) for pair in missing}
    return [None if _ids(pair) in lost else state.cells[_ids(pair)] for pair in pairs]


def _ids(pair: tuple[Candidate, Example]) -> tuple[str, str]:
    return pair[0].id, pair[1].id


def _is_free(state: RunState, lease: Lease, pair: tuple[Candidate, Example]) -> bool:
    cell = state.cells.get(_ids(pair))
    return cell is not None and lease.has(cell.key)


def _check_missing(causes: Sequence[ProviderError], n_cells: int) -> None:
    """Raise TooManyMissing if so many cells are missing that a comparison would not be sound."""
    if len(causes) > max(1, MAX_MISSING * n_cells):
        raise TooManyMissing(
            f"{len(causes)} of {n_cells} answers are missing after retries ({type(causes[0]).__name__}: "
            f"{causes[0]}); a comparison would not be sound. What was paid is kept: mend the cause, then run the "
            "same command to go on"
        )


async def _fill_by_call(
    state: RunState, lease: Lease, place: str, pairs: Sequence[tuple[Candidate, Example]]
) -> dict[tuple[str, str], Gap]:
    """Evaluate cells that are one call each; return those whose call gave an error."""
    calls = [cell_call(state, candidate, example) for candidate, example in pairs]
    new = {call.key for call in calls if not lease.has(call.key) and call.key not in state.refused}
    await lease.require(Amount(calls=len(new)))
    outcomes = await ask_all(state, lease, place, calls)
    gaps: dict[tuple[str, str], Gap] = {}
    for pair, call, outcome in zip(pairs, calls, outcomes, strict=True):
        _store(state, lease, pair, call.key, outcome)
        if isinstance(outcome, ProviderError):
            gaps[_ids(pair)] = (call.key, outcome)
    return gaps


def cell_call(state: RunState, candidate: Candidate, example: Example) -> Call:
    """Return the one call behind a cell of a task without a `predict` function of its own."""
    messages = state.task.render(candidate.prompt, example)
    return state.call(state.models["task"].request(messages, f"{state.seed}/0"), "task")


def _store(
    state: RunState,
    lease: Lease,
    pair: tuple[Candidate, Example],
    key: bytes,
    outcome: Response | ProviderError | str,
) -> None:
    """Score an outcome and keep its cell; an error that its own candidate did not cause leaves it missing."""
    candidate, example = pair
    cause = None
    if isinstance(outcome, (ContextTooLong, ContentRefused)):
        cause, output = f"{type(outcome).__name__}: {outcome}", None
        lease.settle(key, Amount(), Amount())
    elif isinstance(outcome, ProviderError):
        return
    elif isinstance(outcome, Response):
        output = outcome.text
        if outcome.finish_reason == "content_filter":
            cause = "the content filter stopped the answer"
    else:
        output = outcome
    score = Score(0.0, cause, is_parsed=False) if cause else judge_reply(state.task, output or "", example)
    if _ids(pair) not in state.cells:
        state.n_unparsed += not score.is_parsed
        state.keep(_ids(pair), Cell(key, score, output, cause))
        state.journal.add_evaluation(
            *(candidate.id, example.id, 0),
            value=score.value,
            is_parsed=score.is_parsed,
            feedback=score.feedback,
            cause=cause,
            key=key,
        )


def judge_reply(task: Task, reply: str, example: Example) -> Score:
    """Return the metric's score of a reply.

    Raises:
        TaskError: the metric raised, or its value lies outside [0, 1].
    """
    try:
        score = task.metric.score(reply, example)
    except PromptoptError:
        raise
    except Exception as error:  # the metric is the user's code; its error is re-raised as ours
        raise TaskError(
            f"metric {task.metric.name!r} raised on example {example.id!r}: {type(error).__name__}: {error}"
        ) from error
    if not 0 <= score.value <= 1:
        raise TaskError(
            f"metric {task.metric.name!r} gave {score.value} on example {example.id!r}; scores lie in [0, 1]"
        )
    return score


# Tasks with a predict function of their own --------------------------------------------------------


async def _fill_by_function(
    state: RunState, lease: Lease, place: str, pairs: Sequence[tuple[Candidate, Example]]
) -> dict[tuple[str, str], Gap]:
    """Evaluate cells by the task's own function; return those whose calls gave an error."""
    gaps: dict[tuple[str, str], Gap] = {}
    known = gaps_at(state, place)
    # All or nothing: calls of one function that run at once must not compete for the last of a budget.
    await lease.require(Amount(calls=len(pairs) * state.task.calls_per_example))
    for start in range(0, len(pairs), _MAX_THREADS):
        chunk = pairs[start : start + _MAX_THREADS]
        outcomes = await _predict_all(state, lease, f"{place}/{start}", chunk, known)
        fatal = [o for o in outcomes if isinstance(o, BaseException) and not leaves_a_gap(o)]
        if fatal:
            raise fatal[0]
        for pair, outcome in zip(chunk, outcomes, strict=True):
            key = predict_key(pair)
            _store(state, lease, pair, key, outcome)  # type: ignore[arg-type]
            if isinstance(outcome, ProviderError):
                gaps[_ids(pair)] = (key, outcome)
            else:
                lease.settle(key, Amount(), Amount())
    return gaps


def predict_key(pair: tuple[Candidate, Example]) -> bytes:
    """Return the identity of a cell whose reply comes from the task's own function."""
    return bytes.fromhex(digest("predict", *_ids(pair)))


async def _predict_all(
    state: RunState,
    lease: Lease,
    place: str,
    pairs: Sequence[tuple[Candidate, Example]],
    known: Mapping[bytes, ProviderError],
) -> list[str | BaseException]:
    """Run the task's function for each pair; a pair that an earlier session went on without keeps its error."""
    leases = lease.split(len(pairs))

    async def one(i: int) -> str | ProviderError:
        if predict_key(pairs[i]) in known:
            leases[i].finish()
            return known[predict_key(pairs[i])]
        return await _predict(state, leases[i], threads, f"{place}/{i}", *pairs[i])

    # A thread for each: with fewer, calls that wait for money would keep others from ever starting.
    with ThreadPoolExecutor(len(pairs), "predict") as threads:
        outcomes = await asyncio.gather(*(one(i) for i in range(len(pairs))), return_exceptions=True)
    lease.join()
    return outcomes


async def _predict(
    state: RunState, lease: Lease, threads: Executor, path: str, candidate: Candidate, example: Example
) -> str:
    """Run the user's function for one cell; a sync one runs in a thread."""
    predict = state.task.predict
    assert predict is not None
    door = _Door(state, lease, path, (candidate.id, example.id))
    try:
        if iscoroutinefunction(predict) or iscoroutinefunction(type(predict).__call__):
            reply = await predict(candidate.prompt, example, door)
        else:
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(threads, predict, candidate.prompt, example, door.blocking(loop))
    except PromptoptError:
        raise
    except Exception as error:  # the function is the user's; its error is re-raised as ours
        raise TaskError(f"predict raised on example {example.id!r}: {type(error).__name__}: {error}") from error
    finally:
        try:
            await door.close()
        finally:
            lease.finish()
    if not isinstance(reply, str):
        raise TaskError(
            f"predict returned {type(reply).__name__} on example {example.id!r}; it must return the reply as str"
        )
    return reply


class _Door:
    """The journaled door to the task model that a user's predict function gets."""

    def __init__(self, state: RunState, lease: Lease, path: str, ids: tuple[str, str]) -> None:
        self._state, self._lease, self._path, self._ids = state, lease, path, ids
        self._n_asked: Counter[str] = Counter()
        self._gap: ProviderError | None = None
        self._open: set[asyncio.Task[Response | ProviderError]] = set()
        self._fatal: BaseException | None = None

    async def __call__(self, messages: str | Sequence[Mapping[str, str]]) -> Response:
        """Return the task model's answer to a text or to chat messages."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        asked = tuple(Message(m["role"], m["content"]) for m in messages)
        text = digest(asked)
        self._n_asked[text] += 1  # by text: the order of concurrent calls depends on timing
        sample = f"{self._state.seed}/0/{'/'.join(self._ids)}/{text}/{self._n_asked[text]}"
        call = self._state.call(self._state.models["task"].request(asked, sample), "task", keeps_request=True)
        task = asyncio.get_running_loop().create_task(self._ask(call))
        self._open.add(task)
        outcome = await asyncio.shield(task)
        if isinstance(outcome, ProviderError):
            if not isinstance(outcome, (ContextTooLong, ContentRefused)):
                self._gap = self._gap or outcome
            raise outcome
        return outcome

    async def _ask(self, call: Call) -> Response | ProviderError:
        try:
            return (await ask_all(self._state, self._lease, self._path, [call]))[0]
        except PromptoptError as error:
            self._fatal = self._fatal or error
            raise

    async def close(self) -> None:
        """Await calls left behind; raise what the function must not swallow: a spent budget, a failed call."""
        await asyncio.gather(*self._open, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal
        if self._gap is not None:  # a failed call is missing data, whatever the function made of it
            raise self._gap

    def blocking(self, loop: asyncio.AbstractEventLoop) -> Callable[..., Response]:
        """Return the same door for code that runs in another thread."""

        def call(messages: str | Sequence[Mapping[str, str]]) -> Response:
            coroutine: Coroutine[Any, Any, Response] = self(messages)
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        return call
