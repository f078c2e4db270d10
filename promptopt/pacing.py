"""How fast calls may leave for an endpoint: below the user's limits, and no faster than it takes them.

An endpoint that refuses calls (429) tells by this how many it takes a second: between what it took since the
refusal before and the pace at which it refused. Calls then leave at an even pace somewhat below, which rises
along the curve of TCP CUBIC (RFC 9438): back to the estimate, slowly past it, then ever faster. The pace is
steered, not the number of calls in flight, since a quick endpoint may refuse even calls that go one by one;
those in flight follow, as pace times latency. All of this decides when calls leave, never which.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from promptopt.errors import RateLimited
from promptopt.providers import endpoint, is_simulator
from promptopt.types import Request

# All figures were chosen by benchmarks/rate_limit.py and by simulated endpoints of 2 to 150 calls a second.
# Until the first refusal: so many calls in flight at first, a share more for each answer, and so many a second.
_FIRST_IN_FLIGHT, _MORE_PER_ANSWER, _MORE_PER_S = 4, 0.15, 20.0
# The first refusal tells little, as only the start was seen: this share of what was taken, but not below so many.
_FIRST_CUT, _FIRST_LEAST = 0.45, 14.0
# What a later refusal changes at least and at most, and the shortest time that a pace is estimated from.
_LEAST_CUT, _MOST_CUT, _LEAST_STRETCH_S = 0.95, 0.3, 0.25
# The pace falls to this share of the estimate, and is back there after a multiple of the time that the estimate
# rests on, within bounds in seconds: a rough one is soon tried again.
_SHARE, _RECOVERY_PER_S, _RECOVERY_S = 0.9, 3.0, (0.5, 8.0)
# Longest pauses: as the endpoint asks, and between calls that only try whether it takes any again.
_MAX_PAUSE_S, _MAX_TRIAL_S, _MAX_VERDICT_S, _CHECK_S = 60.0, 5.0, 1.0, 0.2
# Waits below this are none: a clock may not resolve them.
_NOW_S = 1e-6
# So late a call may leave without the next one being put off.
_LATE_S = 0.02
# The share of a minute's limit that may leave at once.
_BURST = 0.1
_BYTES_PER_TOKEN = 3
# Weight of the latest call in the mean of tokens that calls take.
_LATEST = 0.05


class Bucket:
    """A leaky bucket that keeps every minute within a limit.

    Args:
        per_minute: so much may be taken in any 60 seconds.
    """

    def __init__(self, per_minute: float) -> None:
        self._room = max(1.0, _BURST * per_minute)
        self._per_s = (per_minute - self._room + (1.0 if self._room == 1.0 else 0.0)) / 60
        self._level, self._seen_s = self._room, 0.0

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return the seconds until `amount` may be taken; more than fits at once waits for a full bucket."""
        self._fill(now_s)
        return max(0.0, (min(amount, self._room) - self._level) / self._per_s)

    def take(self, amount: float, now_s: float) -> None:
        """Take `amount`; a negative one gives back. What exceeds the bucket is owed, and waited for later."""
        self._fill(now_s)
        self._level = min(self._room, self._level - amount)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._seen_s)
        self._level, self._seen_s = min(self._room, self._level + passed_s * self._per_s), now_s


@dataclass
class _Stretch:
    """The time since a refusal that changed the pace, up to the next one.

    Args:
        rate: calls a second at its end; None = not paced yet.
    """

    started_s: float
    resumed_s: float
    ended_s: float = math.inf
    rate: float | None = None
    n_left: int = 0
    n_refused: int = 0
    n_answered: int = 0

    @property
    def n_taken(self) -> int:
        """Calls that were not refused, as far as is known."""
        return self.n_left - self.n_refused

    @property
    def taken_per_s(self) -> float:
        """Calls a second that the endpoint took; a pause counts half, as it may have saved something up in it."""
        pause_s = min(self.resumed_s, self.ended_s) - self.started_s
        return max(1, self.n_taken) / max(self.ended_s - self.started_s - pause_s / 2, _LEAST_STRETCH_S)


class Pace:
    """When the next call may leave for one endpoint.

    Args:
        rpm: calls a minute at most; None = no limit.
        tpm: tokens a minute at most, input and output; None = no limit.
    """

    def __init__(self, rpm: int | None = None, tpm: int | None = None) -> None:
        self._calls = None if rpm is None else Bucket(rpm)
        self._tokens = None if tpm is None else Bucket(tpm)
        self._queue = asyncio.Lock()
        self._changed = asyncio.Event()
        self._limit: float | None = None
        self._stretch: _Stretch | None = None
        self._former: _Stretch | None = None
        self._next_s = self._paused_s = self._verdict_s = 0.0
        self._n_in_flight = 0
        self._recovery_s = _RECOVERY_S[0]
        self._mean_tokens: float | None = None
        self.n_refused_in_a_row = 0

    @asynccontextmanager
    async def turn(
        self, slots: asyncio.Semaphore, n_tokens: int, check: Callable[[], object]
    ) -> AsyncIterator[Callable[[int], None]]:
        """Wait for the turn of a call and hold one of `slots` while it is made.

        Args:
            n_tokens: tokens that the call takes at most; once the calls' mean is known, that is counted at first.
            check: called now and then while waiting; raises to give up.

        Returns:
            A function to be told the tokens that the call took.
        """
        async with self._queue:
            n_counted = n_tokens if self._mean_tokens is None else min(n_tokens, math.ceil(self._mean_tokens))
            stretch = await self._enter(slots, n_counted, check)
            left_s = _now_s()
        try:
            yield lambda n_taken: self._settle(n_counted, n_taken)
        except RateLimited as error:
            self._refused(stretch, left_s, error.retry_after_s)
            raise
        else:
            stretch.n_answered += 1
            self.n_refused_in_a_row = 0
        finally:
            self._n_in_flight -= 1
            self._changed.set()
            slots.release()

    async def _enter(self, slots: asyncio.Semaphore, n_tokens: int, check: Callable[[], object]) -> _Stretch:
        while True:
            check()
            wait_s = self._wait_s(n_tokens)
            if wait_s > _NOW_S:
                await self._wait(wait_s)
                continue
            await slots.acquire()
            if self._wait_s(n_tokens) <= _NOW_S:
                return self._leave(n_tokens)
            slots.release()

    def _wait_s(self, n_tokens: int) -> float:
        """Return the least seconds to wait before one more call."""
        now_s = _now_s()
        waits = [self._paused_s - now_s]
        if self._limit is not None:
            waits.append(self._next_s - now_s)
        elif self._stretch is not None:
            allowed = _FIRST_IN_FLIGHT + _MORE_PER_ANSWER * self._stretch.n_answered
            allowed += _MORE_PER_S * (now_s - self._stretch.started_s)
            waits.append((self._n_in_flight + 1 - allowed) / _MORE_PER_S)
        if self._calls is not None:
            waits.append(self._calls.wait_s(1, now_s))
        if self._tokens is not None:
            waits.append(self._tokens.wait_s(n_tokens, now_s))
        return max(waits)

    async def _wait(self, seconds: float) -> None:
        """Wait, but only until an answer arrives or it is time to look whether to give up."""
        self._changed.clear()
        try:
            async with asyncio.timeout(min(seconds, _CHECK_S)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _leave(self, n_tokens: int) -> _Stretch:
        now_s = _now_s()
        if self._stretch is None:
            self._stretch = _Stretch(now_s, now_s)
        self._stretch.n_left += 1
        self._n_in_flight += 1
        if self._limit is not None:
            interval_s = 1 / self._rate(now_s)
            self._next_s = max(self._next_s, now_s - _LATE_S) + interval_s
            if self._stretch.n_left == 1:  # a probe: wait as long as a refusal takes
                self._next_s = now_s + max(interval_s, 1.5 * self._verdict_s)
        if self._calls is not None:
            self._calls.take(1, now_s)
        if self._tokens is not None:
            self._tokens.take(n_tokens, now_s)
        return self._stretch

    def _rate(self, now_s: float) -> float:
        """Return the calls a second at which calls leave now."""
        assert self._limit is not None
        assert self._stretch is not None
        share = max(0.0, now_s - self._stretch.resumed_s) / self._recovery_s - 1
        return self._limit * (1 + (1 - _SHARE) * share**3)

    def _refused(self, stretch: _Stretch, left_s: float, retry_after_s: float | None) -> None:
        """Pause the endpoint as it asks, and slow down, once for all calls that had left before."""
        now_s = _now_s()
        stretch.n_refused += 1
        self._verdict_s = min(now_s - left_s, _MAX_VERDICT_S)
        if retry_after_s is not None:
            self._paused_s = max(self._paused_s, now_s + min(retry_after_s, _MAX_PAUSE_S))
        if stretch is not self._stretch:  # it had left before the pace changed
            self._set_limit()
        else:
            self.n_refused_in_a_row += 1
            if stretch.n_taken > 0 or self._limit is None:  # else it is still shut, which says nothing of its pace
                stretch.rate = None if self._limit is None else self._rate(now_s)
                stretch.ended_s = now_s
                self._former, self._stretch = stretch, _Stretch(now_s, now_s)
                self._set_limit()
            trial_s = 2.0 ** min(self.n_refused_in_a_row, 10) / (self._limit or 1.0)
            self._next_s = now_s + min(trial_s, _MAX_TRIAL_S)
        if self._stretch is not None:
            self._stretch.resumed_s = max(self._stretch.resumed_s, self._next_s, self._paused_s)

    def _set_limit(self) -> None:
        """Estimate what the endpoint takes a second, by what it took before it refused."""
        former = self._former
        if former is None:
            return
        taken = former.taken_per_s
        if former.rate is None:
            self._limit = max(_FIRST_CUT * taken, _FIRST_LEAST)
        else:
            between = math.sqrt(taken * former.rate)
            self._limit = min(max(between, _MOST_CUT * former.rate), _LEAST_CUT * former.rate)
        lasted_s = _RECOVERY_PER_S * (former.ended_s - former.started_s)
        self._recovery_s = min(max(lasted_s, _RECOVERY_S[0]), _RECOVERY_S[1])

    def _settle(self, n_counted: int, n_taken: int) -> None:
        if self._tokens is not None:
            self._tokens.take(n_taken - n_counted, _now_s())
        mean = n_taken if self._mean_tokens is None else self._mean_tokens
        self._mean_tokens = mean + _LATEST * (n_taken - mean)


class Pacing:
    """The paces of all endpoints of a run; those of the simulator are unlimited.

    Args:
        rpm: calls a minute at most, of each endpoint; None = no limit.
        tpm: tokens a minute at most, of each endpoint; None = no limit.
    """

    def __init__(self, rpm: int | None = None, tpm: int | None = None) -> None:
        self._limits = (rpm, tpm)
        self._paces: dict[str, Pace] = {}
        self._endpoints: dict[tuple[str, str | None], Pace | None] = {}

    def of(self, request: Request) -> Pace | None:
        """Return the pace of the endpoint that answers a request; None = it has no limit."""
        key = (request.model, request.api_base)
        if key not in self._endpoints:
            self._endpoints[key] = None if is_simulator(request.model) else self._pace(endpoint(*key))
        return self._endpoints[key]

    def _pace(self, name: str) -> Pace:
        return self._paces.setdefault(name, Pace(*self._limits))


def tokens_at_most(request: Request) -> int:
    """Return about as many tokens as a request may take; an endpoint counts the longest answer beforehand too."""
    n_bytes = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    return n_bytes // _BYTES_PER_TOKEN + request.max_tokens


def _now_s() -> float:
    return asyncio.get_running_loop().time()
