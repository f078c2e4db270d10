"""What pruning strategies share: the start, the split of dev, the fitness, the choice at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from marked import Marked, drive, item_of, marked_task, prompt_of, study_of
from scripted import LABELS, Scripted, make_study, make_task

from promptopt.pruning import (
    Fitness,
    balanced,
    choose_best,
    few_shot,
    fitness_for,
    mean_fitness,
    sections,
    split_dev,
)
from promptopt.types import Candidate, Demo, Prompt, Request, Response


def silent(request: Request) -> str:
    return "no idea"


def test_the_start_shows_labels_evenly_and_keeps_the_users_own_shots_first() -> None:
    own = Demo((("input", "item number 100000"),), "green")
    task = replace(make_task(n_train=30), initial=Prompt("Name the colour.", (own,)))
    study, _ = make_study(Scripted(silent), task=task)
    start = few_shot(study, 7, 1000)
    assert start.prompt.demos[0] == own
    assert Counter(demo.output for demo in start.prompt.demos[1:]) == dict.fromkeys(LABELS, 2)
    assert len({demo.inputs for demo in start.prompt.demos}) == 7
    bare = few_shot(study, 3, 1000, keeps_own=False)
    assert own not in bare.prompt.demos
    assert len(bare.prompt.demos) == 3


def test_the_start_stays_within_its_length() -> None:
    study, _ = make_study(Scripted(silent), task=make_task(n_train=30))
    limit = 40
    start = few_shot(study, 12, limit)
    assert 0 < len(start.prompt.demos) < 12
    assert study.tokens(start) <= limit
    assert few_shot(study, 12, 0).prompt == study.initial.prompt


def test_starts_differ_from_draw_to_draw_but_not_between_runs() -> None:
    def draws(seed: int) -> list[str]:
        study, _ = make_study(Scripted(silent), task=make_task(n_train=60), seed=seed)
        return [few_shot(study, 4, 1000).id for _ in range(3)]

    assert draws(0) == draws(0)
    assert len({*draws(0), *draws(1)}) == 6


@pytest.mark.parametrize(("n_dev", "n_wanted", "n_got"), [(60, 12, 12), (60, 1000, 30), (21, 100, 10)])
def test_search_and_held_set_are_disjoint_halves_at_most(n_dev: int, n_wanted: int, n_got: int) -> None:
    study, _ = make_study(Scripted(silent), task=make_task(n_dev=n_dev))
    search, held = split_dev(study, n_wanted)
    assert len(search) == n_got
    assert sorted(e.id for e in (*search, *held)) == sorted(e.id for e in study.task.dev)
    counts = Counter(example.target for example in search)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_small_dev_is_both_sets() -> None:
    study, _ = make_study(Scripted(silent), task=make_task(n_dev=19))
    search, held = split_dev(study, 5)
    assert search == held
    assert len(search) == 19


def test_without_a_set_of_labels_the_order_is_random() -> None:
    task = replace(make_task(n_dev=30), labels=())
    task = replace(task, dev=tuple(replace(e, target=e.id) for e in task.dev))
    object.__setattr__(task, "labels", ())
    study, _ = make_study(Scripted(silent), task=task)
    order = balanced(study, study.task.dev)
    assert order != list(study.task.dev)
    assert {e.id for e in order} == {e.id for e in study.task.dev}


def test_sections_are_lines_and_demonstrations() -> None:
    shot = Demo((("input", "item number 1"),), "green")
    text = "system:\nName it.\nBe short.\n\nuser:\n{{input}}"
    task = replace(make_task(), initial=Prompt(text, (shot,)))
    study, _ = make_study(Scripted(silent), task=task)
    tokens = study.tokenized(task.initial)
    texts = ["".join(tokens.tokens[i] for i in part).strip() for part in sections(tokens)]
    assert [text for text in texts if text] == ["Name it.", "Be short.", "Input:\nitem number 1\nOutput:\ngreen"]
    found = [i for part in sections(tokens) for i in part]
    assert found == list(tokens.mutable)


def test_a_missing_answer_counts_as_the_starts() -> None:
    nan = np.nan
    values = np.array([[1.0, nan, nan], [0.0, 1.0, 1.0]])
    assert mean_fitness(values, np.array([0.0, 1.0, nan])).tolist() == [1.0, 0.5]
    assert mean_fitness(np.array([[nan]]), np.array([nan])).tolist() == [-np.inf]


def test_margin_is_the_gap_reward_and_accuracy_the_score() -> None:
    transport = Marked(liked=lambda text: 0.4 if "GOOD" in text else -0.4)
    study, _ = study_of(transport, marked_task())
    good, bad = Candidate(Prompt("GOOD")), Candidate(Prompt("bad"))
    margins = drive(Fitness("margin").values(study, [good, bad], study.task.dev))
    assert margins[0] == pytest.approx(np.full(40, 80), abs=1e-3)
    assert margins[1] == pytest.approx(np.full(40, -72), abs=1e-3)
    scores = drive(Fitness("accuracy").values(study, [good, bad], study.task.dev))
    assert scores.tolist() == [[1] * 40, [0] * 40]
    assert len(transport.requests) == 80  # the margins' answers serve again


def test_a_reply_that_scores_nothing_counts_as_wrong_whatever_its_log_probabilities() -> None:
    class Chatty(Marked):
        def respond(self, request: Request) -> Response:
            answer = super().respond(request)
            return replace(answer, text=f"It could be {answer.text}, or red, or green, or blue.")

    study, _ = study_of(Chatty(liked=lambda text: 0.4), marked_task())
    margins = drive(Fitness("margin").values(study, [study.initial], study.task.dev))
    assert margins == pytest.approx(np.full((1, 40), -72), abs=1e-3)


@pytest.mark.parametrize(("has_logprobs", "kind"), [(True, "margin"), (False, "accuracy")])
def test_auto_takes_margins_where_there_are_log_probabilities(has_logprobs: bool, kind: str) -> None:
    study, _ = study_of(Marked(), marked_task(), has_logprobs=has_logprobs)
    assert drive(fitness_for(study, "auto")).kind == kind
    assert drive(fitness_for(study, "accuracy")).kind == "accuracy"


def elite(name: str) -> Candidate:
    return Candidate(Prompt(f"Name it {name}."))


@pytest.mark.parametrize("has_logprobs", [True, False])
def test_the_users_prompt_stays_unless_an_elite_is_better(has_logprobs: bool) -> None:
    for ours, others, wins in ((0.8, -0.5, True), (-0.9, 0.2, False)):
        skills = {"Name it a.": -0.9, "Name it b.": ours}
        transport = Marked(liked=lambda text, skills=skills, others=others: skills.get(text, others))
        study, _ = study_of(transport, marked_task(), has_logprobs=has_logprobs)
        fitness = Fitness("margin" if has_logprobs else "accuracy")
        best = drive(choose_best(study, fitness, [elite("a"), elite("b")], study.task.dev))
        assert best.id == (elite("b").id if wins else study.initial.id)


def test_the_choice_takes_held_examples_and_calls_as_allowed() -> None:
    for n_calls, n_elites, n_held in ((1000, 5, 40), (150, 2, 40), (60, 1, 30)):
        transport = Marked()
        study, _ = study_of(transport, marked_task(n_dev=80), n_calls=n_calls)
        _, held = split_dev(study, 40)
        field = [elite(name) for name in "abcde"]
        drive(choose_best(study, Fitness("margin"), field, held))
        assert len(transport.requests) <= n_calls
        items = {item_of(request) for request in transport.requests}
        assert items <= {int(example.inputs["input"].split()[-1]) for example in held}
        asked = {prompt_of(request) for request in transport.requests} - {study.initial.prompt.instruction}
        assert len(asked) == n_elites
        assert len(items) == n_held if n_elites > 1 else 0 < len(items) <= n_held  # a race may end early
