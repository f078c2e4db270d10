"""SPO's final gate, its sizes and its options."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from scripted import LABELS, Scripted, make_task
from test_spo import (
    PAPER,
    Cast,
    newer,
    older,
    open_study,
    prefers_challenger,
    prefers_incumbent,
    role,
    search,
    shown,
    verdicts,
    version,
    without_labels,
)

from promptopt.errors import BudgetExhausted, ConfigError
from promptopt.optimizers.spo import Spo
from promptopt.registry import make_optimizer
from promptopt.study import SearchSize


def of_dev(question: str) -> bool:
    return int(question.split()[-1]) >= 100


def right_label(question: str) -> str:
    return LABELS[int(question.split()[-1]) % 3]


@pytest.mark.parametrize(("good", "winner"), [(1, 1), (10, 10), (5, 1)])
def test_gate_with_labels_returns_the_last_winner_only_if_it_scores_better(good: int, winner: int) -> None:
    cast = Cast(
        answer=lambda n, question: right_label(question) if of_dev(question) and n == good else f"version {n}"
    )
    found = search(cast, n_gate=12)
    assert found.winner is not None
    assert version(found.winner.prompt.instruction) == winner
    in_gate = [request for request in found.asked("task") if of_dev(request.messages[-1].content)]
    assert {version(request.messages[0].content) for request in in_gate} == {1, 10}
    assert len({request.messages[-1].content for request in in_gate}) <= 12
    assert len(found.asked("judge")) == 36


@pytest.mark.parametrize(
    ("on_dev", "winner"), [(newer, 10), (older, 1), (lambda *_: "A", 1), (lambda *_: "tie", 1)]
)
def test_gate_without_labels_asks_the_judge_in_both_orders(
    on_dev: Callable[[int, str, str], str], winner: int
) -> None:
    judge = verdicts(lambda i, a, b: (on_dev if of_dev(a) else newer)(i, a, b))
    found = search(Cast(judge), task=without_labels(make_task()), n_gate=12)
    assert found.winner is not None
    assert version(found.winner.prompt.instruction) == winner
    in_gate = [request for request in found.asked("judge") if of_dev(shown(request)[0][0])]
    assert len(in_gate) == 2 * 3
    assert len({question for request in in_gate for question, _, _ in shown(request)}) == 12
    assert {version(shown(request)[0][1]) for request in in_gate} == {1, 10}


def test_gate_costs_nothing_where_no_prompt_was_accepted() -> None:
    found = search(Cast(prefers_incumbent), n_gate=12)
    assert not [text for text in found.texts("task") if of_dev(text)]


def test_incumbents_are_proposed_as_they_change() -> None:
    wins = {3, 7}
    cast = Cast(
        lambda i, rows: (prefers_challenger if i >= 36 or i // 4 + 2 in wins else prefers_incumbent)(i, rows),
        answer=lambda n, question: right_label(question) if n == 1 else f"version {n} on {question}",
    )
    found = search(cast, n_gate=12)
    assert [version(candidate.prompt.instruction) for candidate in found.state.proposals] == [1, 3, 7, 1]
    assert [candidate.parents for candidate in found.state.proposals[1:3]] == [
        (found.state.proposals[0].id,),
        (found.state.proposals[1].id,),
    ]


# Sizes and options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "n_calls", "rounds", "n_gate"),
    [
        ({}, 10**7, 10, 50),
        ({}, 195, 10, 50),
        ({}, 99, 10, 10),
        ({}, 98, 10, 0),
        ({}, 75, 10, 0),
        ({}, 74, 9, 0),
        ({}, 11, 2, 0),
        ({"n_gate": 4}, 90, 10, 4),
        ({"n_rounds": None}, 300, 26, 40),
        ({"n_rounds": None}, 3000, 360, 50),
        ({"preset": "paper"}, 10**7, 10, 0),
    ],
)
def test_rounds_come_first_then_the_gate(options: dict[str, Any], n_calls: int, rounds: int, n_gate: int) -> None:
    spo = Spo(**PAPER) if "preset" in options else Spo(**options)
    k = spo.n_samples
    expected = {"task": k * rounds + 2 * n_gate, "optimizer": rounds - 1}
    expected["judge"] = 4 * (rounds - 1) + 2 * -(-n_gate // 5)
    assert spo.forecast(n_calls) == expected


@pytest.mark.parametrize("n_calls", [11, 30, 75, 98, 99, 120, 187, 195, 260])
@pytest.mark.parametrize("n_rounds", [10, None])
def test_search_without_labels_takes_what_was_forecast(n_calls: int, n_rounds: int | None) -> None:
    options = {"n_rounds": n_rounds, "n_gate": 50}
    found = search(task=without_labels(make_task(n_dev=50)), n_calls=n_calls, **options)
    asked = Counter(map(role, found.transport.requests))
    expected = Spo(n_rounds=n_rounds).forecast(n_calls)
    assert asked == {who: n for who, n in expected.items() if n}
    assert asked.total() <= n_calls


def test_budget_that_ends_in_a_round_leaves_the_incumbent_proposed() -> None:
    transport = Scripted(Cast())
    study, state = open_study(transport, make_task(), n_calls=75, seed=0)
    study.size = SearchSize(10**6)
    with pytest.raises(BudgetExhausted):
        asyncio.run(Spo(n_rounds=None).optimize(study))
    assert len(transport.requests) <= 75
    assert version(state.proposals[-1].prompt.instruction) >= 9


def test_fewer_train_examples_than_samples_are_all_asked() -> None:
    assert len(set(search(task=make_task(n_train=2), n_samples=3).texts("task"))) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_votes": "3"}, "n_votes=3"),
        ({"n_rounds": "1"}, "n_rounds=1"),
        ({"n_samples": "0"}, "n_samples=0"),
        ({"word_limit": "0"}, "word_limit=0"),
        ({"patience": "0"}, "patience=0"),
        ({"n_gate": "-1"}, "n_gate=-1"),
        ({"n_remembered": "-2"}, "n_remembered=-2"),
        ({"n_vote": "4"}, "n_votes"),
    ],
)
def test_sizes_that_cannot_work_are_refused(options: dict[str, str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make_optimizer("spo", options)


def test_needs_no_labels_and_its_paper_preset_is_the_published_algorithm() -> None:
    name, paper = make_optimizer("spo", {"preset": "paper"})
    assert name == "spo"
    assert paper.requires == {"optimizer model", "judge"}
    assert (paper.minimum_calls(), sum(paper.forecast(10**6).values())) == (11, 75)
    assert make_optimizer("spo", {"n_rounds": "none"})[1] == Spo(n_rounds=None)
