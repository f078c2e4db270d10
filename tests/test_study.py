"""The verbs of a study: identity by place, races at their edges, replies that must be parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import LABELS, Scripted, make_run, make_study, make_task, model

from promptopt.config import Settings
from promptopt.errors import BudgetExhausted, ReplayDiverged, TaskError
from promptopt.ledger import Amount, Lease, limit_of
from promptopt.optimizers.random_search import RandomSearch
from promptopt.study import SearchSize, Study
from promptopt.template import tagged
from promptopt.types import Budget, Candidate, Prompt, Request


def drive(work: Awaitable[Any]) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(run())


def prompts(n: int) -> list[Candidate]:
    return [Candidate(Prompt(f"Name the colour {i}.")) for i in range(n)]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("<prompt>a</prompt>", "a"),
        ("first <prompt>a</prompt> then <prompt>\n b \n</prompt> bye", "b"),
        ("I write between <prompt> and </prompt>: <prompt>c</prompt>", "c"),
        ("<prompt>a", None),
        ("a</prompt>", None),
        ("<prompt>  </prompt>", None),
        ("</prompt><prompt>", None),
        ("", None),
        ("plain chatter", None),
    ],
)
def test_tagged(reply: str, found: str | None) -> None:
    assert tagged(reply, "prompt") == found


def test_fields_are_substituted_once_and_literally() -> None:
    transport = Scripted(lambda request: "ok")
    study, _ = make_study(transport)
    drive(study.generate("say {a} and {b} {unknown} {{x}}", a="{b}", b="1"))
    assert transport.requests[0].messages[0].content == "say {b} and 1 {unknown} {{x}}"


def test_samples_of_one_request_are_told_apart() -> None:
    transport = Scripted(lambda request: request.sample)
    study, _ = make_study(transport)
    assert len(set(drive(study.generate("write", n=3)))) == 3


def test_map_keeps_order_and_gives_each_item_its_own_stream() -> None:
    async def draw(branch: Study, item: int) -> tuple[int, float]:
        for _ in range(3 - item):
            await asyncio.sleep(0)
        return item, float(branch.rng.random())

    study, _ = make_study(Scripted(model))
    first = drive(study.map(draw, range(3)))
    assert [item for item, _ in first] == [0, 1, 2]
    assert len({value for _, value in first}) == 3
    again, _ = make_study(Scripted(model))
    assert drive(again.map(draw, range(3))) == first
    other, _ = make_study(Scripted(model), seed=1)
    assert drive(other.map(draw, range(3))) != first


def test_maps_nest_and_raise_the_first_error_after_all_are_done() -> None:
    done: list[int] = []

    async def leaf(branch: Study, item: int) -> int:
        await branch.generate("write")
        done.append(item)
        if item % 2:
            raise BudgetExhausted(f"item {item}")
        return item

    async def node(branch: Study, item: int) -> list[int]:
        return await branch.map(leaf, [10 * item, 10 * item + 1])

    study, _ = make_study(Scripted(lambda request: "x", latency_seed=3))
    with pytest.raises(BudgetExhausted, match=r"item 1$"):
        drive(study.map(node, range(3)))
    assert sorted(done) == [0, 1, 10, 11, 20, 21]


def test_race_that_keeps_all_evaluates_nothing() -> None:
    transport = Scripted(model)
    study, _ = make_study(transport)
    left = drive(study.race(prompts(3), keep=3))
    assert len(left.candidates) == 3
    assert left.n_examples == 0
    assert transport.requests == []


def test_race_counts_the_same_candidate_once() -> None:
    study, _ = make_study(Scripted(model))
    twin = prompts(1)[0]
    left = drive(study.race([twin, *prompts(2)], keep=2, penalties=[0.0, 0.0, 0.01]))
    assert len({candidate.id for candidate in left.candidates}) == 2


def test_race_ends_on_the_last_complete_block_when_the_budget_does() -> None:
    alike = Scripted(lambda request: LABELS[int(request.messages[-1].content.split()[-1]) % 3])
    study, state = make_study(alike, task=make_task(n_dev=40), n_calls=75)
    left = drive(study.race(prompts(3), keep=1, block=10))
    assert not left.is_complete
    assert left.n_examples == 20
    assert len(state.cells) == 60  # nothing was spent on a block that could not be completed


def test_race_without_money_for_one_block_raises_before_spending() -> None:
    transport = Scripted(model)
    study, _ = make_study(transport, n_calls=75)
    with pytest.raises(BudgetExhausted):
        drive(study.race(prompts(8), block=10))
    assert transport.requests == []


def test_known_cells_are_free_in_later_races_and_evaluations() -> None:
    transport = Scripted(model)
    study, _ = make_study(transport)

    async def work() -> None:
        await study.evaluate(prompts(2), study.task.dev)
        n = len(transport.requests)
        await study.race(prompts(2), keep=1)
        table = await study.evaluate(prompts(2), study.task.dev[:5])
        assert len(transport.requests) == n
        assert np.array_equal(table.values, study.scores(prompts(2), study.task.dev[:5]).values)

    drive(work())


def test_scores_of_unseen_cells_are_missing_not_zero() -> None:
    study, _ = make_study(Scripted(model))
    table = study.scores(prompts(2), study.task.dev)
    assert np.isnan(table.values).all()
    assert all(np.isnan(mean) for mean in table.means())


def test_a_candidate_that_the_gate_refuses_is_never_evaluated() -> None:
    transport = Scripted(model)
    study, _ = make_study(transport)
    assert study.candidate("x " * 9000, operator="test") is None
    with pytest.raises(TaskError, match=r"study\.candidate"):
        drive(study.evaluate([Candidate(Prompt("x " * 9000))], study.task.dev))
    assert transport.requests == []


def test_a_changed_strategy_diverges_and_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="sim", budget=Budget(calls=150), optimizer="random")
    asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
    monkeypatch.setattr("promptopt.optimizers.random_search.VARY", "Another question about {instruction}.")
    with pytest.raises(ReplayDiverged, match=r"path '1/0', ordinal 0"):
        asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())


def test_examples_that_nobody_completes_leave_the_race() -> None:
    def reply(request: Request) -> str:
        return LABELS[int(request.messages[-1].content.split()[-1]) % 3]

    from promptopt.errors import ContentRefused

    class Picky(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Any:
            if request.messages[-1].content.endswith("107"):
                raise ContentRefused("filtered")
            return await super().send(request, timeout_s)

    study, state = make_study(Picky(reply))
    left = drive(study.race(prompts(2), keep=1))
    assert left.n_examples == 19
    assert list(state.unused_examples) == ["dev-107"]
    assert drive(study.race(prompts(2), keep=1)).n_examples == 19


def test_random_search_returns_the_best_of_all_it_tried() -> None:
    study, state = make_study(Scripted(model), n_calls=300)
    with pytest.raises(BudgetExhausted):
        drive(RandomSearch(n_dev=20).optimize(study))
    means = {c.id: study.scores([c], study.task.dev).means()[0] for c in state.journal.candidates()}
    best = max(value for value in means.values() if value == value)
    assert means[state.proposals[-1].id] == best


def test_budget_view_is_for_the_root_only() -> None:
    async def peek(branch: Study, _: int) -> int:
        return branch.remaining_calls

    study, _ = make_study(Scripted(model), n_calls=50)
    assert study.remaining_calls == 50
    with pytest.raises(AssertionError, match="root"):
        drive(study.map(peek, range(2)))


def test_where_calls_have_no_limit_the_planned_ones_are_left() -> None:
    _, state = make_study(Scripted(model), n_calls=50)
    study = Study(state, Lease(limit_of(Decimal(5), None, None)), SearchSize(90))
    assert study.remaining_calls == 90
    drive(study.evaluate([study.initial], study.task.dev[:7]))
    assert study.remaining_calls == 83


def test_calls_paid_by_an_earlier_session_do_not_count_among_the_planned_ones() -> None:
    _, state = make_study(Scripted(model), n_calls=50)
    lease = Lease(limit_of(Decimal(5), None, None))
    lease.precharge({b"earlier": Amount(calls=1, tokens=5)})
    assert Study(state, lease, SearchSize(90)).remaining_calls == 90
