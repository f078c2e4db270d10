"""The gateway: journal before answer, retries, failures that leave gaps and failures that end a run."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, make_task, model, noise

from promptopt.config import Settings
from promptopt.errors import (
    BudgetExhausted,
    CallRefused,
    CallTimedOut,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    Interrupted,
    JournalError,
    RateLimited,
    RunRefused,
    ServerFailed,
    TooManyMissing,
)
from promptopt.gateway import MAX_FAILURES_IN_A_ROW, Call, Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Stop
from promptopt.plan import make_plan
from promptopt.result import Result
from promptopt.run import Run
from promptopt.testing import outcome
from promptopt.types import Budget, Message, Phase, Request, Response, Usage

AT_ONCE = RetryPolicy(n_attempts=6, first_wait_s=0, max_wait_s=0)


def request(text: str = "hello") -> Request:
    return Request("m", (Message("user", text),), 16)


def call(text: str = "hello", *, timeout_s: float = 5, phase: Phase = "search", keeps: bool = False) -> Call:
    asked = request(text)
    return Call(asked, bytes.fromhex(asked.digest), "task", phase, timeout_s, keeps)


@dataclass
class Door:
    """A gateway to a scripted model, in a journal file, that notes the waits it was asked for."""

    path: Path
    script: Callable[[Request, int], Response | Exception] = lambda request, n: Response("yes", Usage(1, 1), None)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    stop: Stop = field(default_factory=Stop)
    concurrency: int = 64
    waits: list[float] = field(default_factory=list)
    n_sent: int = 0
    n_in_flight: int = 0
    most_in_flight: int = 0
    timeouts: set[float] = field(default_factory=set)

    async def send(self, request: Request, timeout_s: float) -> Response:
        self.n_sent += 1
        self.timeouts.add(timeout_s)
        self.n_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.n_in_flight)
        reply = self.script(request, self.n_sent)
        for _ in range(3):
            await asyncio.sleep(0)
        self.n_in_flight -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def run(self, use: Callable[[Gateway], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            with Journal(self.path) as self.journal:
                gateway = Gateway(
                    self.journal,
                    {"": self},
                    concurrency=self.concurrency,
                    retry=self.retry,
                    stop=self.stop,
                    sleep=self.sleep,
                )
                async with asyncio.timeout(10):
                    return await use(gateway)

        return asyncio.run(main())

    def fetch(self, sql: str) -> list[Any]:
        db = sqlite3.connect(self.path)
        try:
            return db.execute(sql).fetchall()
        finally:
            db.close()

    def outcomes(self) -> dict[str, int]:
        return dict(self.fetch("SELECT COALESCE(outcome, 'in flight'), COUNT(*) FROM attempts GROUP BY 1"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def fails(error: Exception, n: int = 10**9) -> Callable[[Request, int], Response | Exception]:
    """Fail the first `n` attempts."""
    return lambda request, i: error if i <= n else Response("yes", Usage(1, 1), None)


# Journal and flights -----------------------------------------------------------------------------


def test_answer_is_committed_before_it_is_returned(path: Path) -> None:
    door = Door(path)

    async def use(gateway: Gateway) -> None:
        for i in range(3):
            response = await gateway.answer(call(str(i), keeps=i == 2))
            assert response.text == "yes"
            assert door.fetch("SELECT COUNT(*) FROM answers") == [(i + 1,)]

    door.run(use)
    assert door.fetch("SELECT request FROM answers") == [(None,), (None,), ('[["user", "2"]]',)]


def test_attempt_is_on_disk_before_it_is_sent(path: Path) -> None:
    def script(request: Request, n: int) -> Response:
        assert door.outcomes() == {"in flight": 1}
        return Response("yes", None, None)

    door = Door(path, script)
    door.run(lambda gateway: gateway.answer(call()))
    assert door.outcomes() == {"ok": 1}


def test_known_answer_costs_no_call(path: Path) -> None:
    first, second = Door(path), Door(path)
    answer = first.run(lambda gateway: gateway.answer(call()))

    async def use(gateway: Gateway) -> Response:
        again = await gateway.answer(call())
        assert gateway.n_from_journal == 1
        return again

    assert second.run(use) == answer
    assert (first.n_sent, second.n_sent) == (1, 0)


def test_identical_requests_in_flight_fly_once(path: Path) -> None:
    door = Door(path)

    async def use(gateway: Gateway) -> None:
        answers = await asyncio.gather(*(gateway.answer(call(str(i % 3))) for i in range(30)))
        assert len(answers) == 30

    door.run(use)
    assert door.n_sent == 3


def test_identical_requests_in_flight_share_a_failure(path: Path) -> None:
    door = Door(path, fails(CallRefused("no")))

    async def use(gateway: Gateway) -> None:
        outcomes = await asyncio.gather(*(gateway.answer(call()) for _ in range(5)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [CallRefused] * 5

    door.run(use)
    assert door.n_sent == 1


def test_no_more_calls_in_flight_than_allowed(path: Path) -> None:
    door = Door(path, concurrency=3)

    async def use(gateway: Gateway) -> None:
        await asyncio.gather(*(gateway.answer(call(str(i))) for i in range(20)))

    door.run(use)
    assert door.most_in_flight == 3


def test_text_that_utf8_cannot_hold_is_the_same_live_and_replayed(path: Path) -> None:
    door = Door(path, lambda request, n: Response("half \ud83d pair", None, None))
    live = door.run(lambda gateway: gateway.answer(call()))
    assert live == door.run(lambda gateway: gateway.answer(call()))
    assert live.text == "half ? pair"


def test_full_disk_loses_one_answer_at_most(path: Path) -> None:
    door = Door(path)

    async def use(gateway: Gateway) -> str:
        n_pages = door.journal._db.execute("PRAGMA page_count").fetchone()[0]
        door.journal._db.execute(f"PRAGMA max_page_count = {n_pages}")
        for i in range(10_000):
            try:
                await gateway.answer(call(str(i)))
            except JournalError as error:
                return str(error)
        return "never"

    assert "full" in door.run(use)
    assert door.n_sent - door.fetch("SELECT COUNT(*) FROM answers")[0][0] <= 1


# Retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RateLimited, ServerFailed, CallTimedOut, ConnectionLost])
def test_transient_failures_are_tried_again_with_growing_waits(path: Path, kind: type[Exception]) -> None:
    door = Door(path, fails(kind("not now"), 5), RetryPolicy(6, first_wait_s=1, max_wait_s=6))
    response = door.run(lambda gateway: gateway.answer(call()))
    assert response.text == "yes"
    assert door.outcomes() == {kind.__name__: 5, "ok": 1}
    assert len(door.waits) == 5
    for wait, ceiling in zip(door.waits, (1, 2, 4, 6, 6), strict=True):
        assert ceiling / 2 <= wait <= ceiling


@pytest.mark.parametrize("n_attempts", [1, 2, 6])
def test_gives_up_after_the_policys_attempts(path: Path, n_attempts: int) -> None:
    door = Door(path, fails(ServerFailed("down")), RetryPolicy(n_attempts))
    with pytest.raises(ServerFailed, match="down"):
        door.run(lambda gateway: gateway.answer(call()))
    assert door.n_sent == n_attempts
    assert len(door.waits) == n_attempts - 1
    assert door.outcomes() == {"ServerFailed": n_attempts}
    assert door.fetch("SELECT DISTINCT message FROM attempts") == [("down",)]


def test_wait_that_the_endpoint_asks_for_is_honoured_and_capped(path: Path) -> None:
    asked = iter([7.5, 0.0, 1000.0, None])

    def script(request: Request, n: int) -> Response | Exception:
        return RateLimited("slow down", next(asked)) if n <= 4 else Response("yes", None, None)

    door = Door(path, script, RetryPolicy(6, first_wait_s=1, max_wait_s=60))
    door.run(lambda gateway: gateway.answer(call()))
    assert door.waits[:3] == [7.5, 0.0, 60.0]
    assert 4 <= door.waits[3] <= 8


@pytest.mark.parametrize("kind", [CallRefused, ContextTooLong, ContentRefused, RunRefused])
def test_refusals_are_not_tried_again(path: Path, kind: type[Exception]) -> None:
    door = Door(path, fails(kind("never")))
    with pytest.raises(kind, match="never"):
        door.run(lambda gateway: gateway.answer(call()))
    assert (door.n_sent, door.waits) == (1, [])
    assert door.outcomes() == {kind.__name__: 1}


def test_attempt_that_broke_unexpectedly_is_not_left_in_flight(path: Path) -> None:
    door = Door(path, fails(ZeroDivisionError("a fault of ours")))
    with pytest.raises(ZeroDivisionError):
        door.run(lambda gateway: gateway.answer(call()))
    assert door.fetch("SELECT outcome, message FROM attempts") == [("ZeroDivisionError", "a fault of ours")]


def test_a_waiting_retry_occupies_no_slot(path: Path) -> None:
    done: list[str] = []

    def script(request: Request, n: int) -> Response | Exception:
        return ServerFailed("down") if n == 1 else Response("yes", None, None)

    door = Door(path, script, concurrency=1)

    async def patient(seconds: float) -> None:
        while "other" not in done:
            await asyncio.sleep(0)

    door.sleep = patient  # type: ignore[method-assign]

    async def ask(gateway: Gateway, text: str) -> None:
        await gateway.answer(call(text))
        done.append(text)

    async def use(gateway: Gateway) -> None:
        await asyncio.gather(ask(gateway, "first"), ask(gateway, "other"))

    door.run(use)
    assert done == ["other", "first"]


def test_a_long_row_of_failures_ends_the_run(path: Path) -> None:
    door = Door(path, fails(ServerFailed("down")), RetryPolicy(2))

    async def use(gateway: Gateway) -> None:
        for i in range(MAX_FAILURES_IN_A_ROW - 1):
            with pytest.raises(ServerFailed):
                await gateway.answer(call(str(i)))
        with pytest.raises(TooManyMissing, match=r"20 calls failed.*down.*what was paid is kept"):
            await gateway.answer(call("last"))

    door.run(use)


def test_one_success_breaks_the_row(path: Path) -> None:
    def script(request: Request, n: int) -> Response | Exception:
        is_fine = request.messages[0].content == "15"
        return Response("yes", None, None) if is_fine else ServerFailed("down")

    door = Door(path, script, RetryPolicy(1))

    async def use(gateway: Gateway) -> None:
        for i in range(MAX_FAILURES_IN_A_ROW + 10):
            if i == 15:
                await gateway.answer(call(str(i)))
                continue
            with pytest.raises(ServerFailed):
                await gateway.answer(call(str(i)))

    door.run(use)


# Time and interruption ----------------------------------------------------------------------------


class Silent(Door):
    async def send(self, request: Request, timeout_s: float) -> Response:
        self.n_sent += 1
        await asyncio.Event().wait()
        raise AssertionError


def test_call_without_a_reply_times_out(path: Path) -> None:
    door = Silent(path, retry=RetryPolicy(3))
    with pytest.raises(CallTimedOut, match="no reply from m"):
        door.run(lambda gateway: gateway.answer(call(timeout_s=0.005)))
    assert door.outcomes() == {"CallTimedOut": 3}


def test_end_of_a_phase_ends_its_calls_and_no_others(path: Path) -> None:
    door = Door(path)

    async def use(gateway: Gateway) -> None:
        gateway.deadlines = {"search": time.monotonic() - 1}
        with pytest.raises(BudgetExhausted, match="time is over"):
            await gateway.answer(call())
        assert door.n_sent == 0
        await gateway.answer(call(phase="proof"))
        await gateway.answer(call())  # already paid: still there

    door.run(use)


def test_end_of_a_phase_cuts_a_call_short(path: Path) -> None:
    door = Silent(path)

    async def use(gateway: Gateway) -> None:
        gateway.deadlines = {"search": time.monotonic() + 0.01}
        with pytest.raises(BudgetExhausted, match="time is over"):
            await gateway.answer(call(timeout_s=100))

    door.run(use)
    assert door.n_sent == 1
    assert door.outcomes() == {"BudgetExhausted": 1}


def test_the_end_of_a_phase_gives_calls_no_timeout_of_their_own(path: Path) -> None:
    """litellm keeps a client open for each timeout that it is given."""
    door = Door(path)

    async def use(gateway: Gateway) -> None:
        gateway.deadlines = {"search": time.monotonic() + 4}
        await asyncio.gather(*(gateway.answer(call(f"{i}", timeout_s=60)) for i in range(20)))

    door.run(use)
    assert door.timeouts == {60}


def test_end_of_a_phase_tells_the_failure_that_no_answer_came_after(path: Path) -> None:
    is_up = False
    door = Door(
        path, lambda request, i: Response("yes", Usage(1, 1), None) if is_up else ConnectionLost("refused")
    )

    async def use(gateway: Gateway) -> None:
        nonlocal is_up
        with pytest.raises(ConnectionLost):
            await gateway.answer(call("first"))
        gateway.deadlines = {"search": time.monotonic() - 1}
        with pytest.raises(
            BudgetExhausted, match=r"time is over; the last attempt failed: ConnectionLost: refused$"
        ):
            await gateway.answer(call())
        assert gateway.last_failure == "ConnectionLost: refused"
        is_up = True
        await gateway.answer(call(phase="proof"))
        with pytest.raises(BudgetExhausted, match=r"time is over$"):
            await gateway.answer(call("another"))

    door.run(use)


def test_stop_lets_nothing_new_out_but_keeps_what_flies(path: Path) -> None:
    door = Door(path)

    async def use(gateway: Gateway) -> None:
        flying = asyncio.create_task(gateway.answer(call("flying")))
        while not door.n_in_flight:
            await asyncio.sleep(0)
        door.stop.set()
        with pytest.raises(Interrupted):
            await gateway.answer(call("late"))
        assert (await flying).text == "yes"
        assert (await gateway.answer(call("flying"))).text == "yes"

    door.run(use)
    assert door.n_sent == 1
    assert door.fetch("SELECT COUNT(*) FROM answers") == [(1,)]


def test_stop_ends_retries(path: Path) -> None:
    def script(request: Request, n: int) -> Exception:
        door.stop.set()
        return ServerFailed("down")

    door = Door(path, script)
    with pytest.raises(Interrupted):
        door.run(lambda gateway: gateway.answer(call()))
    assert door.n_sent == 1


# Whole runs with failures --------------------------------------------------------------------------

SETTINGS = Settings(model="sim", budget=Budget(calls=150), optimizer="capo", seed=5)


@dataclass
class Faulty(Scripted):
    """A scripted model that raises what `fault(request, number of this attempt at it)` returns."""

    fault: Callable[[Request, int], Exception | None] = lambda request, n: None
    tries: Counter[str] = field(default_factory=Counter)

    async def send(self, request: Request, timeout_s: float) -> Response:
        self.tries[request.digest] += 1
        await asyncio.sleep(0)
        error = self.fault(request, self.tries[request.digest])
        if error is not None:
            raise error
        return await super().send(request, timeout_s)


def faulty(fault: Callable[[Request, int], Exception | None]) -> Faulty:
    return Faulty(model, fault=fault)


def execute(folder: Path, transport: Scripted, settings: Settings = SETTINGS) -> Result:
    plan = make_plan(make_task(), replace(settings, out=folder))

    async def run() -> Result:
        async with asyncio.timeout(30):
            return await Run(plan, transports={"sim": transport}, retry=AT_ONCE).execute()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def flawless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("flawless")
    result = execute(folder, Scripted(model))
    assert result.status in ("completed", "budget_exhausted")
    return outcome(folder)


def evaluations(folder: Path, where: str) -> list[Any]:
    db = sqlite3.connect(folder / "journal.db")
    try:
        return db.execute(f"SELECT candidate_id, example_id, value, cause FROM evaluations {where}").fetchall()
    finally:
        db.close()


@pytest.mark.parametrize("kind", [RateLimited, ServerFailed, CallTimedOut, ConnectionLost])
def test_run_with_passing_failures_equals_a_run_without(
    tmp_path: Path, flawless: dict[str, Any], kind: type[Exception]
) -> None:
    transport = faulty(lambda r, n: kind("later") if n <= 6 * noise("fault", r.digest) - 1 else None)
    result = execute(tmp_path, transport)
    assert outcome(tmp_path) == flawless
    assert result.spend.attempts > result.spend.calls
    assert result.spend.attempts == sum(transport.tries.values())


def test_cells_that_stay_missing_at_first_are_asked_again(tmp_path: Path, flawless: dict[str, Any]) -> None:
    """More failures than one call's attempts: the batch asks for the missing cells again."""
    is_hard = lambda r: "</prompt>" not in r.messages[-1].content and noise("hard", r.digest) < 0.1  # noqa: E731
    transport = faulty(lambda r, n: ServerFailed("later") if n <= 8 and is_hard(r) else None)
    execute(tmp_path, transport)
    assert outcome(tmp_path) == flawless


@pytest.mark.parametrize("kind", [ServerFailed, CallRefused, RunRefused], ids=["down", "400", "no key"])
@pytest.mark.parametrize("n_good", [0, 60])
def test_failure_of_everything_keeps_what_was_paid_and_mends(
    tmp_path: Path, flawless: dict[str, Any], kind: type[Exception], n_good: int
) -> None:
    transport = faulty(lambda r, n: kind("out of order") if len(transport.requests) >= n_good else None)
    result = execute(tmp_path, transport)
    assert result.status == "failed"
    assert "out of order" in result.reason
    assert result.improvement is None
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert evaluations(tmp_path, "WHERE cause IS NOT NULL") == []
    assert result.spend.calls == len(transport.requests)
    db = sqlite3.connect(tmp_path / "journal.db")
    assert db.execute("SELECT COUNT(*) FROM answers").fetchone() == (len(transport.requests),)
    db.close()
    mended = Scripted(model)
    execute(tmp_path, mended)
    assert outcome(tmp_path) == flawless
    paid = {request.digest for request in transport.requests}
    assert not paid & {request.digest for request in mended.requests}
    assert len(paid) + len(mended.requests) == flawless["spend"]["calls"]


def test_failed_call_is_missing_and_never_a_score(tmp_path: Path) -> None:
    """One dev example cannot be asked: no cell of it is stored, no candidate loses a point for it."""
    transport = faulty(lambda r, n: CallRefused("bad") if r.messages[-1].content == "item number 105" else None)
    result = execute(tmp_path, transport, replace(SETTINGS, optimizer="random"))
    assert result.status in ("completed", "budget_exhausted")
    assert evaluations(tmp_path, "WHERE example_id = 'dev-105'") == []
    assert result.initial.dev is not None
    assert result.initial.dev.n == 19


@pytest.mark.parametrize("kind", [ContextTooLong, ContentRefused])
def test_request_spoiled_by_its_candidate_scores_nothing_with_the_cause(
    tmp_path: Path, kind: type[Exception]
) -> None:
    def is_spoiled(request: Request) -> bool:
        system = "".join(m.content for m in request.messages[:-1])
        return "variant" in system and noise("spoil", request.digest) < 0.2

    transport = faulty(lambda r, n: kind("too much") if is_spoiled(r) else None)
    result = execute(tmp_path, transport)
    assert result.status in ("completed", "budget_exhausted")
    spoiled = evaluations(tmp_path, "WHERE cause IS NOT NULL")
    assert spoiled
    assert {(value, cause) for _, _, value, cause in spoiled} == {(0.0, f"{kind.__name__}: too much")}
    initial = make_task().initial.id
    assert initial not in {candidate for candidate, *_ in spoiled}
    assert result.spend.calls == len(transport.requests), "a refused request is charged nothing"


def test_example_that_every_candidate_is_refused_on_leaves_the_pool(tmp_path: Path) -> None:
    transport = faulty(lambda r, n: ContentRefused("no") if r.messages[-1].content == "item number 105" else None)
    result = execute(tmp_path, transport)
    assert result.status in ("completed", "budget_exhausted")
    with Journal(tmp_path / "journal.db") as journal:
        events = journal.events("example left the pool")
    assert [event["example"] for event in events] == ["dev-105"]
    assert "ContentRefused" in events[0]["cause"]


def test_answer_stopped_by_a_filter_scores_nothing_with_the_cause(tmp_path: Path) -> None:
    class Filtered(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Response:
            response = await super().send(request, timeout_s)
            is_hit = request.messages[-1].content == "item number 107"
            return replace(response, finish_reason="content_filter") if is_hit else response

    result = execute(tmp_path, Filtered(model))
    assert result.status in ("completed", "budget_exhausted")
    rows = evaluations(tmp_path, "WHERE cause IS NOT NULL")
    assert rows
    assert {(row[1], row[2]) for row in rows} == {("dev-107", 0.0)}


# What endpoints report ----------------------------------------------------------------------------


def test_endpoint_that_takes_more_than_the_worst_case_ends_a_run_with_a_token_budget(tmp_path: Path) -> None:
    class Greedy(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Response:
            response = await super().send(request, timeout_s)
            return replace(response, usage=Usage(10, 40_000)) if len(self.requests) == 30 else response

    settings = replace(SETTINGS, budget=Budget(tokens=600_000))
    result = execute(tmp_path / "limited", Greedy(model), settings)
    assert result.status == "failed"
    assert "reported more than the worst case of a call (40010 tokens needed at worst" in result.reason
    unlimited = execute(tmp_path / "calls only", Greedy(model))
    assert unlimited.status in ("completed", "budget_exhausted")


def test_endpoint_that_charges_more_than_the_worst_case_ends_a_run_with_a_dollar_budget(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget=Budget(usd=Decimal(5), calls=150))
    result = execute(tmp_path, Scripted(model, cost_usd=Decimal(1)), settings)
    assert result.status == "failed"
    assert "$1.000000 needed at worst" in result.reason


def test_unreported_usage_counts_as_the_worst_case(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget=Budget(tokens=600_000, calls=400))
    silent, frugal = Scripted(model, usage=None), Scripted(model, usage=Usage(1, 1))
    first = execute(tmp_path / "silent", silent, settings)
    second = execute(tmp_path / "frugal", frugal, settings)
    assert first.status == "budget_exhausted"
    assert (first.spend.input_tokens, first.spend.output_tokens) == (0, 0)
    assert len(silent.requests) < len(frugal.requests)
    assert second.status in ("completed", "budget_exhausted")
    most = sum(sum(len(m.content) for m in request.messages) + 1024 for request in silent.requests)
    assert most <= 600_000


def test_unknown_cost_is_null_and_not_zero(tmp_path: Path) -> None:
    result = execute(tmp_path, Scripted(model, cost_usd=None))
    assert result.spend.cost_usd is None
    spend = json.loads((tmp_path / "result.json").read_text())["spend"]
    assert spend["cost_usd"] is None
    assert spend["by_role"]["task"]["cost_usd"] is None
    assert spend["calls"] > 0


def test_one_unknown_cost_makes_the_whole_unknown(tmp_path: Path) -> None:
    class Once(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Response:
            response = await super().send(request, timeout_s)
            return replace(response, cost_usd=None) if len(self.requests) == 30 else response

    assert execute(tmp_path, Once(model)).spend.cost_usd is None
