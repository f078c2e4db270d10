"""No limit is broken, whatever a strategy does, and whether an endpoint fails, hangs or lies about usage."""

from __future__ import annotations

import asyncio
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from clock import JumpingClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import make_task
from wander import WANDER

from promptopt import errors, gateway, run
from promptopt.asking import actual_amount
from promptopt.config import Settings
from promptopt.ledger import Amount
from promptopt.plan import Plan, make_plan
from promptopt.result import Result
from promptopt.simulator import Simulator, landscape
from promptopt.testing.trial import time_limit
from promptopt.types import Budget, Request, Response, Usage, digest

TASK = make_task(n_test=12)
LATE_S = 1.0  # what docs/cli.md grants a budget of seconds, on a clock that runs only while everybody waits
PRICE = Decimal("1e-6")
# What an endpoint says of a reply's usage that it did not count, or not honestly. None is the truth.
LIES: dict[str, Callable[[Usage], Usage | None]] = {
    "honest": lambda usage: usage,
    "none": lambda usage: None,
    "zero": lambda usage: Usage(0, 0),
    "negative": lambda usage: Usage(-usage.input_tokens, -(10**6)),
    "half negative": lambda usage: Usage(usage.input_tokens, -(10**6)),
}
EXCESS = {"above": 1, "far above": 50_000, "absurd": 10**12}


@dataclass
class Endpoint:
    """A model that fails, hangs, is slow and lies, and counts what it really gave.

    Args:
        lie: what becomes of its replies' usage.
        excess: tokens above all that was reserved, reported of every n-th answer from `n_honest` on; 0 = never.
        given: usage of all answers that it gave.
    """

    seed: int
    lie: str = "honest"
    fails: float = 0.0
    hangs: float = 0.0
    excess: int = 0
    n_honest: int = 0
    n_sent: int = 0
    n_done_at_report: int | None = None
    n_in_flight: int = 0
    most_in_flight: int = 0
    given: list[Usage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._simulator = Simulator(landscape("default"))
        self._simulator.learn((*TASK.train, *TASK.dev, *TASK.test))

    async def send(self, request: Request, timeout_s: float) -> Response:
        self.n_sent += 1
        self.n_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.n_in_flight)
        draw = random.Random(digest(str(self.seed), request.digest, str(self.n_sent)))
        try:
            if draw.random() < self.hangs:
                await asyncio.Event().wait()
            await asyncio.sleep(draw.random())
            if draw.random() < self.fails:
                raise draw.choice((errors.ServerFailed, errors.RateLimited, errors.ConnectionLost))("not now")
            return self._answer(request)
        finally:
            self.n_in_flight -= 1

    def _answer(self, request: Request) -> Response:
        said = self._simulator.complete(request)
        most_in = sum(len(m.content.encode()) + 16 for m in request.messages) + 16
        share = random.Random(request.digest).random()  # of the worst case
        true = Usage(math.ceil(most_in * share), math.ceil(request.max_tokens * share))
        self.given.append(true)
        told = LIES[self.lie](true)
        if self.excess and len(self.given) > self.n_honest:
            told = Usage(most_in, request.max_tokens + self.excess)
            self.n_done_at_report = self.n_done_at_report or len(self.given)
        return Response(said.text, told, None if told is None else cost(told))

    @property
    def tokens(self) -> int:
        return sum(usage.input_tokens + usage.output_tokens for usage in self.given)

    @property
    def usd(self) -> Decimal:
        return sum(map(cost, self.given), Decimal(0))


def cost(usage: Usage) -> Decimal:
    return PRICE * (usage.input_tokens + usage.output_tokens)


def plan_of(folder: Path, budget: Budget, seed: int = 0, concurrency: int = 16) -> Plan:
    options = {"max_tokens": 64, "price_in": 1, "price_out": 1, "timeout_s": 5}  # dollars a million
    chosen = Settings("sim", optimizer=WANDER, budget=budget, seed=seed, concurrency=concurrency, out=folder)
    by_role = dict.fromkeys(("task", "optimizer", "judge"), options)
    return make_plan(TASK, replace(chosen, model_options=by_role, proof_examples=4))


def execute(plan: Plan, endpoint: Endpoint) -> tuple[Result, float]:
    """Run a plan on a clock that jumps; return its result and the seconds that would have passed."""
    with asyncio.Runner(loop_factory=JumpingClock) as runner:
        loop: Any = runner.get_loop()
        clock = SimpleNamespace(monotonic=loop.time)
        with mock.patch.object(gateway, "time", clock), mock.patch.object(run, "time", clock), time_limit(60):
            result = runner.run(run.Run(plan, transports={"sim": endpoint}).execute())
        return result, loop.time()


def check_kept(budget: Budget, endpoint: Endpoint, result: Result, seconds: float, concurrency: int) -> None:
    """Require every limit, as the endpoint counts."""
    assert endpoint.most_in_flight <= concurrency
    assert budget.calls is None or len(endpoint.given) <= budget.calls
    assert budget.tokens is None or endpoint.tokens <= budget.tokens
    assert budget.usd is None or endpoint.usd <= Decimal(str(budget.usd))
    assert budget.seconds is None or seconds <= budget.seconds + LATE_S
    assert result.spend.calls <= len(endpoint.given)
    assert result.spend.attempts == endpoint.n_sent


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    """Draw one limit or several; each may be the one that ends the run."""
    limits: dict[str, Any] = {
        "calls": st.integers(40, 300),
        "tokens": st.integers(60_000, 300_000),
        "usd": st.decimals("0.06", "0.3", places=4),
        "seconds": st.integers(1, 200),
    }
    names = draw(st.lists(st.sampled_from(sorted(limits)), min_size=1, max_size=3, unique=True))
    if names == ["seconds"]:
        names.append("calls")
    return Budget(**{name: draw(limits[name]) for name in names})


endpoints = st.builds(
    Endpoint,
    seed=st.integers(0, 10**6),
    lie=st.sampled_from(sorted(LIES)),
    fails=st.sampled_from([0.0, 0.2, 0.9]),
    hangs=st.sampled_from([0.0, 0.05]),
)
greedy = st.builds(
    Endpoint,
    seed=st.integers(0, 10**6),
    excess=st.sampled_from(sorted(EXCESS.values())),
    n_honest=st.integers(0, 40),
)
concurrencies = st.sampled_from([1, 2, 16, 128])


def check_any(budget: Budget, endpoint: Endpoint, seed: int, concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = plan_of(Path(folder) / "run", budget, seed, concurrency)
        except errors.ConfigError:
            return  # the budget is too small for a search
        result, seconds = execute(plan, endpoint)
    check_kept(budget, endpoint, result, seconds, plan.concurrency)
    if "failed" not in result.status:
        assert result.status in ("completed", "budget_exhausted")


def check_greedy(budget: Budget, endpoint: Endpoint, seed: int, concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = plan_of(Path(folder) / "run", budget, seed, concurrency)
        except errors.ConfigError:
            return
        result, _ = execute(plan, endpoint)
    if endpoint.n_done_at_report is None:
        return  # the run ended before
    assert result.status == "failed"
    assert f"{endpoint.excess} tokens" in result.reason
    assert "more than was reserved" in result.reason
    assert endpoint.n_sent <= endpoint.n_done_at_report + plan.concurrency - 1, "calls were sent after the report"
    tokens = result.spend.input_tokens + result.spend.output_tokens
    over = tokens - (budget.tokens or tokens)
    assert (f"in all {over} tokens" in result.reason) == (over > 0)


drawn = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
at_length = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
any_case = given(budgets(), endpoints, st.integers(0, 10**6), concurrencies)
greedy_case = given(
    st.builds(Budget, tokens=st.integers(60_000, 300_000), calls=st.sampled_from([None, 200])),
    greedy,
    st.integers(0, 10**6),
    concurrencies,
)


@pytest.mark.parametrize("usage", [None, Usage(0, 0), Usage(0, 5), Usage(-5, 5), Usage(5, -5)])
def test_usage_that_cannot_be_counts_as_the_worst_case(usage: Usage | None) -> None:
    worst = Amount(1, 100, Decimal("0.5"))
    told = None if usage is None else Decimal(0)
    assert actual_amount(Response("red", usage, told), worst) == worst
    assert actual_amount(Response("red", Usage(5, 0), Decimal(0)), worst) == Amount(1, 5)


@drawn
@any_case
def test_no_limit_is_broken(budget: Budget, endpoint: Endpoint, seed: int, concurrency: int) -> None:
    check_any(budget, endpoint, seed, concurrency)


@drawn
@greedy_case
def test_report_above_what_was_reserved_is_the_last(
    budget: Budget, endpoint: Endpoint, seed: int, concurrency: int
) -> None:
    check_greedy(budget, endpoint, seed, concurrency)


@pytest.mark.soak
@at_length
@any_case
def test_no_limit_is_broken_at_length(budget: Budget, endpoint: Endpoint, seed: int, concurrency: int) -> None:
    check_any(budget, endpoint, seed, concurrency)


@pytest.mark.soak
@at_length
@greedy_case
def test_report_above_what_was_reserved_is_the_last_at_length(
    budget: Budget, endpoint: Endpoint, seed: int, concurrency: int
) -> None:
    check_greedy(budget, endpoint, seed, concurrency)
