"""Promises that were once broken: each test is named for what a user was told."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from commandline import SUPPORT
from scripted import LABELS, Scripted, make_run, make_study, make_task, model, noise

import promptopt
from promptopt import promptfile
from promptopt.api import read_task
from promptopt.config import Settings
from promptopt.errors import ConfigError, ContentRefused, RateLimited
from promptopt.gateway import RetryPolicy
from promptopt.plan import make_plan
from promptopt.run import Run
from promptopt.task import Task
from promptopt.testing import outcome
from promptopt.types import Budget, Candidate, Prompt, Request

ONCE = RetryPolicy(n_attempts=1, first_wait_s=0.0)


def right(request: Request) -> str:
    return LABELS[int(request.messages[-1].content.split()[-1]) % 3]


def paid(folder: Path) -> tuple[int, Decimal]:
    """Return answers and dollars that the journal holds, used or not."""
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        rows = db.execute("SELECT cost_usd FROM answers").fetchall()
    return len(rows), sum((Decimal(cost) for (cost,) in rows), Decimal(0))


@pytest.mark.parametrize("optimizer", ["capo", "random"])
def test_a_budget_raised_again_and_again_holds_over_all_that_was_paid(tmp_path: Path, optimizer: str) -> None:
    for calls in (160, 170, 300, 310, 450):
        settings = Settings(model="sim", optimizer=optimizer, budget=Budget(calls=calls), seed=5)
        result = asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
        n_paid, usd = paid(tmp_path)
        assert result.spend.calls == n_paid <= calls
        assert result.spend.cost_usd == usd


def test_a_raised_budget_resumes_like_any_other(tmp_path: Path) -> None:
    small = Settings(model="sim", budget=Budget(calls=160), seed=5)
    large = replace(small, budget=Budget(calls=300))
    asyncio.run(make_run(tmp_path, Scripted(model), settings=small).execute())
    asyncio.run(make_run(tmp_path, Scripted(model), settings=large).execute())
    expected, again = outcome(tmp_path), Scripted(model)
    asyncio.run(make_run(tmp_path, again, settings=large).execute())
    assert again.requests == []
    assert outcome(tmp_path) == expected


class Flaky(Scripted):
    """Fails a share of the task calls for good, as long as `is_down`."""

    is_down = True

    async def send(self, request: Request, timeout_s: float) -> Any:
        is_task = "</prompt>" not in request.messages[-1].content
        if self.is_down and is_task and noise("flaky", request.digest) < 0.02:
            raise RateLimited("429")
        return await super().send(request, timeout_s)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_went_on_without_some_answers_can_be_repeated(tmp_path: Path, seed: int) -> None:
    settings = Settings(model="sim", optimizer="capo", budget=Budget(calls=250), seed=seed, out=tmp_path)
    plan = make_plan(make_task(n_dev=40), settings)
    result = asyncio.run(Run(plan, transports={"sim": Flaky(model)}, retry=ONCE).execute())
    assert result.status == "budget_exhausted"
    assert result.missing > 0
    expected = outcome(tmp_path)
    well = Flaky(model)
    well.is_down = False
    asyncio.run(Run(plan, transports={"sim": well}, retry=ONCE).execute())
    assert well.requests == []
    assert {**outcome(tmp_path), "missing": 0} == {**expected, "missing": 0}


def test_a_request_refused_once_is_not_asked_again() -> None:
    asked: list[str] = []

    class Picky(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Any:
            if request.messages[-1].content.endswith("103"):
                asked.append(request.digest)
                raise ContentRefused("filtered")
            return await super().send(request, timeout_s)

    study, _ = make_study(Picky(right))
    twins = replace(study.task.dev[4], id="twin", inputs=study.task.dev[3].inputs)

    async def work() -> Any:
        await study.evaluate([Candidate(Prompt("Name it."))], study.task.dev)
        return await study.evaluate([Candidate(Prompt("Name it."))], [twins])

    assert asyncio.run(work()).values[0, 0] == 0
    assert len(asked) == 1


def test_a_failed_call_is_missing_even_if_predict_swallows_it(tmp_path: Path) -> None:
    async def predict(prompt: Prompt, example: Any, call: Any) -> str:
        try:
            return str((await call(f"{prompt.instruction} {example.inputs['input']}")).text)
        except Exception:  # noqa: BLE001  # what a user may write
            return ""

    class Down(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Any:
            raise RateLimited("429")

    task = replace(make_task(), predict=predict)
    settings = Settings(model="sim", optimizer="random", budget=Budget(calls=200), out=tmp_path)
    run = Run(make_plan(task, settings), transports={"sim": Down(right)}, retry=ONCE)
    result = asyncio.run(run.execute())
    assert result.status == "failed"
    assert result.initial.dev is None


def test_dollars_limit_nothing_where_every_price_is_zero() -> None:
    settings = Settings(model="sim", budget=Budget(usd=1), price_in=0, price_out=0)
    with pytest.raises(ConfigError, match="limits nothing; add --budget-calls"):
        make_plan(make_task(), settings)


def test_a_folder_with_other_files_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "best.md").write_text("precious")
    settings = Settings(model="sim", budget=Budget(calls=200))
    with pytest.raises(ConfigError, match=r"is not empty \(best\.md\) and holds no run"):
        asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
    assert (tmp_path / "best.md").read_text() == "precious"


def test_time_limits_do_not_make_concurrency_matter(tmp_path: Path) -> None:
    sizes = {
        make_plan(make_task(), Settings("sim", budget=Budget(calls=3000, seconds=60), concurrency=n)).search_calls
        for n in (1, 64)
    }
    assert len(sizes) == 1


def test_a_judge_that_no_strategy_calls_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    plan = make_plan(make_task(), Settings("sim", judge_model="openai/gpt-4o-mini", budget=Budget(calls=300)))
    assert set(plan.models) == {"task", "optimizer"}


@pytest.mark.parametrize("latency_seed", range(8))
def test_ties_in_races_are_not_decided_by_latency(latency_seed: int) -> None:
    from promptopt.study import Study

    async def write(branch: Study, i: int) -> Candidate:
        await branch.generate("write")
        candidate = Candidate(Prompt(f"Name the colour {i}."))
        await branch.evaluate([candidate], branch.task.dev[:1])
        return candidate

    def reply(request: Request) -> str:
        return "text" if request.sample else right(request)

    study, _ = make_study(Scripted(reply, latency_seed=latency_seed))

    async def work() -> Any:
        return await study.race(await study.map(write, range(6)), keep=1)

    assert asyncio.run(work()).candidates[0].prompt.instruction == "Name the colour 0."


def candidates(folder: Path) -> list[str]:
    """Return the ids of a run's candidates in the order of their birth."""
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        return [row[0] for row in db.execute("SELECT candidate_id FROM candidates ORDER BY birth")]


@pytest.mark.parametrize("calls", [410, 450, 600, 900])
@pytest.mark.parametrize("optimizer", ["capo", "random", "promptagent"])
def test_a_raised_budget_goes_on_from_what_was_found(tmp_path: Path, optimizer: str, calls: int) -> None:
    """The former search is gone through again, for nothing, up to where its budget ended; then it goes on."""
    given: dict[str, Any] = {"model": "sim", "optimizer": optimizer, "seed": 1}
    first = promptopt.optimize(SUPPORT, "support", budget=Budget(calls=400), out=tmp_path / "here", **given)
    tried = candidates(tmp_path / "here")
    raised = promptopt.optimize(SUPPORT, "support", budget=Budget(calls=calls), out=tmp_path / "here", **given)
    n_same = len(tried) - 3  # in its last round, the first search had no calls left for some
    assert candidates(tmp_path / "here")[:n_same] == tried[:n_same]
    assert promptfile.parse(first.best.prompt).prompt.id in candidates(tmp_path / "here")
    assert raised.proposals["accepted"] >= first.proposals["accepted"] > 0
    assert raised.proposals["tried"] >= first.proposals["tried"]
    n_paid, usd = paid(tmp_path / "here")
    assert (raised.spend.calls, raised.spend.cost_usd) == (n_paid, usd)
    assert first.spend.calls <= n_paid <= calls
    assert raised.improvement is not None
    assert raised.improvement.verdict == "proven"


@pytest.mark.parametrize("calls", [410, 450, 600])
def test_a_raised_budget_goes_on_where_a_function_predicts(tmp_path: Path, calls: int) -> None:
    """Of such cells it is not known beforehand which calls they make; those of the former search are paid."""
    task = read_task(SUPPORT, "support", 0).task

    async def predict(prompt: Prompt, example: Any, call: Any) -> str:
        messages = [{"role": m.role, "content": m.content} for m in task.render(prompt, example)]
        return str((await call(messages)).text)

    check_raised(tmp_path, replace(task, predict=predict), 400, calls)


@pytest.mark.parametrize("calls", [810, 900, 1200])
def test_a_raised_budget_goes_on_where_a_judge_gives_the_scores(tmp_path: Path, calls: int) -> None:
    rubric = tmp_path / "rubric.md"
    rubric.write_text("- The reply is the right label.\n- The reply is short.\n")
    task = read_task(SUPPORT, "support", 0, metric=f"judge:{rubric}").task
    check_raised(tmp_path / "out", task, 800, calls)


def check_raised(folder: Path, task: Task, first_calls: int, calls: int) -> None:
    given: dict[str, Any] = {"model": "sim", "optimizer": "random", "seed": 1, "out": folder}
    assert task.initial is not None
    first = promptopt.optimize(task.initial, task, budget=Budget(calls=first_calls), **given)
    raised = promptopt.optimize(task.initial, task, budget=Budget(calls=calls), **given)
    assert raised.proposals["accepted"] >= first.proposals["accepted"] > 0
    assert raised.proposals["tried"] >= first.proposals["tried"]
    n_paid, usd = paid(folder)
    assert (raised.spend.calls, raised.spend.cost_usd) == (n_paid, usd)
    assert first.spend.calls <= n_paid <= calls
    assert raised.improvement is not None
