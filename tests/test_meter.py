"""What a run says of its own progress: counts that are those of the result, projections within the limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest
from scripted import Scripted, make_run, make_task, model

from promptopt import run as runs
from promptopt.asking import Tally
from promptopt.config import Settings
from promptopt.gateway import Call
from promptopt.meter import Meter
from promptopt.plan import make_plan
from promptopt.progress import Progress
from promptopt.run import Run
from promptopt.types import Budget, Candidate, Message, Prompt, Request, Response, Usage


@contextmanager
def told_after_each_call(run: Run, transport: Scripted) -> Iterator[list[Progress]]:
    """Yield what the run tells, once before each of its live calls."""
    told: list[Progress] = []

    def tell(_: Request) -> None:
        assert run.state is not None
        run._tell(run.state)
        assert run.progress is not None
        told.append(run.progress)

    transport.on_request = tell
    yield told


def finished(folder: Path, settings: Settings) -> tuple[Run, list[Progress], dict[str, object]]:
    transport = Scripted(model)
    run = make_run(folder, transport, settings=settings)
    with told_after_each_call(run, transport) as told:
        result = asyncio.run(run.execute())
    return run, told, json.loads(result.to_json())


def test_the_last_record_says_what_the_result_says(tmp_path: Path) -> None:
    run, told, result = finished(tmp_path, Settings("sim", optimizer="capo", budget=Budget(calls=300, usd=5)))
    last = run.progress
    assert last is not None
    assert last.stage == "ended"
    spend, best, initial = result["spend"], result["best"], result["initial"]
    assert isinstance(spend, dict)
    assert isinstance(best, dict)
    assert isinstance(initial, dict)
    assert last.use("calls").spent == spend["calls"] == 300
    assert last.use("usd").spent == pytest.approx(spend["cost_usd"])
    assert last.use("tokens").spent == spend["input_tokens"] + spend["output_tokens"]
    assert last.best is not None
    assert (last.best.score, last.best.n) == (best["dev"]["score"], best["dev"]["n"])
    assert last.best.ci95 == tuple(best["dev"]["ci95"]), "of 0/1 scores"
    assert last.initial is not None
    assert last.initial.n <= last.best.n
    assert (last.n_tried, last.n_accepted) == tuple(result["proposals"].values())  # type: ignore[attr-defined]
    assert not last.races
    assert {record.stage for record in told} == {"search", "proof"}


def test_answers_count_before_their_batch_is_complete(tmp_path: Path) -> None:
    _, told, _ = finished(tmp_path, Settings("sim", optimizer="capo", budget=Budget(calls=300), concurrency=1))
    calls = [record.use("calls").spent for record in told]
    assert calls == list(range(300)), "each answer counts once, as soon as it is there"


def test_projections_stay_within_the_limits_and_reach_them(tmp_path: Path) -> None:
    run, told, _ = finished(tmp_path, Settings("sim", optimizer="capo", budget=Budget(calls=300)))
    plan = run.plan
    most = plan.limit.minus(plan.proof_reserve).calls
    searching = [record.use("calls") for record in told if record.stage == "search"]
    assert searching
    for use in searching:
        assert use.spent is not None
        assert use.projected is not None
        assert use.spent <= use.projected <= most
    proving = [record.use("calls").projected for record in told if record.stage == "proof"]
    assert max(proving, default=0) <= 300  # type: ignore[type-var]


def test_races_are_told_while_they_last(tmp_path: Path) -> None:
    _, told, _ = finished(tmp_path, Settings("sim", optimizer="capo", budget=Budget(calls=300)))
    races = [race for record in told for race in record.races]
    assert races
    for race in races:
        assert race.keep < race.n_arms
        assert race.keep <= race.alive <= race.n_arms
        assert 0 <= race.n_seen <= race.n_items <= 20
    assert any(race.n_seen for race in races)
    assert any(not record.races for record in told)


def answer(n: int) -> tuple[Call, Response]:
    request = Request("sim", (Message("user", str(n)),), 10)
    call = Call(request, bytes.fromhex(request.digest), "task", "search", 60.0)
    return call, Response("x", Usage(100, 20), Decimal("0.001"))


def metered(budget: Budget, n_calls: int = 0) -> tuple[Meter, Run]:
    plan = make_plan(make_task(), Settings("sim", optimizer="capo", budget=budget))
    run = Run(plan, transports={"sim": Scripted(model)})
    run.state = run._make_state(runs.Journal(None))
    meter = Meter(plan, 0.0)
    for n in range(n_calls):
        meter.note(*answer(n))
    return meter, run


def sampled(meter: Meter, run: Run, elapsed_s: float) -> Progress:
    assert run.state is not None
    return meter.sample(run.state, "search", elapsed_s, None, is_stopping=False)


def test_speed_and_time_left_are_unknown_at_first_and_where_nothing_comes() -> None:
    meter, run = metered(Budget(calls=1000))
    first = sampled(meter, run, 0.5)
    assert (first.calls_per_s, first.left_s) == (None, None)
    for n in range(40):
        meter.note(*answer(n))
    early = sampled(meter, run, 2.5)
    assert early.calls_per_s == pytest.approx(20)
    assert early.left_s is None, "seen for too short a time"
    later = sampled(meter, run, 10.5)
    assert later.calls_per_s == pytest.approx(4)
    assert later.left_s is not None
    low, high = later.left_s
    expected = sum(part.calls for part in run.plan.forecast.parts)
    assert low <= (expected - 40) / 4 <= high
    silent = sampled(meter, run, 41.0)
    assert silent.calls_per_s == 0
    assert silent.left_s is None
    assert sampled(meter, run, 42.0).use("calls").spent == 40


def test_the_window_forgets_what_is_long_ago() -> None:
    meter, run = metered(Budget(calls=10_000))
    n = 0
    for second in range(1, 101):
        for _ in range(10 if second <= 50 else 1):
            meter.note(*answer(n))
            n += 1
        progress = sampled(meter, run, float(second))
    assert progress.calls_per_s == pytest.approx(1)
    assert len(meter._samples) <= 32, "memory does not grow with the run"


def test_time_left_ends_with_the_budget_of_seconds() -> None:
    meter, run = metered(Budget(calls=10**6, seconds=60), 30)
    sampled(meter, run, 1.0)
    sampled(meter, run, 40.0)
    meter.note(*answer(30))
    progress = sampled(meter, run, 50.0)
    assert progress.left_s is not None
    assert max(progress.left_s) <= 10
    seconds = progress.use("seconds")
    assert seconds.projected is not None
    assert seconds.projected <= 60


def test_dollars_are_projected_by_what_answers_cost() -> None:
    meter, run = metered(Budget(usd=1), 400)
    usd = sampled(meter, run, 1.0).use("usd")
    assert usd.spent == pytest.approx(0.4)
    assert usd.projected is not None
    limit = float(run.plan.limit.minus(run.plan.proof_reserve).usd)
    assert 0.4 <= usd.projected <= limit + 0.001
    unpriced, other = metered(Budget(calls=300))
    assert other.state is not None
    other.state.tallies["task", "search"] = Tally(calls=1, cost_usd=None)
    assert sampled(unpriced, other, 1.0).use("usd").spent is None


def test_the_initial_prompt_stands_on_the_same_examples(tmp_path: Path) -> None:
    run, _, _ = finished(tmp_path, Settings("sim", optimizer="capo", budget=Budget(calls=300)))
    state = run.state
    assert state is not None
    other = Candidate(Prompt("Another."))
    initial = run.plan.task.initial.id
    for i, example in enumerate(run.plan.task.dev[:7]):
        cell = state.cells[initial, example.id]
        state.cells[other.id, example.id] = replace(cell, score=replace(cell.score, value=float(i < 4)))
    found = Meter(run.plan, 0.0).sample(state, "search", 1.0, other, is_stopping=False)
    assert found.best is not None
    assert found.initial is not None
    assert (found.best.n, found.initial.n) == (7, 7)
    assert found.best.score == pytest.approx(4 / 7)
    assert not found.is_initial_best


def test_an_error_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, Scripted(model))
    with mock.patch.object(Run, "_search", side_effect=RuntimeError("no")), pytest.raises(RuntimeError):
        asyncio.run(run.execute())
    assert run.progress is not None
    assert run.progress.stage == "stopped"


def test_records_are_plain_json() -> None:
    meter, run = metered(Budget(calls=300, tokens=10**6, usd=1, seconds=60), 30)
    for second in range(1, 20):
        text = json.dumps(asdict(sampled(meter, run, float(second))), allow_nan=False)
    assert len(text) < 2000
