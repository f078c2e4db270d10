"""The one door to every model: journal, then limits, then the transport, then the journal again.

An answer is returned only after it has been committed. A failed call raises an error below
ProviderError; transient ones have been retried before. Budgets are held by the caller's lease.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from promptopt.errors import (
    BudgetExhausted,
    CallRefused,
    CallTimedOut,
    Interrupted,
    PromptoptError,
    ProviderError,
    RateLimited,
    TooManyMissing,
    TransientError,
)
from promptopt.journal import Journal, storable
from promptopt.ledger import Stop
from promptopt.pacing import Pacing, tokens_at_most
from promptopt.providers import Transport
from promptopt.secret import masked
from promptopt.tape import inserted
from promptopt.types import Phase, Request, Response, Role

# So many calls in a row that failed for good mean that the endpoint is down, not the request.
MAX_FAILURES_IN_A_ROW = 20
# Where a model refuses as many calls as these, and they were its first, it refuses all.
MAX_REFUSED_AT_FIRST = 20
_STOP_CHECK_S = 0.2


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after what pause a transient failure is tried again.

    Args:
        n_attempts: attempts in all.
        first_wait_s: pause before the second attempt; doubled each time, with jitter.
        max_wait_s: longest pause, also for an endpoint that asks for more.
    """

    n_attempts: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 60.0


@dataclass(frozen=True)
class Call:
    """A request with all that the journal and the limits need to know of it.

    Args:
        key: identity of the answer.
        timeout_s: seconds that one attempt may take.
        keeps_request: store the request's text, where a reader could not rebuild it.
    """

    request: Request
    key: bytes
    role: Role
    phase: Phase
    timeout_s: float
    keeps_request: bool = False


class Gateway:
    """Answers calls from the journal or from a model.

    Args:
        transports: by model name; "" is the one for every other model.
        concurrency: calls in flight at most.
        pacing: when calls may leave for each endpoint; None = as soon as a place is free.
        inspect: returns why an answer, which is kept, must be the last one; None = it need not.
        sleep: how to wait between attempts; replaced in tests.
    """

    def __init__(
        self,
        journal: Journal,
        transports: Mapping[str, Transport],
        *,
        concurrency: int = 16,
        retry: RetryPolicy | None = None,
        stop: Stop | None = None,
        pacing: Pacing | None = None,
        inspect: Callable[[Call, Response], ProviderError | None] = lambda call, response: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._journal = journal
        self._transports = transports
        self._slots = asyncio.Semaphore(concurrency)
        self._retry = retry or RetryPolicy()
        self._stop = stop or Stop()
        self._pacing = pacing
        self._inspect = inspect
        self._sleep = sleep
        self._ended: PromptoptError | None = None
        self._first_calls: dict[str, _FirstCalls] = {}
        self._flying: dict[bytes, asyncio.Future[Response]] = {}
        self._attempt_ids = itertools.count(journal.next_attempt_id())
        self._n_failures_in_a_row = 0
        self.deadlines: dict[Phase, float] = {}
        self.n_failed = 0
        self.last_failure = ""
        self._unmended = ""
        self.n_from_journal = 0

    async def answer_all(self, calls: Sequence[Call]) -> list[Response | BaseException]:
        """Return the answers to `calls`, in order, the missing ones asked for at once; see `answer` for errors."""
        known = self._journal.answers([call.key for call in calls])
        for call in calls:
            if call.key in known:
                self._note_known(call)
        live = [call for call in calls if call.key not in known]
        replies = iter(await asyncio.gather(*map(self.answer, live), return_exceptions=True))
        return [known.get(call.key) or next(replies) for call in calls]

    async def answer(self, call: Call) -> Response:
        """Return the answer to `call`, from the journal if it is there.

        Raises:
            TransientError: every attempt failed.
            CallRefused: the endpoint refuses this request.
            RunRefused, TooManyMissing: no call can succeed.
            ConfigError: the model cannot be called as it is: its key is missing, say.
            BudgetExhausted: the time of this phase is over.
            Interrupted: the user asked to stop before it was sent.
        """
        known = self._journal.answer(call.key)
        if known is not None:
            self._note_known(call)
            return known
        flying = self._flying.get(call.key)
        if flying is not None:
            return await asyncio.shield(flying)
        future = asyncio.get_running_loop().create_future()
        self._flying[call.key] = future
        try:
            response = await self._live(call)
            future.set_result(response)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # marks it as seen: nobody else may be waiting
            raise
        finally:
            del self._flying[call.key]
        return response

    def _note_known(self, call: Call) -> None:
        self.n_from_journal += 1
        self._first_calls.setdefault(call.request.model, _FirstCalls()).is_over = True

    async def _live(self, call: Call) -> Response:
        """Return a live answer; an error after which no call can succeed is the answer to all further calls."""
        first = self._first_calls.setdefault(call.request.model, _FirstCalls())
        is_first = first.takes_one()
        try:
            response = await self._tried(call)
            if is_first and response.finish_reason == "content_filter":
                self._end_if(first.refused(call, "the content filter stopped the answer"))
        except CallRefused as error:
            if is_first and (end := first.refused(call, str(error))):
                self._end_if(end)
                raise end from error
            raise
        except PromptoptError as error:
            if not leaves_a_gap(error) and not isinstance(error, (BudgetExhausted, Interrupted)):
                self._end_if(error)
            raise
        return response

    async def _tried(self, call: Call) -> Response:
        try:
            response = await self._attempt(call)
        except TransientError as first:
            response = await self._attempt_again(call, first)
        self._n_failures_in_a_row = 0
        return response

    def _end_if(self, error: PromptoptError | None) -> None:
        """Let no further call out if there is an error; those in flight are awaited and kept."""
        self._ended = self._ended or error

    async def _attempt_again(self, call: Call, first: TransientError) -> Response:
        """Retry after a first failure; the retrying machinery costs nothing where all goes well."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._retry.n_attempts - 1),
            wait=self._pause,
            sleep=functools.partial(self._wait, call),
            reraise=True,
        )
        try:
            if self._retry.n_attempts <= 1:
                raise first
            await self._wait(call, self._pause_s(1, first))
            return await retrying(self._attempt, call)
        except TransientError as error:
            self._n_failures_in_a_row += 1
            if self._n_failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                raise self._too_many(self._n_failures_in_a_row, error) from error
            where = masked(call.request.api_base) if call.request.api_base else call.request.model
            raise type(error)(f"{error} ({self._retry.n_attempts} attempts at {where}; is it up?)") from error

    @staticmethod
    def _too_many(n: int, error: TransientError) -> TooManyMissing:
        return TooManyMissing(
            f"the last {n} calls failed ({error}); what was paid is kept: "
            "check the endpoint, then run the same command to go on"
        )

    async def _wait(self, call: Call, pause_s: float) -> None:
        """Wait before the next attempt, but neither past the phase's time nor when the user asks to stop."""
        deadline = self.deadlines.get(call.phase)
        if deadline is not None:
            pause_s = min(pause_s, max(0.0, deadline - time.monotonic()))
        pause = asyncio.ensure_future(self._sleep(pause_s))
        try:
            while not pause.done():
                self._check_open()
                await asyncio.wait({pause}, timeout=_STOP_CHECK_S)
            await pause
        finally:
            pause.cancel()

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return self._pause_s(state.attempt_number + 1, error)

    def _pause_s(self, n_failed: int, error: BaseException | None) -> float:
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        if asked_s is not None:
            return min(asked_s, self._retry.max_wait_s)
        # Jitter spreads retries of many branches; it changes no answer, so it needs no seed.
        ceiling_s = min(self._retry.max_wait_s, self._retry.first_wait_s * 2 ** (n_failed - 1))
        return random.uniform(ceiling_s / 2, ceiling_s)

    async def _attempt(self, call: Call) -> Response:
        tape = inserted()
        is_played = tape is not None and tape.is_closed
        pace = None if self._pacing is None or is_played else self._pacing.of(call.request)
        if pace is None:
            async with self._slots:
                return await self._attempt_now(call)
        check = functools.partial(self._time_left, call)
        try:
            async with pace.turn(self._slots, tokens_at_most(call.request), check) as settle:
                response = await self._attempt_now(call)
                if response.usage is not None:
                    settle(response.usage.input_tokens + response.usage.output_tokens)
                return response
        except RateLimited as error:
            if pace.n_refused_in_a_row >= MAX_FAILURES_IN_A_ROW:
                raise self._too_many(pace.n_refused_in_a_row, error) from error
            raise

    async def _attempt_now(self, call: Call) -> Response:
        timeout_s = self._time_left(call)
        attempt_id = next(self._attempt_ids)
        self._journal.start_attempt(attempt_id, call.key, call.role)
        await self._journal.committed()
        try:
            response = await self._send(call, timeout_s)
        except Exception as error:
            self.n_failed += 1
            if not isinstance(error, BudgetExhausted):  # which is no failure of the endpoint
                self.last_failure = self._unmended = f"{type(error).__name__}: {error}"
            self._journal.end_attempt(attempt_id, type(error).__name__, str(error))
            await self._journal.committed()
            raise
        self._unmended = ""
        response = replace(response, text=storable(response.text))  # live and journaled must be the same
        self._journal.end_attempt(attempt_id, "ok")
        kept = call.request.messages if call.keeps_request else None
        self._journal.add_answer(call.key, call.request.model, response, _as_json(kept))
        self._end_if(self._inspect(call, response))
        await self._journal.committed()
        return response

    async def _send(self, call: Call, timeout_s: float) -> Response:
        transport = self._transports.get(call.request.model) or self._transports[""]
        try:
            async with asyncio.timeout(timeout_s):
                # the usual time, not what is left: litellm keeps open a client for each that it is given
                send = functools.partial(transport.send, call.request, call.timeout_s)
                tape = inserted()
                return await (send() if tape is None else tape.answer(call.request, send))
        except (TimeoutError, CallTimedOut) as error:
            if call.phase in self.deadlines and time.monotonic() >= self.deadlines[call.phase]:
                raise self._time_over() from error
            raise CallTimedOut(f"no reply from {call.request.model} within {timeout_s:.0f} s") from error

    def _check_open(self) -> None:
        """Raise if no call may leave any more."""
        self._stop.check()
        if self._ended is not None:
            raise self._ended.with_traceback(None)

    def _time_left(self, call: Call) -> float:
        """Return the seconds that an attempt may take; raises if it may not begin."""
        self._check_open()
        deadline = self.deadlines.get(call.phase)
        if deadline is None:
            return call.timeout_s
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise self._time_over()
        return min(call.timeout_s, left_s)

    def _time_over(self) -> BudgetExhausted:
        """Return the error that ends a phase, with the last failure if no answer has come since it."""
        failure = f"; the last attempt failed: {self._unmended}" if self._unmended else ""
        return BudgetExhausted(f"budget exhausted: the time is over{failure}")


@dataclass
class _FirstCalls:
    """The first calls to a model: where it refuses them all, no prompt is to blame.

    Only those that left first count, since refusals arrive sooner than answers.

    Args:
        is_over: an answer of the model was there before them.
    """

    n_left: int = 0
    n_refused: int = 0
    is_over: bool = False

    def takes_one(self) -> bool:
        """Count a call that leaves, and return whether it is one of the first."""
        self.n_left += 1
        return self.n_left <= MAX_REFUSED_AT_FIRST and not self.is_over

    def refused(self, call: Call, why: str) -> TooManyMissing | None:
        """Count a refusal, and return the error that ends the run if it was the last of the first calls."""
        self.n_refused += 1
        if self.n_refused < MAX_REFUSED_AT_FIRST:
            return None
        return TooManyMissing(
            f"{call.request.model} refused the first {self.n_refused} calls, and answered none ({why}); what was "
            "paid is kept: check the prompt, the model and its options, then run the same command to go on"
        )


def leaves_a_gap(error: BaseException) -> bool:
    """Return whether an error leaves one answer missing; every other error must end the run."""
    return isinstance(error, (TransientError, CallRefused))


def _as_json(messages: object) -> str | None:
    return None if messages is None else json.dumps(messages, ensure_ascii=False)
