"""How cells are made: by one call each, or by the task's own function, and scored by its metric.

A *cell* is one candidate on one example. A cell whose answer, and rating where a judge gives the scores, was
already charged to a branch is free in it. A failed call leaves its cell missing; it is asked again, and never
counts as a score of 0.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

from promptopt.asking import N_ROUNDS, Cell, Gap, RunState, ask_all, gaps_at, note_gaps
from promptopt.errors import (
    BudgetExhausted,
    CallRefused,
    ContentRefused,
    ContextTooLong,
    PromptoptError,
    ProviderError,
    TaskError,
    TooManyMissing,
)
from promptopt.gateway import Call, leaves_a_gap
from promptopt.ledger import Amount, Lease
from promptopt.providers import ModelSpec
from promptopt.rating import Rating, rate_all, worst_score
from promptopt.secret import clean
from promptopt.task import UNSCORED, Task
from promptopt.types import (
    Candidate,
    Example,
    JudgedMetric,
    Message,
    Prompt,
    Request,
    Response,
    Score,
    digest,
)

# Above this share of missing cells in a batch (and above one), comparisons are not sound and the run ends.
MAX_MISSING = 0.1
_MAX_THREADS = 64


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


async def keep_paid(state: RunState, lease: Lease, place: str, pairs: Sequence[tuple[Candidate, Example]]) -> None:
    """Make the cells of a batch that was cut short whose answers, and ratings, are all paid; nothing is asked."""
    charges: dict[bytes, Amount] = {}
    lease.collect(charges)
    paid = Lease(Amount())  # affords what is charged already, and nothing else
    paid.precharge(charges)
    lacking = [pair for pair in dict.fromkeys(pairs) if _ids(pair) not in state.cells]
    rows: list[tuple[tuple[Candidate, Example], bytes, Any]]
    if state.task.predict is None:
        calls = [(pair, cell_call(state, *pair)) for pair in lacking]
        calls = [(pair, call) for pair, call in calls if paid.has(call.key) or call.key in state.refused]
        outcomes: Sequence[Any] = await ask_all(state, paid, place, [call for _, call in calls])
        rows = [(pair, call.key, outcome) for (pair, call), outcome in zip(calls, outcomes, strict=True)]
    else:
        begun = lacking[:_MAX_THREADS]
        outcomes = await _predict_all(state, paid, f"{place}/paid", begun, gaps_at(state, place))
        rows = [
            (pair, predict_key(pair), outcome)
            for pair, outcome in zip(begun, outcomes, strict=True)
            if isinstance(outcome, str)
        ]
    for row in rows:
        with suppress(BudgetExhausted):  # its rating is not paid
            await _store_all(state, paid, place, [row])


def _ids(pair: tuple[Candidate, Example]) -> tuple[str, str]:
    return pair[0].id, pair[1].id


def _is_free(state: RunState, lease: Lease, pair: tuple[Candidate, Example]) -> bool:
    cell = state.cells.get(_ids(pair))
    return cell is not None and all(map(lease.has, (cell.key, *cell.rating_keys)))


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
    """Evaluate cells that are one call each, and a rating where a judge scores; return those that are missing."""
    calls = [cell_call(state, candidate, example) for candidate, example in pairs]
    new = {call.key for call in calls if not lease.has(call.key) and call.key not in state.refused}
    metric = state.task.judged
    n_ratings = 0
    if metric is not None:
        n_ratings = sum(not _is_paid(state, lease, *row) for row in zip(calls, pairs, strict=True))
    await lease.require(Amount(calls=len(new) + n_ratings))
    worst = (
        []
        if metric is None
        else [_worst_cell(state, lease, metric, *row) for row in zip(calls, pairs, strict=True)]
    )
    gaps: dict[tuple[str, str], Gap] = {}
    start = 0
    while start < len(pairs):
        n = len(pairs) if metric is None else await lease.prefix(worst[start:])
        n = min(n, state.most_unrated or n)
        wave = slice(start, start + n)
        outcomes = await ask_all(state, lease, place, calls[wave])
        keys = [call.key for call in calls[wave]]
        gaps |= await _store_all(state, lease, place, list(zip(pairs[wave], keys, outcomes, strict=True)))
        start += n
    return gaps


def _is_paid(state: RunState, lease: Lease, call: Call, pair: tuple[Candidate, Example]) -> bool:
    """Return whether a cell was paid before the budget was raised, its rating included."""
    return lease.has(call.key) and _ids(pair) in state.evaluated_before


def _worst_cell(
    state: RunState, lease: Lease, metric: JudgedMetric, call: Call, pair: tuple[Candidate, Example]
) -> Amount:
    """Return the most that a rated cell can take, so that no answer is paid for which its rating does not fit.

    A repair's tokens and dollars are in it. Its call is not: else a budget of calls would refuse the end of a
    batch that `remaining_calls` has room for; who must not lose a batch to repairs makes it small enough.
    """
    if _is_paid(state, lease, call, pair):
        return Amount()
    spec = state.models["task"]
    rating = worst_score(metric, state.models["judge"], pair[1], spec.max_tokens)._replace(calls=1)
    return rating if lease.has(call.key) else spec.worst_case(call.request).plus(rating)


def cell_call(state: RunState, candidate: Candidate, example: Example) -> Call:
    """Return the one call behind a cell of a task without a `predict` function of its own."""
    request = task_request(state.task, state.models["task"], candidate.prompt, example, f"{state.seed}/0")
    return state.call(request, "task")


def task_request(task: Task, spec: ModelSpec, prompt: Prompt, example: Example, sample: str = "") -> Request:
    """Return the request that shows a prompt and an example, with its images, to the task model."""
    request = spec.request(task.render(prompt, example), sample)
    return replace(request, images=example.images) if example.images else request


async def _store_all(
    state: RunState,
    lease: Lease,
    place: str,
    rows: Sequence[tuple[tuple[Candidate, Example], bytes, Response | ProviderError | str]],
) -> dict[tuple[str, str], Gap]:
    """Score outcomes, by the judge where it gives the scores, and keep their cells; return the gaps."""
    ratings: dict[int, Rating] = {}
    if state.task.judged is not None:
        texts = [_answer_text(outcome) for _, _, outcome in rows]
        shown = {i: (text, rows[i][0][1]) for i, text in enumerate(texts) if text is not None}
        found = await rate_all(state, lease, place, state.task.judged, list(shown.values()))
        ratings = dict(zip(shown, found, strict=True))
    gaps: dict[tuple[str, str], Gap] = {}
    for i, (pair, key, outcome) in enumerate(rows):
        rating = ratings.get(i)
        if isinstance(outcome, ProviderError):
            gaps[_ids(pair)] = (key, outcome)
        elif rating is not None and rating.error is not None:
            gaps[_ids(pair)] = (rating.gap, rating.error)
            continue
        _store(state, lease, pair, key, outcome, rating)
    return gaps


def _answer_text(outcome: Response | ProviderError | str) -> str | None:
    """Return the reply that a judge is to rate; None = there is none."""
    if isinstance(outcome, Response):
        return None if outcome.finish_reason == "content_filter" else outcome.text
    return outcome if isinstance(outcome, str) else None


def _store(
    state: RunState,
    lease: Lease,
    pair: tuple[Candidate, Example],
    key: bytes,
    outcome: Response | ProviderError | str,
    rating: Rating | None,
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
    is_scored = state.task.is_scored
    if cause:
        score = Score(0.0 if is_scored else math.nan, cause, is_parsed=False)
    elif rating is not None and rating.score is not None:
        score = _checked(state.task, rating.score, example)
    else:
        score = judge_reply(state.task, output or "", example)
    if _ids(pair) not in state.cells:
        state.n_unparsed += not score.is_parsed
        logprobs = outcome.logprobs if isinstance(outcome, Response) else None
        cost_usd = outcome.cost_usd if isinstance(outcome, Response) else None
        rating_keys = rating.keys if rating else ()
        state.keep(_ids(pair), Cell(key, score, output, cause, logprobs, rating_keys, cost_usd))
        state.journal.add_evaluation(
            *(candidate.id, example.id, 0),
            value=score.value if is_scored else None,
            is_parsed=score.is_parsed,
            feedback=score.feedback,
            cause=cause,
            key=key,
        )


def judge_reply(task: Task, reply: str, example: Example) -> Score:
    """Return the metric's score of a reply; its value is NaN where the task has no scores.

    Raises:
        TaskError: the metric raised, or its value lies outside [0, 1].
    """
    try:
        score = task.score_reply(reply, example)
    except PromptoptError:
        raise
    except Exception as error:  # the metric is the user's code; its error is re-raised as ours
        raise TaskError(f"metric {task.metric.name!r} raised on example {example.id!r}: {_said(error)}") from error
    return _checked(task, score, example)


def _said(error: Exception) -> str:
    """Return what an error of the user's code says, which becomes part of the result; never a key."""
    return clean(f"{type(error).__name__}: {error}")


def _checked(task: Task, score: Score, example: Example) -> Score:
    """Return `score`; raise TaskError if its value lies where the task's scores do not."""
    if task.is_scored != (0 <= score.value <= 1):  # NaN lies in no interval
        raise TaskError(
            f"metric {task.metric.name!r} gave {score.value} on example {example.id!r}; scores lie in "
            f"[0, 1], and only the metric {UNSCORED} gives none (NaN)"
        )
    return score


# Tasks with a predict function of their own --------------------------------------------------------


async def _fill_by_function(
    state: RunState, lease: Lease, place: str, pairs: Sequence[tuple[Candidate, Example]]
) -> dict[tuple[str, str], Gap]:
    """Evaluate cells by the task's own function; return those whose calls, or ratings, gave an error."""
    gaps: dict[tuple[str, str], Gap] = {}
    known = gaps_at(state, place)
    # All or nothing: calls of one function that run at once must not compete for the last of a budget.
    n_calls = state.task.calls_per_example + state.task.calls_per_score - 1
    n_new = sum(_ids(pair) not in state.evaluated_before for pair in pairs)
    await lease.require(Amount(calls=n_new * n_calls))
    for start in range(0, len(pairs), _MAX_THREADS):
        chunk = pairs[start : start + _MAX_THREADS]
        outcomes = await _predict_all(state, lease, f"{place}/{start}", chunk, known)
        fatal = [o for o in outcomes if isinstance(o, BaseException) and not leaves_a_gap(o)]
        if fatal:
            raise fatal[0]
        keys = list(map(predict_key, chunk))
        rows = list(zip(chunk, keys, outcomes, strict=True))
        gaps |= await _store_all(state, lease, place, rows)  # type: ignore[arg-type]
        for key, outcome in zip(keys, outcomes, strict=True):
            if not isinstance(outcome, ProviderError):
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
        raise TaskError(f"predict raised on example {example.id!r}: {_said(error)}") from error
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
