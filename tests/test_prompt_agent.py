"""PromptAgent against its specification: the invariants of the method, on scripted models."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from typing import Any

import pytest
from author import N_DEV, N_TRAIN, Author, grow, item, kind, rank, skill_of
from scripted import Scripted, make_study, make_task

from promptopt.optimizers.prompt_agent import Node, PromptAgent, Tree
from promptopt.types import Candidate, Prompt, Request


def test_the_root_is_evaluated_once() -> None:
    grown = grow(Author())
    initial = make_task().initial.instruction
    dev = [r for r in grown.requests if r.messages[0].content == initial and item(r.messages[-1].content) >= 100]
    assert len(dev) == len({r.digest for r in dev}) == N_DEV
    assert grown.nodes[0]["reward"] == pytest.approx(skill_of(initial))
    assert grown.nodes[0]["parent"] is None


@pytest.mark.parametrize(("width", "n_new"), [(3, 1), (2, 2)])
def test_an_expansion_adds_a_child_per_batch_and_prompt(width: int, n_new: int) -> None:
    grown = grow(Author(), expand_width=width, n_new_prompts=n_new)
    n_children = Counter(node["parent"] for node in grown.nodes if node["parent"])
    assert set(n_children.values()) == {width * n_new}
    assert len(grown.paths) == 3


def test_an_iteration_expands_at_most_as_often_as_the_tree_is_deep() -> None:
    steady = Author(skill=lambda depth, u: 0.6)  # nothing is better or worse: a path goes down to the limit
    for limit in (1, 4):
        grown = grow(steady, n_iterations=1, depth_limit=limit, expand_width=2)
        assert len(grown.expanded) == limit
        assert len(grown.paths[0]) == limit + 1


def test_calls_are_those_of_the_specification() -> None:
    grown = grow(Author(), batch_size=5)
    n_children = len(grown.nodes) - 1
    n_transitions = 3 * len(grown.expanded)
    assert len(grown.asked("feedback")) == len(grown.asked("rewrite")) == n_transitions == n_children
    assert len(grown.asked("task")) == (1 + n_children) * N_DEV + n_transitions * 5


def leaf(name: str, parent: Node, reward: float, *returns: float) -> Node:
    node = Node(Candidate(Prompt(name)), parent, reward=reward, returns=list(returns))
    parent.children.append(node)
    return node


def hand_made() -> tuple[Tree, dict[str, Node]]:
    """Return a tree with a visited good child, a visited bad one, and one that was never visited."""
    study, _ = make_study(Scripted(Author()))
    root = Node(study.initial, reward=0.5, returns=[1.4, 0.9])
    good = leaf("good", root, 0.8, 0.9)
    nodes = {"root": root, "good": good, "bad": leaf("bad", root, 0.4, 0.4), "new": leaf("new", root, 0.6)}
    nodes["below"] = leaf("below", good, 0.9)
    return Tree(study, root, 3, (), 0, iter(())), nodes


def selected(agent: PromptAgent) -> list[str]:
    tree, _ = hand_made()
    return [node.candidate.prompt.instruction for node in agent._select(tree)[1:]]


def test_uct_is_the_stated_formula() -> None:
    _, nodes = hand_made()
    w = 2.5
    published = PromptAgent(uct="paper", exploration=w)
    strict = PromptAgent(uct="strict", exploration=w)
    assert published._uct(nodes["good"]) == pytest.approx(0.9 + w * math.sqrt(math.log(3) / 1))
    assert published._uct(nodes["new"]) == pytest.approx(0.6 + w * math.sqrt(math.log(3) / 1))
    assert strict._uct(nodes["good"]) == pytest.approx(0.9 + w * math.sqrt(math.log(2) / 1))
    assert strict._uct(nodes["new"]) == math.inf
    nodes["good"].returns.append(0.7)
    assert strict._uct(nodes["good"]) == pytest.approx(0.8 + w * math.sqrt(math.log(2) / 2))


def test_selection_follows_the_greatest_uct() -> None:
    assert selected(PromptAgent(uct="paper", exploration=0.0)) == ["good", "below"]
    assert selected(PromptAgent(uct="strict", exploration=0.0)) == ["new"]
    assert selected(PromptAgent(uct="paper", exploration=2.5)) == ["good", "below"]
    crowded, nodes = hand_made()
    nodes["good"].returns.extend([0.9] * 5)  # visited often: now another one is due
    assert PromptAgent(uct="paper", exploration=2.5)._select(crowded)[1] is nodes["new"]
    assert PromptAgent(uct="paper", exploration=0.0)._select(crowded)[1] is nodes["good"]


def test_selection_passes_by_what_cannot_be_expanded() -> None:
    tree, nodes = hand_made()
    nodes["below"].is_failed = True
    path = PromptAgent(uct="paper", exploration=0.0)._select(tree)
    assert path == [nodes["root"], nodes["new"]]


@pytest.mark.parametrize(("q", "wanted"), [("sum", [1.8, 1.3, 0.9]), ("mean", [0.6, 0.65, 0.9])])
def test_backup_gives_every_node_what_follows_it(q: Any, wanted: list[float]) -> None:
    _, nodes = hand_made()
    path = [nodes["root"], nodes["bad"], leaf("end", nodes["bad"], 0.9)]
    PromptAgent(q=q)._back_up(path)
    assert [node.returns[-1] for node in path] == pytest.approx(wanted)
    assert [len(node.returns) for node in path] == [3, 2, 1]


def test_low_rewards_below_the_minimum_depth_are_never_expanded() -> None:
    grown = grow(Author(skill=lambda depth, u: 0.05 if depth > 2 and u < 0.5 else 0.6), n_iterations=12)
    root_reward = grown.nodes[0]["reward"]
    low = [
        node
        for node in grown.nodes
        if node["depth"] > 2 and node["reward"] < (root_reward + grown.reward[node["parent"]]) / 2
    ]
    assert low
    assert not {node["candidate"] for node in low} & grown.expanded
    assert max(node["depth"] for node in grown.nodes) > 3  # the others are


def test_rewards_stop_nothing_up_to_the_minimum_depth() -> None:
    tree, nodes = hand_made()
    low = leaf("low", nodes["bad"], 0.0)
    assert not PromptAgent(min_depth=2)._is_terminal(tree, low)
    assert PromptAgent(min_depth=1)._is_terminal(tree, low)
    low.reward = 0.45  # the mean of the root's and the parent's
    assert not PromptAgent(min_depth=1)._is_terminal(tree, low)


def test_nodes_at_the_depth_limit_have_no_children() -> None:
    grown = grow(Author(), n_iterations=12, depth_limit=2, expand_width=2)
    assert max(node["depth"] for node in grown.nodes) == 2
    assert len(grown.nodes) == 1 + 2 + 4  # the whole tree: nothing is left to expand, so the search is over
    assert len(grown.paths) < 12


def test_simulation_follows_the_best_child_until_it_is_the_best_so_far() -> None:
    grown = grow(Author(), n_iterations=1)
    path = grown.paths[0]
    for parent, child in itertools.pairwise(path):
        rewards = [node["reward"] for node in grown.nodes if node["parent"] == parent]
        assert grown.reward[child] == max(rewards)
    # Rewards grow with depth: levels 1 and 2 stop nothing, the first above them does, before it is expanded.
    assert [grown.reward[id_] > grown.nodes[0]["reward"] for id_ in path[1:]] == [True] * 3
    assert path[-1] not in grown.expanded


def test_a_simulation_goes_on_while_nothing_beats_the_best_so_far() -> None:
    peak = Author(skill=lambda depth, u: {1: 0.8, 6: 0.9}.get(depth, 0.7))
    grown = grow(peak, n_iterations=1, depth_limit=8)
    assert [grown.reward[id_] for id_ in grown.paths[0]] == pytest.approx([0.3, 0.8, 0.7, 0.7, 0.7, 0.7, 0.9])


def test_right_answers_ask_for_strength_and_wrong_ones_for_a_mend() -> None:
    grown = grow(Author(skill=lambda depth, u: 1.0), expand_width=6)
    feedback, rewrites = grown.asked("feedback"), grown.asked("rewrite")
    perfect = [text for text in feedback if "skill 1.00" in text]
    assert perfect
    assert all("got these examples right" in text for text in perfect)
    assert all("got these examples right" in text for text in rewrites if "skill 1.00" in text)
    others = [text for text in feedback if "skill 1.00" not in text]
    assert others
    for text in others:  # the initial prompt gets some of a batch right, which are not shown
        shown = [int(i) for i in re.findall(r"item number (\d+)\n", text)]
        assert shown
        assert "got these examples wrong" in text
        assert all(rank(i) >= skill_of("") - 1e-9 for i in shown)


def test_the_rewriting_model_sees_feedback_and_ancestry() -> None:
    grown = grow(Author())
    texts = {text: id_ for id_, text in grown.texts.items()}
    depths = set()
    for text in grown.asked("rewrite"):
        versions = re.findall(r"<version_(\d+)>\n(.*)\n</version_\1>", text)
        assert [int(number) for number, _ in versions] == list(range(1, len(versions) + 1))
        line = [texts[prompt] for _, prompt in versions]
        assert [grown.parent[id_] for id_ in line] == [None, *line[:-1]]  # from the root on, nothing left out
        current = re.search(r"<prompt>\n(.*)\n</prompt>", text)
        assert current is not None
        assert current.group(1) == versions[-1][1]
        depths.add(len(versions))
    assert depths >= {1, 2, 3}
    feedback = {re.search(r"<feedback>\n(.*)\n</feedback>", text).group(1) for text in grown.asked("rewrite")}  # type: ignore[union-attr]
    assert feedback == {node["feedback"] for node in grown.nodes[1:]}


def test_the_output_is_the_best_node_of_the_best_path() -> None:
    for seed in range(4):
        grown = grow(Author(skill=lambda depth, u: round(u, 1)), n_iterations=6, seed=seed)
        means = [sum(grown.reward[id_] for id_ in path) / len(path) for path in grown.paths]
        best_path = grown.paths[means.index(max(means))]
        assert grown.best.id in best_path
        assert grown.reward[grown.best.id] == max(grown.reward[id_] for id_ in best_path)


@pytest.mark.parametrize("search", ["mcts", "greedy", "beam"])
@pytest.mark.parametrize("reply", ["Sure! Here it is.", "<prompt></prompt>", "<prompt>Name the colour.</prompt>"])
def test_rewrites_that_bring_no_new_prompt_end_the_search(reply: str, search: Any) -> None:
    def barren(request: Request) -> str:
        return reply if "</prompt>" in request.messages[-1].content else Author()(request)

    grown = grow(barren, search=search, n_iterations=12)
    assert grown.best.prompt == make_task().initial
    assert [node["depth"] for node in grown.nodes] == [0]
    assert len(grown.asked("feedback")) == 3  # the root is expanded once
    assert all(len(path) == len(set(path)) for path in grown.paths)


def test_a_node_whose_expansion_fails_is_not_expanded_again() -> None:
    author = Author()

    def fading(request: Request) -> str:  # nothing comes of the prompts at level 2
        is_barren = request.messages[0].content.count("<version_") == 3
        return "I cannot." if is_barren and kind(request) == "rewrite" else author(request)

    grown = grow(fading, n_iterations=12)
    asked = Counter(skill_text(text) for text in grown.asked("feedback"))
    assert max(asked.values()) == 3  # one expansion of each node
    assert max(node["depth"] for node in grown.nodes) == 2
    assert len(grown.nodes) == 1 + 3 + 9
    assert all(len(path) == len(set(path)) for path in grown.paths)


def skill_text(text: str) -> str:
    found = re.search(r"<prompt>\n(.*)\n</prompt>", text)
    assert found is not None
    return found.group(1)


def test_no_dev_example_is_shown_to_the_optimizer_model() -> None:
    grown = grow(Author(), max_shots=3)
    shown = {
        int(i)
        for text in grown.asked("feedback") + grown.asked("rewrite")
        for i in re.findall(r"number (\d+)", text)
    }
    assert shown
    assert shown <= set(range(N_TRAIN))
