"""Scores by a judge model: asked after the answer, within the budget, resumable, never a 0 for a failure."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from climb import CLIMB
from rated import is_rating, judge, rated_task, ratings, rubric, shown_reply, verdicts, world
from scripted import LABELS, Scripted, make_run, make_task, model, noise
from started import again, calls_of, drive, start

from promptopt.asking import RunState
from promptopt.config import Settings
from promptopt.errors import (
    BudgetExhausted,
    ConfigError,
    ContextTooLong,
    RatingUnread,
    ServerFailed,
    TaskError,
    TooManyMissing,
)
from promptopt.ledger import Amount, Lease, limit_of
from promptopt.plan import make_plan
from promptopt.providers import ModelSpec, closing
from promptopt.rating import rater, worst_rating
from promptopt.scoring import Evaluating
from promptopt.study import SearchSize, Study
from promptopt.testing import Snapshots, answered, outcome
from promptopt.types import Budget, Candidate, Example, Prompt, Request, Response, Score

TASK = ModelSpec("sim")
JUDGE = ModelSpec("sim", temperature=0.3)
SETTINGS = Settings(model="sim", budget=Budget(calls=320), optimizer="capo", seed=3)
OTHER = Candidate(Prompt("Say the colour in a sentence."))


def started(reply: Callable[[Request], str], **more: Any) -> tuple[Study, RunState, Scripted]:
    transport = Scripted(reply)
    study, state = start(transport, task=rated_task(), model=TASK, judge=JUDGE, **more)
    return study, state, transport


def right(request: Request) -> str:
    return LABELS[int(request.messages[-1].content.split()[-1]) % 3]


# Cells ----------------------------------------------------------------------------------------------


def test_a_cell_is_an_answer_and_its_rating() -> None:
    replies = {100: "green", 101: "a blue", 102: "red"}  # right: green, blue, red

    def play(request: Request) -> str:
        return judge(request) if is_rating(request) else replies[int(request.messages[-1].content.split()[-1])]

    study, state, transport = started(play)
    table = drive(study.evaluate([study.initial], state.task.dev[:3]))
    assert table.values.tolist() == [[1.0, 0.75, 1.0]]
    assert table.feedback == ((None, "The reply is one word: partly", None),)
    assert (calls_of(state, "task"), calls_of(state, "judge")) == (3, 3)
    assert [request.temperature for request in ratings(transport)] == [0.0] * 3
    assert drive(study.evaluate([study.initial], state.task.dev[:3])).values.tolist() == table.values.tolist()
    assert len(transport.requests) == 6


def test_the_judge_sees_inputs_reply_and_target_and_nothing_of_the_prompt() -> None:
    study, state, transport = started(lambda r: judge(r) if is_rating(r) else right(r))
    drive(study.evaluate([Candidate(Prompt("SECRET words of the prompt."))], state.task.dev[:2]))
    for request, example in zip(ratings(transport), state.task.dev, strict=False):
        text = "".join(message.content for message in request.messages)
        assert "SECRET" not in text
        assert f"\n{example.inputs['input']}\n" in text
        assert f"\n{example.target}\n" in text


def test_equal_replies_to_an_example_are_rated_once() -> None:
    study, state, transport = started(lambda r: judge(r) if is_rating(r) else right(r))
    drive(study.evaluate([study.initial, OTHER], state.task.dev[:4]))
    assert len(transport.requests) == 8 + 4
    assert (calls_of(state, "task"), calls_of(state, "judge")) == (8, 4)


def test_a_blank_reply_scores_0_without_a_judge() -> None:
    study, state, transport = started(lambda r: judge(r) if is_rating(r) else " \n")
    table = drive(study.evaluate([study.initial], state.task.dev[:3]))
    assert table.values.tolist() == [[0.0] * 3]
    assert not ratings(transport)
    assert state.n_unparsed == 3


def test_a_spoiled_request_scores_0_without_a_judge() -> None:
    def refuse(request: Request) -> None:
        if not is_rating(request):
            raise ContextTooLong("too long")

    study, state, transport = started(world)
    transport.on_request = refuse
    assert drive(study.evaluate([study.initial], state.task.dev[:3])).values.tolist() == [[0.0] * 3]
    assert not ratings(transport)


def test_the_metric_of_a_judge_cannot_be_asked_without_one() -> None:
    with pytest.raises(TaskError, match="a judge model scores replies"):
        rubric().score("red", rated_task().dev[0])


def test_a_judged_metric_of_ones_own_keeps_its_word() -> None:
    class Own:
        name = "own"
        rating_request = staticmethod(rubric().rating_request)
        score = staticmethod(rubric().score)

        def read_rating(self, said: str) -> Score:
            return Score(2.0)

    study, state, _ = started(lambda r: judge(r) if is_rating(r) else right(r))
    state.task = replace(state.task, metric=Own())
    with pytest.raises(TaskError, match=r"metric 'own' gave 2\.0 on example 'dev-100'"):
        drive(study.evaluate([study.initial], state.task.dev[:1]))


# What goes wrong ------------------------------------------------------------------------------------


def test_an_unreadable_rating_is_asked_for_once_more() -> None:
    def play(request: Request) -> str:
        if not is_rating(request):
            return right(request)
        return judge(request) if len(request.messages) == 3 else "I would say it is fine."

    study, state, transport = started(play)
    table = drive(study.evaluate([study.initial], state.task.dev[:3]))
    assert table.values.tolist() == [[1.0] * 3]
    assert len(ratings(transport)) == calls_of(state, "judge") == 6
    repair = next(request for request in ratings(transport) if len(request.messages) == 3)
    assert repair.messages[1] == ("assistant", "I would say it is fine.")


def test_a_rating_that_stays_unreadable_is_missing_with_its_cause() -> None:
    def play(request: Request) -> str:
        if not is_rating(request):
            return right(request)
        return "" if "item number 101\n" in request.messages[0].content else judge(request)

    study, state, transport = started(play)
    table = drive(study.evaluate([study.initial], state.task.dev[:5]))
    assert [math.isnan(value) for value in table.values[0]] == [False, True, False, False, False]
    assert len(ratings(transport)) == calls_of(state, "judge") == 6  # asked twice, and in no further round
    assert state.n_missing == 1
    assert next(r for r in ratings(transport) if len(r.messages) == 3).messages[1].content == "(no text)"
    fresh = Scripted(play)
    resumed = again(state, fresh)
    assert drive(resumed.evaluate([study.initial], state.task.dev[:5])).values[0][1] != 0
    assert not fresh.requests
    assert resumed._state.tallies == state.tallies
    with pytest.raises(TooManyMissing, match=r"2 of 2 .* are missing .*RatingUnread: .* example 'dev-100' twice"):
        drive(
            started(lambda r: "so" if is_rating(r) else right(r))[0].evaluate([study.initial], state.task.dev[:2])
        )


def test_a_failing_judge_leaves_gaps_that_a_resumed_run_keeps() -> None:
    def fail(request: Request) -> None:
        if is_rating(request) and "item number 102\n" in request.messages[0].content:
            raise ServerFailed("down")

    study, state, transport = started(lambda r: judge(r) if is_rating(r) else right(r))
    transport.on_request = fail
    table = drive(study.evaluate([study.initial], state.task.dev[:5]))
    assert [math.isnan(value) for value in table.values[0]] == [False, False, True, False, False]
    assert len(ratings(transport)) == 5 + 2  # two more rounds for the gap
    mended = Scripted(transport.reply)
    same = drive(again(state, mended).evaluate([study.initial], state.task.dev[:5]))
    assert same.values[0][2] != same.values[0][2]
    assert not mended.requests


def test_a_judge_that_refuses_a_reply_leaves_it_missing() -> None:
    def refuse(request: Request) -> None:
        if is_rating(request) and "item number 102\n" in request.messages[0].content:
            raise ContextTooLong("too long for the judge")

    study, state, transport = started(lambda r: judge(r) if is_rating(r) else right(r))
    transport.on_request = refuse
    table = drive(study.evaluate([study.initial], state.task.dev[:5]))
    assert math.isnan(table.values[0][2])
    assert len(ratings(transport)) == 5


# Budgets --------------------------------------------------------------------------------------------


def test_a_batch_that_cannot_be_rated_as_well_is_not_begun() -> None:
    study, state, transport = started(world, n_calls=19)
    with pytest.raises(BudgetExhausted, match="20 calls needed, 19 left"):
        drive(study.evaluate([study.initial], state.task.dev[:10]))
    assert not transport.requests


@pytest.mark.parametrize("usd", ["0.03", "0.05", "0.08"])
def test_no_answer_is_paid_for_that_cannot_be_rated(usd: str) -> None:
    spec = replace(TASK, price_in=Decimal("0.000001"), price_out=Decimal("0.00001"))
    study, state, transport = started(lambda r: judge(r) if is_rating(r) else f"{right(r)} {r.digest}")
    state.models = {"task": spec, "judge": replace(spec, temperature=0.3)}
    study = Study(state, Lease(limit_of(Decimal(usd), None, None)), SearchSize(100))
    with pytest.raises(BudgetExhausted):
        drive(study.evaluate([study.initial, OTHER], state.task.dev))
    n_answers = len(transport.requests) - len(ratings(transport))
    assert n_answers == len(ratings(transport))
    assert study._lease.spent.usd <= Decimal(usd)


def test_the_most_that_a_rating_can_take_is_held() -> None:
    task, judge_spec = rated_task(), ModelSpec("sim", max_tokens=50, price_in=Decimal(1), price_out=Decimal(2))
    metric = task.judged
    assert metric is not None
    worst = worst_rating(metric, judge_spec, task.dev[0], max_tokens=10)
    reply = "word " * 10  # five bytes a token
    actual = judge_spec.worst_case(rater(judge_spec).request(metric.rating_request(reply, task.dev[0])))
    assert worst == actual
    assert worst.calls == 1


def test_plans_count_the_ratings() -> None:
    plain, judged = make_plan(make_task(), SETTINGS), make_plan(rated_task(), SETTINGS)
    assert (plain.worst_pair.calls, judged.worst_pair.calls) == (2, 6)  # a rating may need a repair
    assert (plain.proof_reserve.calls, judged.proof_reserve.calls) == (40, 96)
    assert (len(judged.task.test), len(judged.spare_test)) == (16, 4)
    n_ratings = judged.optimizer.forecast(judged.search_calls)["task"]
    assert 220 <= judged.search_calls + n_ratings <= 224  # what the proof leaves
    assert judged.forecast.calls <= 320
    assert judged.models["judge"].name == "sim"
    assert "judge" not in plain.models
    assert any("rates each answer" in note and "no ground truth" in note for note in judged.notes)
    assert judged.forecast.expected_usd is not None
    assert plain.forecast.expected_usd is not None
    more = make_plan(rated_task(), replace(SETTINGS, budget=Budget(usd=Decimal("0.5"))))
    fewer = make_plan(make_task(), replace(SETTINGS, budget=Budget(usd=Decimal("0.5"))))
    assert more.search_calls < fewer.search_calls


def test_a_budget_of_dollars_needs_the_judges_price(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, budget=Budget(usd=1), judge_model="local", api_base="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="no known price for model 'local'"):
        make_plan(rated_task(), settings)
    assert "judge" in make_plan(rated_task(), replace(settings, price_in=1, price_out=1)).models


def test_a_cell_is_free_only_where_its_rating_is_charged_too() -> None:
    study, state, transport = started(lambda r: judge(r) if is_rating(r) else right(r))
    drive(study.evaluate([study.initial], state.task.dev[:1]))
    answer = state.cells[study.initial.id, state.task.dev[0].id].key
    lease = Lease(limit_of(None, 10, None))
    lease.precharge({answer: Amount(calls=1)})
    drive(Study(state, lease, SearchSize(10)).evaluate([study.initial], state.task.dev[:1]))
    assert lease.spent.calls == 2
    assert len(transport.requests) == 2  # the journal has both


def test_answers_left_are_counted_with_their_ratings() -> None:
    study, state, _ = started(lambda r: judge(r) if is_rating(r) else right(r), n_calls=60)
    assert study.remaining_calls == 30
    drive(study.evaluate([study.initial], state.task.dev[:5]))
    assert study.remaining_calls == 25


# Whole runs -----------------------------------------------------------------------------------------


def execute(folder: Path, *, concurrency: int = 16, latency_seed: int | None = None, **more: Any) -> Scripted:
    transport = Scripted(more.pop("reply", world), latency_seed=latency_seed)
    settings = replace(SETTINGS, concurrency=concurrency, **more)
    asyncio.run(closing(make_run(folder, transport, task=rated_task(), settings=settings).execute()))
    return transport


def stubborn(request: Request) -> str:
    """Rate one reply in seven unreadably at first, and one in thirty for good."""
    if is_rating(request):
        mood = noise("mood", request.messages[0].content)
        if mood < 0.03 or (mood < 0.15 and len(request.messages) == 1):
            return "no comment"
    return world(request)


@pytest.mark.parametrize("calls", [289, 297, 311, 340])
@pytest.mark.parametrize("reply", [world, stubborn])
def test_same_result_at_any_concurrency(tmp_path: Path, calls: int, reply: Callable[[Request], str]) -> None:
    budget = Budget(calls=calls)
    execute(tmp_path / "1", concurrency=1, budget=budget, reply=reply)
    expected = outcome(tmp_path / "1")
    assert expected["spend"]["calls"] <= calls
    for concurrency in (2, 16):
        folder = tmp_path / str(concurrency)
        execute(folder, concurrency=concurrency, latency_seed=calls + concurrency, budget=budget, reply=reply)
        assert outcome(folder) == expected
    spend = expected["spend"]["by_role"]
    assert 0 < spend["judge"]["calls"] <= spend["task"]["calls"]
    if reply is world:
        assert expected["improvement"]["test"] in ("exact McNemar", "sign-flip permutation")


def test_repairs_never_cost_the_proof(tmp_path: Path) -> None:
    def hesitate(request: Request) -> str:
        return "hard to say" if is_rating(request) and len(request.messages) == 1 else world(request)

    execute(tmp_path, reply=hesitate)
    assert outcome(tmp_path)["improvement"]["test"] == "sign-flip permutation"


@pytest.mark.parametrize("usd", ["0.40", "0.47"])
def test_same_result_where_dollars_end(tmp_path: Path, usd: str) -> None:
    more = {"price_in": Decimal(1), "price_out": Decimal(4), "budget": Budget(usd=Decimal(usd))}
    for i, concurrency in enumerate((1, 2, 16)):
        execute(tmp_path / str(concurrency), concurrency=concurrency, latency_seed=i, **more)
    found = [outcome(tmp_path / name) for name in ("1", "2", "16")]
    assert found[0] == found[1] == found[2]
    assert 0.5 * float(usd) < found[0]["spend"]["cost_usd"] <= float(usd)


def test_resumes_identically_from_every_commit(tmp_path: Path) -> None:
    small: dict[str, Any] = {"reply": stubborn, "optimizer": "random", "budget": Budget(calls=180)}
    snapshots = Snapshots(tmp_path)
    with snapshots.watching():
        whole = execute(tmp_path / "whole", **small)
    expected = outcome(tmp_path / "whole")
    assert expected["missing"] > 0
    assert expected["spend"]["by_role"]["judge"]["calls"] > 50
    assert len(snapshots.folders) > 30
    paid = {request.digest for request in whole.requests}
    for folder in snapshots.folders:
        kept = answered(folder)
        resumed = execute(folder, **small)
        assert outcome(folder) == expected
        assert {request.digest for request in resumed.requests} == paid - kept
        shutil.rmtree(folder)


def test_data_without_targets_is_scored_by_a_rubric(tmp_path: Path) -> None:
    """A strategy that needs no labels works, and the proof is one of scores."""

    def play(request: Request) -> str:
        if is_rating(request) and "Answer A" not in request.messages[0].content:
            assert "Reference" not in request.messages[0].content
            return verdicts("yes" if shown_reply(request) == "red" else "no", "yes")
        return "<verdicts>1: A</verdicts>" if is_rating(request) else model(request)

    transport = Scripted(play)
    task = rated_task().without_targets()
    settings = replace(SETTINGS, optimizer=CLIMB)
    result = asyncio.run(closing(make_run(tmp_path, transport, task=task, settings=settings).execute()))
    assert result.improvement is not None
    assert result.improvement.judged is None
    assert result.best.test is not None
    assert result.best.test.n == 20
    assert result.spend.by_role["judge"].calls > 25
    with pytest.raises(ConfigError, match="'capo' needs labels"):
        make_plan(task, SETTINGS)


def test_a_task_with_a_function_of_its_own_is_rated_too(tmp_path: Path) -> None:
    async def predict(prompt: Prompt, example: Example, call: Any) -> str:
        first: Response = await call(prompt.instruction + " " + example.inputs["input"])
        return first.text

    transport = Scripted(lambda r: judge(r) if is_rating(r) else right(r))
    study, state = start(
        transport, task=replace(rated_task(), predict=predict), model=TASK, judge=JUDGE, n_calls=20
    )
    table = drive(study.evaluate([study.initial], state.task.dev[:10]))
    assert table.values.tolist() == [[1.0] * 10]
    assert (calls_of(state, "task"), calls_of(state, "judge")) == (10, 10)
    with pytest.raises(BudgetExhausted, match="2 calls needed, 0 left"):
        drive(study.evaluate([OTHER], state.task.dev[:1]))
    assert len(transport.requests) == 20


def test_a_prompt_is_evaluated_by_a_rubric(tmp_path: Path) -> None:
    transport = Scripted(lambda r: judge(r) if is_rating(r) else right(r))
    settings = Settings("sim", budget=Budget(calls=31), out=tmp_path, judge_model="sim:null")
    evaluating = Evaluating(rated_task(), settings, "dev", transports={"sim": transport, "sim:null": transport})
    assert evaluating.estimate.calls == evaluating.n_calls == 40
    plain = Evaluating(make_task(), settings, "dev", transports={}).estimate
    assert evaluating.estimate.worst_tokens > 2 * plain.expected_tokens + plain.worst_tokens
    found = asyncio.run(closing(evaluating.execute()))
    assert found.status == "budget_exhausted"
    assert found.score is not None
    assert (found.score.n, found.score.score, found.spend.calls) == (15, 1.0, 30)
    assert found.per_call["cost_usd"] == 0.001
    assert found.per_rating is not None
    assert (found.by_role["task"].calls, found.by_role["judge"].calls) == (15, 15)
    for name in ("input_tokens", "output_tokens"):
        both = (found.per_call[name] or 0) + (found.per_rating[name] or 0)
        assert 15 * both == pytest.approx(getattr(found.spend, name)), "the figures add up"
    assert {request.model for request in ratings(transport)} == {"sim:null"}


def test_the_forecast_names_the_ratings_of_each_phase() -> None:
    plan = make_plan(rated_task(), SETTINGS)
    parts = {(part.phase, part.role): part for part in plan.forecast.parts}
    assert parts["proof", "judge"].calls == parts["proof", "task"].calls == 40
    assert parts["search", "judge"].calls == parts["search", "task"].calls > 0
    assert sum(part.calls for part in plan.forecast.parts) == plan.forecast.calls
    assert plan.forecast.expected_usd == sum(part.usd or 0 for part in plan.forecast.parts)


def test_a_changed_rubric_is_another_run(tmp_path: Path) -> None:
    execute(tmp_path)
    other = replace(rated_task(), metric=replace(rubric(), digest="changed"))
    with pytest.raises(ConfigError, match="metric file: its content differs"):
        asyncio.run(closing(make_run(tmp_path, Scripted(world), task=other, settings=SETTINGS).execute()))


def test_an_unread_rating_names_what_was_said() -> None:
    study, state, _ = started(lambda r: "x\ny" if is_rating(r) else right(r))
    with pytest.raises(TooManyMissing) as raised:
        drive(study.evaluate([study.initial], state.task.dev[:4]))
    assert "'x y'" in str(raised.value)
    assert RatingUnread.__name__ in str(raised.value)
    assert json.dumps(str(raised.value))
