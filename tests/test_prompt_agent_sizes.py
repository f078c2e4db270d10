"""PromptAgent: its ablations, what differs from the paper, and its sizes, on scripted models."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from author import N_DEV, N_TRAIN, Author, grow, item, kind, skill_of
from scripted import LABELS, Scripted, make_run, make_study, make_task

from promptopt.config import Settings
from promptopt.demonstration import demonstrate
from promptopt.errors import ConfigError, ContentRefused
from promptopt.ledger import Lease, limit_of
from promptopt.optimizers.prompt_agent import Node, PromptAgent, Tree
from promptopt.registry import make_optimizer
from promptopt.study import SearchSize, Study
from promptopt.types import Budget, Prompt, Request


@pytest.mark.parametrize(("search", "n_kept"), [("greedy", 1), ("beam", 2)])
def test_greedy_and_beam_search_expand_the_best_of_each_level(search: Any, n_kept: int) -> None:
    grown = grow(Author(skill=lambda depth, u: round(0.9 * u, 1)), search=search, beam_width=2, depth_limit=4)
    for depth in range(1, 5):
        level = sorted((n for n in grown.nodes if n["depth"] == depth), key=lambda node: -node["reward"])
        assert len(level) == 3 * (1 if depth == 1 else n_kept)
        expanded = {node["candidate"] for node in level} & grown.expanded
        assert expanded == (set() if depth == 4 else {node["candidate"] for node in level[:n_kept]})


def test_the_children_of_an_expansion_are_made_and_evaluated_together() -> None:
    grown = grow(Author(), n_iterations=1)
    runs = [(name, len(list(group))) for name, group in itertools.groupby(map(kind, grown.requests))]
    n_levels = len(grown.paths[0]) - 1
    step = [("feedback", 3), ("rewrite", 3), ("task", 3 * N_DEV + 3 * 5)]
    last = ("task", 3 * N_DEV)
    assert runs == [("task", N_DEV + 3 * 5), *(step * n_levels)[:-1], last]


def test_the_first_prompt_wins_where_nothing_is_better() -> None:
    grown = grow(Author(skill=lambda depth, u: 0.2), output="choose", n_eval=5)
    assert len(grown.nodes) > 1
    assert grown.best.prompt == make_task().initial


def test_the_final_choice_is_made_on_more_of_dev() -> None:
    author = Author()
    sample: set[int] = set()

    def lucky(request: Request) -> str:  # a prompt of level 1 is right on the whole sample, and only there
        text = request.messages[0].content
        i = item(request.messages[-1].content) if kind(request) == "task" else -1
        if text == "Name the colour." and i >= 100 and len(sample) < 5:
            sample.add(i)
        if "skill 0.99" in text and kind(request) == "task":
            return LABELS[i % 3] if i in sample else "no idea"
        return author(request)

    author.skill = lambda depth, u: 0.99 if depth == 1 else 0.7
    grown = grow(lucky, output="choose", n_eval=5, n_iterations=1, depth_limit=2, n_finalists=4)
    assert max(grown.nodes, key=lambda node: node["reward"])["depth"] == 1
    assert skill_of(grown.best.prompt.instruction) == 0.7
    met = {
        item(r.messages[-1].content)
        for r in grown.requests
        if grown.best.prompt.instruction in r.messages[0].content and kind(r) == "task"
    }
    assert len(met & set(range(100, 100 + N_DEV))) > 5


def test_keeps_calls_for_the_final_choice_where_only_dollars_are_limited() -> None:
    author = Author()
    _, state = make_study(Scripted(author))
    study = Study(state, Lease(limit_of(Decimal(100), None, None)), SearchSize(300))
    asyncio.run(asyncio.wait_for(PromptAgent(n_eval=5).optimize(study), 20))
    n_calls = sum(tally.calls for tally in state.tallies.values())
    assert 200 < n_calls <= 300


def test_demonstrations_are_drawn_from_train_and_kept_out_of_the_batches() -> None:
    grown = grow(Author(), max_shots=4, n_iterations=4)
    shots = {c.id: [item(demo.inputs[0][1]) for demo in c.prompt.demos] for c in grown.state.journal.candidates()}
    sizes = {len(numbers) for numbers in shots.values()}
    assert sizes == {0, 1, 2, 3, 4}
    assert {number for numbers in shots.values() for number in numbers} <= set(range(N_TRAIN))
    assert all(len(set(numbers)) == len(numbers) for numbers in shots.values())
    asked = [(r.messages[0].content, item(r.messages[-1].content)) for r in grown.requests if kind(r) == "task"]
    assert any("Input:" in prompt for prompt, i in asked if i < N_TRAIN)
    assert not [i for prompt, i in asked if f"item number {i}\n" in prompt]


def test_without_demonstrations_the_users_own_are_kept() -> None:
    task = make_task(n_train=N_TRAIN)
    mine = demonstrate(task, task.train[0], "red")
    grown = grow(Author(), task=task.with_initial(Prompt("Name the colour.", (mine,))), max_shots=0)
    assert {c.prompt.demos for c in grown.state.journal.candidates()} == {(mine,)}


def test_the_same_prompt_never_stands_twice_in_the_tree() -> None:
    author = Author()

    def monotonous(request: Request) -> str:
        return "<prompt>A colour, skill 0.50.</prompt>" if kind(request) == "rewrite" else author(request)

    grown = grow(monotonous, n_iterations=12)
    assert [node["depth"] for node in grown.nodes] == [0, 1]
    assert len(grown.asked("feedback")) == 6  # both were expanded, once


def test_chatter_is_repaired_once() -> None:
    author = Author()

    def sloppy(request: Request) -> str:
        if kind(request) == "rewrite" and len(request.messages) == 1:
            return "Here is a better prompt for you."
        return author(request)

    grown = grow(sloppy, n_iterations=1)
    assert len(grown.nodes) > 3
    assert not any("better prompt" in text for text in grown.texts.values())


def test_missing_feedback_or_answers_lead_nowhere() -> None:
    author = Author()

    def refusing(request: Request) -> str:
        if kind(request) == "feedback":
            raise ContentRefused("not that")
        return author(request)

    grown = grow(refusing)
    assert grown.asked("rewrite") == []
    assert grown.best.prompt == make_task().initial


def test_the_incumbent_only_gets_better() -> None:
    grown = grow(Author(skill=lambda depth, u: round(u, 1)), n_iterations=6)
    proposed = [grown.reward[event["candidate"]] for event in grown.state.journal.events("proposal")]
    assert len(proposed) > 2
    assert proposed == sorted(proposed)
    assert proposed[-1] == max(grown.reward.values())


def test_the_journal_holds_the_tree() -> None:
    grown = grow(Author(), n_iterations=4)
    depth = {node["candidate"]: node["depth"] for node in grown.nodes}
    for node in grown.nodes[1:]:
        assert depth[node["candidate"]] == depth[node["parent"]] + 1
        assert node["feedback"].startswith("The prompt leaves gaps.")
        assert node["reward"] == pytest.approx(skill_of(grown.texts[node["candidate"]]), abs=0.05)
    for path in grown.paths:
        assert [grown.parent[id_] for id_ in path] == [None, *path[:-1]]


# Sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["mcts", "greedy", "beam"])
@pytest.mark.parametrize("n_calls", [80, 137, 400])
def test_any_budget_is_kept_and_used(tmp_path: Path, n_calls: int, search: str) -> None:
    transport = Scripted(Author())
    budget = Budget(calls=n_calls)
    settings = Settings(
        "sim", optimizer="promptagent", options={"search": search}, budget=budget, proof_examples=0
    )
    task = make_task(n_train=N_TRAIN, n_dev=60)
    result = asyncio.run(make_run(tmp_path, transport, settings=settings, task=task).execute())
    assert len(transport.requests) == result.spend.calls <= n_calls
    assert result.status == "completed"
    assert result.spend.calls > n_calls - 160


def test_below_the_minimum_it_refuses_and_with_it_it_works(tmp_path: Path) -> None:
    least = PromptAgent().minimum_calls()
    task = make_task(n_train=N_TRAIN, n_dev=60)

    def settings(n_calls: int) -> Settings:
        return Settings("sim", optimizer="promptagent", budget=Budget(calls=n_calls), proof_examples=0)

    with pytest.raises(ConfigError, match="needs at least"):
        make_run(tmp_path, Scripted(Author()), settings=settings(least - 1), task=task)
    result = asyncio.run(make_run(tmp_path, Scripted(Author()), settings=settings(least), task=task).execute())
    assert result.proposals["tried"] == 2


def test_a_sample_that_leaves_no_room_for_an_expansion_is_refused() -> None:
    with pytest.raises(ConfigError, match="take up to 104 with n_eval=20: raise the budget, or lower n_eval"):
        grow(Author(), n_calls=103)


def test_sizes_grow_with_the_budget() -> None:
    sizes = [PromptAgent()._sizes(n_calls, 1000) for n_calls in (100, 499, 500, 3000, 10_000)]
    assert sizes == [(2, 16), (2, 16), (3, 16), (3, 27), (3, 50)]
    assert PromptAgent()._sizes(10_000, 30) == (3, 30)
    assert PromptAgent(n_eval=7, expand_width=5)._sizes(10_000, 30) == (5, 7)


def test_the_forecast_is_about_what_a_search_takes() -> None:
    grown = grow(
        Author(skill=lambda depth, u: round(u, 1)), n_calls=1000, n_iterations=None, n_eval=20, output="choose"
    )
    forecast = PromptAgent(n_eval=20, max_shots=0).forecast(1000)
    assert sum(forecast.values()) == 1000
    n_written = len(grown.asked("feedback")) + len(grown.asked("rewrite"))
    assert forecast["optimizer"] == pytest.approx(n_written, rel=0.25)


def test_paper_preset_has_the_published_settings() -> None:
    _, optimizer = make_optimizer("promptagent", {"preset": "paper"})
    assert optimizer == PromptAgent(
        search="mcts",
        n_iterations=12,
        expand_width=3,
        depth_limit=8,
        min_depth=2,
        batch_size=5,
        n_new_prompts=1,
        n_eval=10**9,
        uct="paper",
        q="sum",
        exploration=2.5,
        output="path",
        max_shots=0,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expand_width": "0"}, "expand_width=0; it must be at least 1"),
        ({"exploration": "-1"}, "exploration=-1.0; it must be at least 0"),
        ({"max_shots": "-1"}, "max_shots=-1"),
        ({"uct": "fair"}, "valid: paper, strict"),
        ({"search": "breadth"}, "valid: beam, greedy, mcts"),
        ({"depthlimit": "4"}, "did you mean 'depth_limit'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizer("promptagent", options)


def test_a_tenth_of_the_calls_is_kept_for_the_final_choice() -> None:
    study, _ = make_study(Scripted(Author()), n_calls=1000)
    root = Node(study.initial)
    tree = Tree(study, root, 1, (), 942, iter(()), nodes=[root, root])
    assert not PromptAgent()._affords(tree)  # an expansion takes up to 1 * (5 + 1 + 2 + 942) = 950
    assert PromptAgent(output="path")._affords(tree)
    assert not PromptAgent(output="path")._affords(tree, 2)
    tree.nodes.pop()  # the first expansion comes before any choice
    assert PromptAgent()._affords(tree)
