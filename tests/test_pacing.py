"""When calls leave, on a clock that jumps: against made-up endpoints with limits of several kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clock import run

from promptopt.errors import Interrupted, RateLimited, ServerFailed, TooManyMissing
from promptopt.gateway import MAX_FAILURES_IN_A_ROW, Call, Gateway
from promptopt.journal import Journal
from promptopt.ledger import Stop
from promptopt.pacing import Bucket, Pace, Pacing, tokens_at_most
from promptopt.types import Message, Request, Response, Usage


def now() -> float:
    return asyncio.get_running_loop().time()


def fine() -> None:
    """Give up for no reason."""


@dataclass
class Endpoint:
    """A model behind a limit: a bucket that refills `rate` calls a second up to `burst`, or a sliding second."""

    rate: float
    burst: float = 5
    latency_s: float = 0.05
    retry_after_s: float | None = None
    is_sliding: bool = False
    level: float = field(init=False)
    seen_s: float = 0.0
    taken_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    left_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.level = self.burst

    async def call(self) -> None:
        self.left_s.append(now())
        if not self._takes():
            self.refused_s.append(now())
            await asyncio.sleep(min(self.latency_s, 0.05))
            raise RateLimited("slow down", self.retry_after_s)
        self.taken_s.append(now())
        await asyncio.sleep(self.latency_s)

    def _takes(self) -> bool:
        if self.is_sliding:
            return sum(taken_s > now() - 1 for taken_s in self.taken_s[-int(self.rate) :]) < self.rate
        self.level = min(self.burst, self.level + (now() - self.seen_s) * self.rate)
        self.seen_s = now()
        if self.level < 1:
            return False
        self.level -= 1
        return True


async def drive(endpoint: Endpoint, pace: Pace, seconds: float, concurrency: int = 16) -> None:
    """Ask as fast as the pace allows for so long, retrying refused calls after the pause that they ask for."""
    slots = asyncio.Semaphore(concurrency)

    async def worker() -> None:
        while True:
            try:
                async with pace.turn(slots, 0, fine):
                    await endpoint.call()
            except RateLimited as error:
                await asyncio.sleep(0.5 if error.retry_after_s is None else error.retry_after_s)

    workers = [asyncio.ensure_future(worker()) for _ in range(2 * concurrency)]
    await asyncio.sleep(seconds)
    for one in workers:
        one.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


# The pace that an endpoint takes -------------------------------------------------------------------


@pytest.mark.parametrize("retry_after_s", [None, 1.0])
@pytest.mark.parametrize("burst", [2, 5, 20])
@pytest.mark.parametrize("latency_s", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("concurrency", [16, 64])
def test_limit_of_20_a_second_is_used_and_seldom_met(
    retry_after_s: float | None, burst: int, latency_s: float, concurrency: int
) -> None:
    endpoint = Endpoint(20, burst, latency_s, retry_after_s)
    run(drive(endpoint, Pace(), 20, concurrency))
    n_taken, n_refused = len(endpoint.taken_s), len(endpoint.refused_s)
    assert n_taken >= 0.8 * 20 * 20
    assert n_refused <= 0.05 * (n_taken + n_refused)


@pytest.mark.parametrize("rate", [5, 20, 100])
def test_limit_by_a_sliding_second(rate: int) -> None:
    endpoint = Endpoint(rate, is_sliding=True)
    run(drive(endpoint, Pace(), 60, 64))
    n_taken, n_refused = len(endpoint.taken_s), len(endpoint.refused_s)
    assert n_taken >= 0.8 * 60 * rate
    assert n_refused <= 0.06 * (n_taken + n_refused)


def test_endpoint_without_a_limit_is_soon_used_to_the_full() -> None:
    endpoint = Endpoint(1e9, 1e9, latency_s=0.5)
    run(drive(endpoint, Pace(), 10, 16))
    assert len(endpoint.taken_s) >= 0.9 * 16 * 10 / 0.5


def test_lifted_limit_is_found_out() -> None:
    async def main() -> tuple[int, int]:
        endpoint, pace = Endpoint(10), Pace()
        await drive(endpoint, pace, 30)
        n = len(endpoint.taken_s)
        endpoint.rate = endpoint.burst = endpoint.level = 1e9
        await drive(endpoint, pace, 60)
        late = [taken_s for taken_s in endpoint.taken_s if taken_s > 80]
        return n, len(late)

    limited, free = run(main())
    assert limited <= 10 * 30 + 5
    assert free >= 10 * 100


def test_wait_that_one_call_is_asked_for_holds_for_the_whole_endpoint() -> None:
    endpoint = Endpoint(20, burst=5, retry_after_s=7.0)
    run(drive(endpoint, Pace(), 20))
    assert endpoint.refused_s
    for refused_s in endpoint.refused_s:
        told_s = refused_s + 0.05
        assert not [left_s for left_s in endpoint.left_s if told_s + 1e-6 < left_s < told_s + 7 - 1e-6]


def test_wait_is_honoured_for_a_minute_at_most() -> None:
    endpoint = Endpoint(1, burst=1, retry_after_s=3600)
    run(drive(endpoint, Pace(), 100))
    assert [left_s for left_s in endpoint.left_s if 60 < left_s < 61]


def test_other_failures_change_no_pace() -> None:
    async def main() -> float:
        pace, slots = Pace(), asyncio.Semaphore(16)
        for _ in range(200):
            with pytest.raises(ServerFailed):
                async with pace.turn(slots, 0, fine):
                    raise ServerFailed("down")
        return now()

    assert run(main()) == 0


def test_no_more_calls_in_flight_than_slots_and_all_slots_come_back() -> None:
    async def main() -> tuple[int, int]:
        pace, slots, n, most = Pace(), asyncio.Semaphore(3), 0, 0

        async def one(i: int) -> None:
            nonlocal n, most
            async with pace.turn(slots, 0, fine):
                n, most = n + 1, max(most, n + 1)
                await asyncio.sleep(0.1)
                n -= 1
                if i % 3 == 0:
                    raise RateLimited("slow down", None)

        await asyncio.gather(*(one(i) for i in range(60)), return_exceptions=True)
        return most, slots._value

    assert run(main()) == (3, 3)


# The user's limits ---------------------------------------------------------------------------------


def most_in_a_minute(taken: list[tuple[float, float]]) -> float:
    return max(sum(n for at, n in taken if start <= at < start + 60 - 1e-6) for start, _ in taken)


@pytest.mark.parametrize("rpm", [1, 7, 20, 600])
def test_calls_a_minute_stay_below_the_limit_and_use_it(rpm: int) -> None:
    endpoint = Endpoint(1e9, 1e9)
    run(drive(endpoint, Pace(rpm=rpm), 300))
    assert most_in_a_minute([(left_s, 1) for left_s in endpoint.left_s]) <= rpm
    assert len(endpoint.left_s) >= 0.85 * 5 * rpm


@pytest.mark.parametrize(("n_at_most", "n_taken"), [(100, 100), (8192, 150), (100, 300)])
def test_tokens_a_minute_stay_below_the_limit_and_use_it(n_at_most: int, n_taken: int) -> None:
    """Also where calls may take much more than they do, or take more than was counted."""
    taken: list[tuple[float, float]] = []

    async def main() -> None:
        pace, slots = Pace(tpm=30_000), asyncio.Semaphore(4)

        async def worker() -> None:
            while now() < 300:
                async with pace.turn(slots, n_at_most, fine) as settle:
                    taken.append((now(), n_taken))
                    await asyncio.sleep(0.2)
                    settle(n_taken)

        await asyncio.gather(*(worker() for _ in range(8)))

    run(main())
    assert most_in_a_minute(taken) <= 30_000 + 8 * n_taken
    assert sum(n for _, n in taken) >= 0.8 * 5 * 30_000


def test_call_larger_than_the_limit_waits_for_a_full_bucket_and_is_owed() -> None:
    bucket = Bucket(600)
    assert bucket.wait_s(10_000, 0) == 0
    bucket.take(600, 0)
    assert bucket.wait_s(1, 0) == pytest.approx(541 / 9)
    bucket.take(-600, 0)
    assert bucket.wait_s(60, 0) == 0


# Whose limits --------------------------------------------------------------------------------------


def asked(model: str = "m", api_base: str | None = "http://127.0.0.1:1/v1", text: str = "hello") -> Request:
    return Request(model, (Message("user", text),), 16, api_base=api_base)


def test_models_of_one_endpoint_share_a_pace_and_the_simulator_has_none() -> None:
    pacing = Pacing()
    assert pacing.of(asked("a")) is pacing.of(asked("b"))
    assert pacing.of(asked()) is not pacing.of(asked(api_base="http://127.0.0.1:2/v1"))
    assert pacing.of(asked("gpt-4o-mini", None)) is pacing.of(asked("openai/o3-mini", None))
    assert pacing.of(asked("gpt-4o-mini", None)) is not pacing.of(asked("anthropic/claude-sonnet-4-5", None))
    assert pacing.of(asked("sim", None)) is None
    assert pacing.of(asked("sim:demos", None)) is None


def test_tokens_at_most() -> None:
    assert tokens_at_most(asked(text="x" * 300)) == 100 + 16


# In the gateway ------------------------------------------------------------------------------------


@dataclass
class Door:
    """A gateway to a scripted model, paced."""

    path: Path
    answer: Callable[[int], Response | Exception]
    pacing: Pacing = field(default_factory=Pacing)
    stop: Stop = field(default_factory=Stop)
    n_sent: int = 0

    async def send(self, request: Request, timeout_s: float) -> Response:
        self.n_sent += 1
        reply = self.answer(self.n_sent)
        await asyncio.sleep(0.05)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def ask(self, n: int) -> list[Any]:
        with Journal(self.path) as journal:
            gateway = Gateway(journal, {"": self}, pacing=self.pacing, stop=self.stop)
            requests = [asked(text=str(i)) for i in range(n)]
            calls = [Call(one, bytes.fromhex(one.digest), "task", "search", 5) for one in requests]
            return await asyncio.gather(*(gateway.answer(call) for call in calls), return_exceptions=True)


YES = Response("yes", Usage(50, 50), None)


def test_refused_calls_are_answered_in_the_end(tmp_path: Path) -> None:
    door = Door(tmp_path / "journal.db", lambda n: RateLimited("slow down", 0.05) if n % 10 == 5 else YES)
    assert asyncio.run(asyncio.wait_for(_once(door), 60)) == [YES] * 8


async def _once(door: Door) -> list[Any]:
    return await door.ask(8)


def test_usage_is_settled(tmp_path: Path) -> None:
    pacing = Pacing(tpm=60_000)
    door = Door(tmp_path / "journal.db", lambda n: YES, pacing)
    asyncio.run(door.ask(3))
    pace = pacing.of(asked())
    assert pace is not None
    assert pace._mean_tokens == 100


def test_stop_ends_the_wait_for_a_turn(tmp_path: Path) -> None:
    def answer(n: int) -> Response:
        door.stop.set()
        return YES

    door = Door(tmp_path / "journal.db", answer, Pacing(rpm=1))
    outcomes = asyncio.run(asyncio.wait_for(door.ask(5), 10))
    assert [type(one) for one in outcomes] == [Response] + [Interrupted] * 4
    assert door.n_sent == 1


def test_endpoint_that_takes_nothing_any_more_ends_the_run(tmp_path: Path) -> None:
    """Without waiting for every call to fail all its attempts, as calls now leave one by one."""
    door = Door(tmp_path / "journal.db", lambda n: RateLimited("daily limit", 0.0))
    pace = door.pacing.of(asked())
    assert pace is not None
    pace.n_refused_in_a_row = MAX_FAILURES_IN_A_ROW - 1
    outcomes = asyncio.run(asyncio.wait_for(door.ask(1), 10))
    assert isinstance(outcomes[0], TooManyMissing)
    assert "the last 20 calls failed (daily limit)" in str(outcomes[0])
