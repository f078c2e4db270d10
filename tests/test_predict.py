"""A task with a predict function of its own: journaled, within the budget, the same at any concurrency."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, make_task, model, noise

from promptopt.asking import Cell, RunState
from promptopt.config import Settings
from promptopt.errors import BudgetExhausted, ContextTooLong, Interrupted, ServerFailed
from promptopt.evaluation import fill_cells
from promptopt.gate import Gate
from promptopt.gateway import Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease, Stop, limit_of
from promptopt.plan import make_plan
from promptopt.providers import ModelSpec
from promptopt.result import Result
from promptopt.run import Run
from promptopt.testing import outcome
from promptopt.types import Budget, Candidate, Example, Prompt, Request, Response, Usage

AT_ONCE = RetryPolicy(6, 0, 0)
# Without a proof: its reserve counts one call a cell, and these functions make several.
SETTINGS = Settings(model="sim", budget=Budget(calls=400), optimizer="capo", seed=2, proof_examples=0)

Predict = Callable[[Prompt, Example, Any], Any]


def ask(prompt: Prompt, example: Example, hint: str = "") -> list[dict[str, str]]:
    system = {"role": "system", "content": prompt.instruction + hint}
    return [system, {"role": "user", "content": example.inputs["input"]}]


async def twice(prompt: Prompt, example: Example, call: Any) -> str:
    """Draft, then look again: two calls, the second of which depends on the first."""
    draft = await call(ask(prompt, example))
    final = await call(ask(prompt, example, f"\nDraft: {draft.text}"))
    return str(final.text)


def twice_sync(prompt: Prompt, example: Example, call: Any) -> str:
    draft = call(ask(prompt, example))
    return str(call(ask(prompt, example, f"\nDraft: {draft.text}")).text)


async def gathering(prompt: Prompt, example: Example, call: Any) -> str:
    """Three votes at once."""
    votes = await asyncio.gather(*(call(ask(prompt, example, f"\nVoter {i}.")) for i in range(3)))
    return max((vote.text for vote in votes), key=lambda text: noise(text, prompt.id))


def execute(
    folder: Path, predict: Predict, *, transport: Scripted | None = None, settings: Settings = SETTINGS
) -> tuple[Result, Scripted]:
    transport = transport or Scripted(model)
    plan = make_plan(replace(make_task(), predict=predict), replace(settings, out=folder))

    async def run() -> Result:
        async with asyncio.timeout(20):
            return await Run(plan, transports={"sim": transport}, retry=AT_ONCE).execute()

    return asyncio.run(run()), transport


def fill(
    predict: Predict,
    limit: Amount,
    *,
    n: int = 10,
    transport: Any = None,
    stop: Stop | None = None,
    n_times: int = 1,
    check: Callable[[RunState, Lease], None] = lambda state, lease: None,
) -> list[Cell | None]:
    """Return the cells of the initial prompt on `n` examples, within `limit`."""
    task = replace(make_task(), predict=predict)
    stop = stop or Stop()

    async def run() -> list[Cell | None]:
        with Journal(None) as journal:
            transports = {"": transport or Scripted(model)}
            gateway = Gateway(journal, transports, retry=AT_ONCE, stop=stop)
            spec = ModelSpec("m")
            models: Any = {"task": spec, "optimizer": spec, "judge": spec}
            state = RunState(task, models, gateway, journal, Gate(task, 2000), 0, limit)
            lease = Lease(limit, stop)
            pairs = [(Candidate(task.initial), example) for example in task.dev[:n]]
            try:
                async with asyncio.timeout(10):
                    for _ in range(n_times):
                        cells = await fill_cells(state, lease, "", pairs)
            finally:
                assert lease.is_idle()
                assert lease.spent.fits(limit)
                check(state, lease)
            return cells

    return asyncio.run(run())


# Whole runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("predict", [twice, twice_sync, gathering], ids=["async", "sync", "gathering"])
def test_run_is_the_same_at_any_concurrency_and_is_journaled(tmp_path: Path, predict: Predict) -> None:
    alone = replace(SETTINGS, concurrency=1)
    result, first = execute(tmp_path / "alone", predict, settings=alone)
    assert result.status in ("completed", "budget_exhausted")
    assert result.spend.calls == len(first.requests) <= 400
    expected = outcome(tmp_path / "alone")
    for i in range(2):
        many = replace(SETTINGS, concurrency=64)
        execute(tmp_path / str(i), predict, transport=Scripted(model, latency_seed=i), settings=many)
        assert outcome(tmp_path / str(i)) == expected
    again, second = execute(tmp_path / "alone", predict, settings=alone)
    assert second.requests == []
    assert outcome(tmp_path / "alone") == expected
    assert again.best.prompt == result.best.prompt


def test_sync_and_async_functions_are_one(tmp_path: Path) -> None:
    execute(tmp_path / "async", twice)
    execute(tmp_path / "sync", twice_sync)
    assert outcome(tmp_path / "async") == outcome(tmp_path / "sync")


def test_exception_ends_the_run_with_the_examples_id(tmp_path: Path) -> None:
    def broken(prompt: Prompt, example: Example, call: Any) -> str:
        if example.id == "dev-103":
            raise KeyError("oops")
        return str(call(ask(prompt, example)).text)

    result, _ = execute(tmp_path, broken, settings=replace(SETTINGS, optimizer="random"))
    assert result.status == "failed"
    assert result.reason == "predict raised on example 'dev-103': KeyError: 'oops'"


@pytest.mark.parametrize("reply", [None, 3, b"red", Response("red", None, None)])
def test_reply_that_is_no_text_ends_the_run(tmp_path: Path, reply: Any) -> None:
    async def odd(prompt: Prompt, example: Example, call: Any) -> Any:
        return reply

    result, _ = execute(tmp_path, odd)
    assert result.status == "failed"
    assert f"predict returned {type(reply).__name__} on example " in result.reason
    assert "must return the reply as str" in result.reason


# Cells -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predict", [twice, twice_sync], ids=["async", "sync"])
def test_calls_of_a_cell_are_paid_once(predict: Predict) -> None:
    transport = Scripted(model)

    def check(state: RunState, lease: Lease) -> None:
        assert lease.spent.calls == len(transport.requests) == 20
        assert state.tallies["task", "search"].calls == 20

    cells = fill(predict, limit_of(None, 100, None), transport=transport, n_times=2, check=check)
    assert None not in cells


@pytest.mark.parametrize("predict", [twice, twice_sync, gathering], ids=["async", "sync", "gathering"])
@pytest.mark.parametrize("n_calls", [20, 27, 39])
def test_spent_budget_is_no_score(predict: Predict, n_calls: int) -> None:
    transport = Scripted(model)

    def check(state: RunState, lease: Lease) -> None:
        assert state.cells == {}
        assert lease.spent.calls == len(transport.requests)

    with pytest.raises(BudgetExhausted):
        fill(predict, limit_of(None, n_calls, None), n=20, transport=transport, check=check)
    assert len(transport.requests) == n_calls


def test_nothing_is_spent_where_the_number_of_calls_alone_does_not_fit() -> None:
    transport = Scripted(model)
    with pytest.raises(BudgetExhausted, match="20 calls needed, 19 left"):
        fill(twice, limit_of(None, 19, None), n=20, transport=transport, check=lambda state, lease: None)
    assert transport.requests == []


def test_spent_budget_is_no_score_even_if_the_function_swallows_it() -> None:
    async def careless(prompt: Prompt, example: Example, call: Any) -> str:
        try:
            return await twice(prompt, example, call)
        except Exception:  # noqa: BLE001  # what users write
            return "red"

    def check(state: RunState, lease: Lease) -> None:
        assert state.cells == {}

    with pytest.raises(BudgetExhausted):
        fill(careless, limit_of(None, 7, None), check=check)


def test_functions_that_wait_for_money_keep_none_from_starting() -> None:
    """More sync functions than any pool has threads, none of which can go on before all have asked."""
    started: set[int] = set()

    def greedy(prompt: Prompt, example: Example, call: Any) -> str:
        started.add(threading.get_ident())
        return str(call(ask(prompt, example)).text)

    # a share of the tokens does not pay for a call; in turn, they pay for all of them
    transport = Scripted(model, usage=Usage(1, 1))
    cells = fill(greedy, limit_of(None, 100, 1400), n=20, transport=transport)
    assert None not in cells
    assert len(transport.requests) == 20


def test_calls_left_behind_by_a_function_are_awaited_and_paid() -> None:
    async def hasty(prompt: Prompt, example: Example, call: Any) -> str:
        tasks.extend(asyncio.ensure_future(call(ask(prompt, example, f" {i}"))) for i in range(3))
        return str((await tasks[-1]).text)

    tasks: list[asyncio.Future[Response]] = []
    transport = Scripted(model, latency_seed=1)

    def check(state: RunState, lease: Lease) -> None:
        assert lease.spent.calls == len(transport.requests) == 30

    fill(hasty, limit_of(None, 100, None), transport=transport, check=check)
    assert all(task.done() for task in tasks)


def test_too_long_for_the_context_scores_nothing_with_the_cause() -> None:
    class Short(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Response:
            if request.messages[-1].content.endswith("4"):
                raise ContextTooLong("too long")
            return await super().send(request, timeout_s)

    cells = fill(twice, limit_of(None, 100, None), transport=Short(model))
    assert [cell is not None and cell.cause for cell in cells].count("ContextTooLong: too long") == 1
    assert [cell.score.value for cell in cells if cell is not None and cell.cause] == [0.0]


def test_failed_call_leaves_the_cell_missing_and_passing_ones_do_not() -> None:
    class Flaky(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Response:
            self.n = getattr(self, "n", 0) + 1
            is_down = request.messages[-1].content.endswith("4")
            if is_down or self.n % 3 == 0:
                raise ServerFailed("down")
            return await super().send(request, timeout_s)

    cells = fill(twice, limit_of(None, 100, None), transport=Flaky(model))
    assert [cell is None for cell in cells] == [False] * 4 + [True] + [False] * 5


@pytest.mark.parametrize("predict", [twice, twice_sync, gathering], ids=["async", "sync", "gathering"])
def test_interruption_reaches_every_function(predict: Predict) -> None:
    stop = Stop()

    class Stopping(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Response:
            if len(self.requests) == 5:
                stop.set()
            return await super().send(request, timeout_s)

    transport = Stopping(model, cost_usd=Decimal(0))
    with pytest.raises(Interrupted):
        fill(predict, limit_of(None, 100, None), transport=transport, stop=stop)
    assert len(transport.requests) < 20


def test_proof_of_a_function_with_several_calls_is_reserved(tmp_path: Path) -> None:
    task = replace(make_task(), predict=twice, calls_per_example=2)
    settings = Settings(model="sim", optimizer="random", budget=Budget(calls=400), out=tmp_path)
    run = Run(make_plan(task, settings), transports={"sim": Scripted(model)})
    result = asyncio.run(run.execute())
    assert result.status == "budget_exhausted"
    assert result.improvement is not None
    assert result.spend.calls <= 400
