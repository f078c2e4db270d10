"""The proof: who is compared on what, what a judge's verdicts amount to, and what it may spend."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from climb import CLIMB, is_judge, shown, unlabelled, vote, world
from jsonschema import Draft202012Validator
from scripted import Scripted, make_run

from promptopt.config import Settings
from promptopt.errors import ContextTooLong, ServerFailed
from promptopt.gateway import RetryPolicy
from promptopt.journal import Journal
from promptopt.plan import make_plan
from promptopt.result import Outcome, Result, judged_improvement
from promptopt.run import Run
from promptopt.testing import Snapshots, answered, outcome
from promptopt.types import Budget, Request, Response, Usage

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "result.schema.json").read_text(encoding="utf-8"))
SETTINGS = Settings("sim", optimizer=CLIMB, budget=Budget(calls=200))


def execute(folder: Path, transport: Scripted, settings: Settings = SETTINGS, n_test: int = 20) -> Result:
    run = make_run(folder, transport, task=unlabelled(n_test=n_test), settings=settings)
    result = asyncio.run(run.execute())
    Draft202012Validator(SCHEMA).validate(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    return result


def is_proof(request: Request) -> bool:
    """Return whether a request shows a test input: they are numbered from 200."""
    return any(f"item number 2{i:02}" in request.messages[-1].content for i in range(40))


def judging(test_vote: Callable[[Request], str]) -> Callable[[Request], str]:
    """Return a world whose judge votes in its own way on test inputs."""
    return lambda request: test_vote(request) if is_judge(request) and is_proof(request) else world(request)


def reversed_vote(request: Request) -> str:
    return vote(request).translate(str.maketrans("AB", "BA"))


# What is compared -----------------------------------------------------------------------------------


def test_a_better_prompt_is_proven(tmp_path: Path) -> None:
    proof = execute(tmp_path, Scripted(world)).improvement
    assert proof is not None
    assert proof.judged is not None
    assert proof.verdict == "proven"
    assert proof.test == "sign test of judge verdicts"
    assert proof.delta is proof.ci95 is proof.smallest_provable is None
    assert (len(proof.fixed), len(proof.broken)) == (proof.judged.wins, proof.judged.losses)
    assert proof.judged.wins + proof.judged.losses + proof.judged.ties == 20
    assert proof.judged.win_rate == (proof.judged.wins + proof.judged.ties / 2) / 20


@pytest.mark.parametrize(
    ("test_vote", "verdict", "n_lost", "n_unparsed"),
    [
        (reversed_vote, "worse", 20, 0),
        (lambda _: "<verdicts>1: A</verdicts>", "not_proven", 0, 0),
        (lambda _: "<verdicts>1: tie</verdicts>", "not_proven", 0, 0),
        (lambda _: "I like both.", "not_proven", 0, 40),
    ],
    ids=["prefers the initial", "always the first", "always a tie", "unreadable"],
)
def test_verdicts_of_other_judges(
    tmp_path: Path, test_vote: Callable[[Request], str], verdict: str, n_lost: int, n_unparsed: int
) -> None:
    proof = execute(tmp_path, Scripted(judging(test_vote))).improvement
    assert proof is not None
    judged = proof.judged
    assert judged is not None
    assert proof.verdict == verdict
    assert (judged.wins, judged.losses, judged.ties, judged.unparsed) == (0, n_lost, 20 - n_lost, n_unparsed)
    if n_lost == 0:
        assert (proof.p_value, judged.win_rate) == (1, 0.5)


def test_each_input_is_judged_once_in_each_order_and_without_the_prompts(tmp_path: Path) -> None:
    transport = Scripted(world)
    result = execute(tmp_path, transport)
    tested = [request for request in transport.requests if is_proof(request)]
    judged = [request for request in tested if is_judge(request)]
    assert len(tested) - len(judged) == 2 * 20
    orders: dict[str, list[tuple[str, str]]] = {}
    for request in judged:
        [(question, a, b)] = shown(request)
        orders.setdefault(question, []).append((a, b))
        assert "Name the colour" not in request.messages[-1].content
        assert request.temperature == 0.3
    assert all(len(pair) == 2 and pair[0] == pair[1][::-1] for pair in orders.values())
    assert result.spend.by_phase["proof"].calls == len(tested)
    cells = {e: [r for r in tested if not is_judge(r) and e in r.messages[-1].content] for e in ("200", "219")}
    assert all(len(pair) == 2 for pair in cells.values())


def test_equal_answers_need_no_judge(tmp_path: Path) -> None:
    transport = Scripted(lambda r: "red" if is_proof(r) and not is_judge(r) else world(r))
    proof = execute(tmp_path, transport).improvement
    assert proof is not None
    assert proof.judged is not None
    assert (proof.judged.ties, proof.judged.win_rate, proof.p_value) == (20, 0.5, 1)
    assert not any(is_judge(request) and is_proof(request) for request in transport.requests)


def test_nothing_is_compared_where_nothing_better_was_found(tmp_path: Path) -> None:
    transport = Scripted(lambda r: "<verdicts>1: tie</verdicts>" if is_judge(r) else world(r))
    result = execute(tmp_path, transport)
    assert result.best.prompt == result.initial.prompt
    assert result.improvement is not None
    assert result.improvement.verdict == "not_proven"
    assert result.improvement.judged is not None
    assert result.improvement.judged.win_rate is None
    assert result.spend.by_phase["proof"].calls == 0
    assert not any(is_proof(request) for request in transport.requests)


class Picky(Scripted):
    """Refuses prompts that ask for politeness, on some test inputs."""

    async def send(self, request: Request, timeout_s: float) -> Response:
        is_hit = any(f"item number 20{i}" in request.messages[-1].content for i in range(4))
        if is_hit and not is_judge(request) and "please" in request.messages[0].content:
            raise ContextTooLong("too long")
        return await super().send(request, timeout_s)


def test_a_prompt_that_gets_no_answer_loses(tmp_path: Path) -> None:
    proof = execute(tmp_path, Picky(world)).improvement
    assert proof is not None
    assert set(proof.broken) == {"test-200", "test-201", "test-202", "test-203"}


class Lossy(Scripted):
    """Never answers one test input."""

    async def send(self, request: Request, timeout_s: float) -> Response:
        if "item number 207" in request.messages[-1].content:
            raise ServerFailed("down")
        return await super().send(request, timeout_s)


def test_a_missing_answer_leaves_its_input_out(tmp_path: Path) -> None:
    plan = make_plan(unlabelled(), replace(SETTINGS, out=tmp_path))
    once = RetryPolicy(n_attempts=1, first_wait_s=0.0)
    result = asyncio.run(Run(plan, transports={"sim": Lossy(world)}, retry=once).execute())
    assert result.improvement is not None
    judged = result.improvement.judged
    assert judged is not None
    assert judged.wins + judged.losses + judged.ties == 19
    assert result.missing == 2


def test_no_test_input_is_shown_before_the_proof(tmp_path: Path) -> None:
    transport = Scripted(world)
    execute(tmp_path, transport)
    first = next(i for i, request in enumerate(transport.requests) if is_proof(request))
    assert first > 10
    assert all(map(is_proof, transport.requests[first:]))


# What is written ------------------------------------------------------------------------------------


def test_score_fields_are_null(tmp_path: Path) -> None:
    execute(tmp_path, Scripted(world))
    content = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    for prompt in (content["initial"], content["best"]):
        assert prompt["dev"] is prompt["test"] is None
    assert content["improvement"]["delta"] is content["improvement"]["ci95"] is None
    assert content["task"]["metric"] == "none"
    assert set(content["models"]) == set(content["spend"]["by_role"]) == {"task", "optimizer", "judge"}
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        assert db.execute("SELECT COUNT(*), COUNT(value) FROM evaluations").fetchone() == (52, 0)


def test_interval_holds_and_level_holds() -> None:
    rng = np.random.default_rng(5)
    for n, chances in (
        (20, (0.3, 0.3, 0.4)),
        (50, (0.5, 0.3, 0.2)),
        (30, (0.1, 0.05, 0.85)),
        (30, (0.0, 0.0, 1.0)),
    ):
        truth = chances[0] + chances[2] / 2
        n_held = n_claimed = 0
        for _ in range(400):
            drawn = rng.choice([1, -1, 0], size=n, p=chances)
            proof = judged_improvement([Outcome(str(i), int(v)) for i, v in enumerate(drawn)])
            assert proof.judged is not None
            assert proof.judged.ci95 is not None
            low, high = proof.judged.ci95
            assert 0 <= low <= high <= 1
            n_held += low <= truth <= high
            n_claimed += proof.verdict != "not_proven"
        assert n_held >= 0.92 * 400
        if truth == 0.5:
            assert n_claimed <= 0.07 * 400


def test_smallest_provable_win_rate_is_the_first_that_is_proven() -> None:
    def proof(wins: int, losses: int, ties: int) -> Any:
        verdicts = [1] * wins + [-1] * losses + [0] * ties
        return judged_improvement([Outcome(str(i), verdict) for i, verdict in enumerate(verdicts)])

    least = proof(0, 2, 18).judged.smallest_provable
    proven = [n for n in range(19) if proof(n, 2, 18 - n).verdict == "proven"]
    assert least == proof(proven[0], 2, 18 - proven[0]).judged.win_rate
    assert proof(2, 0, 3).judged.smallest_provable is None
    assert proof(4, 2, 3).p_value == pytest.approx(0.6875)  # binomial by hand: 2 x (1 + 6 + 15) / 64


# What it may spend ----------------------------------------------------------------------------------

BUDGETS = [
    Budget(calls=61),
    Budget(calls=90),
    Budget(calls=133),
    Budget(tokens=600_000),
    Budget(usd=Decimal("0.45")),
    Budget(usd=Decimal("0.6"), calls=120),
]


class Costly(Scripted):
    """Charges each answer another amount."""

    async def send(self, request: Request, timeout_s: float) -> Response:
        response = await super().send(request, timeout_s)
        return replace(response, cost_usd=Decimal(int(request.digest[:2], 16)) * Decimal("0.000005"))


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_votes_are_reserved_and_limits_hold_at_any_concurrency(tmp_path: Path, budget: Budget) -> None:
    results = []
    for i, (concurrency, latency_seed) in enumerate(((1, None), (16, 1), (64, 2))):
        settings = replace(SETTINGS, budget=budget, concurrency=concurrency)
        plan = make_plan(unlabelled(n_test=40), settings)
        n_certain = len(plan.task.test)
        assert plan.proof_reserve.calls >= 4 * n_certain > 0
        result = execute(tmp_path / str(i), Costly(world, latency_seed=latency_seed), settings, n_test=40)
        assert result.improvement is not None
        assert result.improvement.judged is not None
        judged = result.improvement.judged
        assert judged.wins + judged.losses + judged.ties >= n_certain
        assert budget.calls is None or result.spend.calls <= budget.calls
        assert budget.usd is None or (result.spend.cost_usd or 0) <= budget.usd
        assert budget.tokens is None or result.spend.input_tokens + result.spend.output_tokens <= budget.tokens
        results.append(outcome(tmp_path / str(i)))
    assert results[0] == results[1] == results[2]


class Wordy(Scripted):
    """Answers test inputs with more bytes than tokens usually have: their votes take more than was thought."""

    async def send(self, request: Request, timeout_s: float) -> Response:
        response = await super().send(request, timeout_s)
        if not is_proof(request):
            return response
        if is_judge(request):
            return replace(response, usage=Usage(30_000 + int(request.digest[:2], 16), 10))
        return replace(response, text=response.text + "\U0001f600" * 4000)


def test_votes_that_do_not_fit_leave_a_prefix(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget=Budget(tokens=900_000))
    found = []
    for i, concurrency in enumerate((1, 16)):
        transport = Wordy(world, latency_seed=i)
        result = execute(tmp_path / str(i), transport, replace(settings, concurrency=concurrency), n_test=40)
        assert result.spend.input_tokens + result.spend.output_tokens <= 900_000
        found.append(result.improvement)
    assert found[0] == found[1]
    assert found[0] is not None
    judged = found[0].judged
    assert judged is not None
    n_judged = judged.wins + judged.losses + judged.ties
    plan = make_plan(unlabelled(n_test=40), settings)
    assert len(plan.task.test) < n_judged < 14
    ids = {example.id for example in plan.sealed[:n_judged]}
    assert {*found[0].fixed, *found[0].broken} <= ids
    with closing(sqlite3.connect(tmp_path / "0" / "journal.db")) as db:
        n_tested = db.execute("SELECT COUNT(*) FROM evaluations WHERE example_id LIKE 'test-%'").fetchone()[0]
    assert n_tested > 2 * n_judged  # the last batch was cut


def test_killed_anywhere_goes_on_identically(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, at_most=40)
    whole = Scripted(world)
    with snapshots.watching():
        execute(tmp_path / "whole", whole)
    expected = outcome(tmp_path / "whole")
    paid = {request.digest for request in whole.requests}
    n_in_proof = 0
    for folder in snapshots.folders:
        kept = answered(folder)
        resumed = Scripted(world)
        execute(folder, resumed)
        assert outcome(folder) == expected
        assert {request.digest for request in resumed.requests} == paid - kept
        n_in_proof += any(map(is_proof, whole.requests)) and 21 < len(kept) < len(paid)
    assert n_in_proof > 5


def test_a_raised_budget_proves_on_more_and_pays_nothing_twice(tmp_path: Path) -> None:
    first = Scripted(world)
    few = execute(tmp_path, first, replace(SETTINGS, budget=Budget(calls=61)), n_test=40)
    second = Scripted(world)
    more = execute(tmp_path, second, replace(SETTINGS, budget=Budget(calls=150)), n_test=40)
    assert few.improvement is not None
    assert more.improvement is not None
    assert few.improvement.judged is not None
    assert more.improvement.judged is not None
    assert more.improvement.judged.wins > few.improvement.judged.wins
    assert few.spend.calls < more.spend.calls <= 150
    with Journal(tmp_path / "journal.db") as journal:
        assert len(journal.events("budget raised")) == 1
    assert len(first.requests) + len(second.requests) == more.spend.attempts
