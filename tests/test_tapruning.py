"""TAPruning against its specification: the invariants of the method, on scripted models."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from marked import N_MARKERS, Marked, drive, item_of, liking, marked_task, prompt_of, study_of
from scripted import noise

from promptopt.errors import ConfigError
from promptopt.optimizers.tapruning import TaPruning, _Climb, accepts, last_maxima
from promptopt.pruning import Entry, Fitness, few_shot, split_dev
from promptopt.registry import make_optimizer, uses
from promptopt.task import Task
from promptopt.types import Candidate, Prompt

MARGIN, ACCURACY = Fitness("margin"), Fitness("accuracy")


class Watched(_Climb):
    """Notes what every pass tried, and what was decided."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.passes: list[int] = []
        self.decisions: list[tuple[str, bool]] = []

    async def _pass(self, stretches: Any) -> None:
        self.passes.append(len(stretches))
        await super()._pass(stretches)

    def _decide(self, step: Any, value: float) -> bool:
        was_accepted = super()._decide(step, value)
        if step.candidate is not None:
            self.decisions.append((step.candidate.id, was_accepted))
        return was_accepted


def climb(
    options: TaPruning,
    transport: Marked,
    *,
    task: Task | None = None,
    fitness: Fitness = MARGIN,
    n_search: int = 12,
    seed: int = 0,
) -> Watched:
    """Return a climb from the user's prompt after its end."""
    study, _ = study_of(transport, task or marked_task(), has_logprobs=fitness == MARGIN, seed=seed)
    search, _ = split_dev(study, n_search)
    found = Watched(options, study, fitness, search, 0)
    drive(found.run(few_shot(study, options.n_shots or 0, 10**6)))
    return found


def rugged(text: str) -> float:
    return liking(text) / 4 + noise("rugged", text) - 0.5


def entry(fitness: float, name: str) -> Entry:
    return Entry(Candidate(Prompt(name)), (True,), fitness)


def test_accepts_at_the_threshold_by_ratio_or_by_distance_where_rewards_may_be_negative() -> None:
    assert accepts(0.48, 0.5, 0.96, ACCURACY)
    assert not accepts(0.479, 0.5, 0.96, ACCURACY)
    assert accepts(0.0, 0.0, 0.96, ACCURACY)
    for best in (-100.0, 0.0, 5.0, 100.0):
        assert accepts(best - 7.9, best, 0.96, MARGIN)
        assert not accepts(best - 8.1, best, 0.96, MARGIN)
        assert accepts(best + 1, best, 0.96, MARGIN)


def test_the_answer_is_the_last_of_the_fittest() -> None:
    trace = [entry(1, "a"), entry(3, "b"), entry(2, "c"), entry(3, "d"), entry(2, "e")]
    assert [found.candidate.prompt.instruction for found in last_maxima(trace)] == ["d", "b", "e", "c", "a"]
    assert [found.fitness for found in last_maxima([*trace, trace[1]])] == [3, 3, 2, 2, 1]


def test_prompts_are_subsequences_with_every_placeholder_once() -> None:
    text = "system:\nName the GOOD colour. <!-- keep -->Be FINE.<!-- /keep -->\n\nuser:\nIt is this: {{input}}"
    found = climb(TaPruning(n_shots=3), Marked(liked=rugged), task=marked_task(text))
    assert len(found.traces) > 3
    tokens = found.tokens
    whole = re.sub(r"\s", "", "".join(tokens.tokens))
    for trial in found.traces:
        prompt = trial.candidate.prompt
        assert prompt.instruction.count("{{input}}") == 1
        assert "<!-- keep -->Be FINE.<!-- /keep -->" in prompt.instruction
        kept = "".join(t for t, keeps in zip(tokens.tokens, trial.mask, strict=True) if keeps)
        rest = iter(whole)
        assert all(char in rest for char in re.sub(r"\s", "", kept))
        assert tokens.prompt(trial.mask).instruction.strip() == prompt.instruction


def test_masks_only_lose_tokens_and_each_stays_above_the_threshold() -> None:
    found = climb(TaPruning(n_shots=2), Marked(liked=rugged))
    assert len(found.traces) > 5
    best = found.traces[0].fitness
    for before, after in zip(found.traces, found.traces[1:], strict=False):
        assert all(now <= then for now, then in zip(after.mask, before.mask, strict=True))
        assert after.n_kept < before.n_kept
        assert after.fitness >= best - 8 - 1e-9
        best = max(best, after.fitness)
    assert found.best == best == last_maxima(found.traces)[0].fitness


@pytest.mark.parametrize("order", ["left-to-right", "shuffled"])
def test_single_tokens_cost_one_prompt_each_and_pass(order: Any) -> None:
    transport = Marked(liked=rugged)
    words = " ".join(f"word{i}" for i in range(20))  # all different: no two deletions give the same prompt
    found = climb(TaPruning(chunk=1, order=order, threshold=0.8), transport, task=marked_task(words))
    assert found.passes[0] == 20
    assert len(found.passes) > 1
    assert len(found.decisions) == sum(found.passes)
    assert len(transport.requests) == 12 * (1 + len({name for name, _ in found.decisions}))


def test_shuffled_order_differs_from_left_to_right() -> None:
    def decided(order: Any) -> list[tuple[str, bool]]:
        return climb(TaPruning(chunk=1, order=order), Marked(liked=rugged)).decisions

    assert decided("shuffled") == decided("shuffled")
    assert decided("shuffled") != decided("left-to-right")


def test_passes_go_from_coarse_to_fine_within_sections() -> None:
    found = climb(TaPruning(n_shots=4), Marked(liked=lambda text: -0.5 + len(text) / 1000))
    sizes = [found._stretches(chunk, False) for chunk in (8, 4, 2, 1)]
    for chunk, stretches in zip((8, 4, 2, 1), sizes, strict=True):
        assert max(map(len, stretches)) == chunk
        assert [i for part in stretches for i in part] == [i for i in found.tokens.mutable if found.now.mask[i]]
        assert all(any(set(part) <= set(section) for section in found.sections) for part in stretches)
    assert found.passes[0] < found.passes[-1]


@pytest.mark.parametrize("fitness", [MARGIN, ACCURACY], ids=["margin", "accuracy"])
@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"n_ahead": 4}], ids=str)
def test_keeps_all_markers_and_drops_most_else(fitness: Fitness, options: dict[str, Any]) -> None:
    found = climb(TaPruning(**options), Marked(), fitness=fitness, task=marked_task(n_dev=80), n_search=40)
    best = last_maxima(found.traces)[0]
    assert len(re.findall("GOOD|FINE", best.candidate.prompt.instruction)) == N_MARKERS
    assert best.n_kept <= len(found.tokens.tokens) / 2


@pytest.mark.parametrize("n_ahead", [2, 3, 5])
@pytest.mark.parametrize("liked", [rugged, liking, lambda text: len(text) / 1000], ids=["rugged", "easy", "no"])
def test_looking_ahead_changes_no_decision(liked: Any, n_ahead: int) -> None:
    def decided(n: int) -> tuple[list[tuple[str, bool]], list[Entry], int]:
        transport = Marked(liked=liked)
        found = climb(TaPruning(n_shots=3, n_ahead=n), transport)
        return found.decisions, found.traces, len(transport.requests)

    alone, ahead = decided(1), decided(n_ahead)
    assert ahead[:2] == alone[:2]
    assert ahead[2] >= alone[2]


def test_looking_ahead_asks_for_several_prompts_at_a_time() -> None:
    sizes = []

    class Counted(Watched):
        async def _values(self, steps: Any) -> list[float]:
            sizes.append(len(steps))
            return await super()._values(steps)

    study, _ = study_of(Marked(liked=lambda text: -len(text) / 1000), marked_task())
    search, _ = split_dev(study, 12)
    drive(Counted(TaPruning(n_ahead=4), study, MARGIN, search, 0).run(study.initial))
    assert max(sizes) == 4


@pytest.mark.parametrize("fitness", [MARGIN, ACCURACY], ids=["margin", "accuracy"])
@pytest.mark.parametrize("n_blocks", [2, 5, 40])
def test_stopping_early_changes_no_decision(fitness: Fitness, n_blocks: int) -> None:
    def decided(n: int) -> tuple[list[tuple[str, bool]], list[Entry], int]:
        transport = Marked(liked=lambda text: noise("cliff", text) + 0.3 if "GOOD" in text else -0.98)
        task = marked_task(n_dev=80)
        found = climb(TaPruning(chunk=1, n_blocks=n), transport, fitness=fitness, n_search=40, task=task)
        return found.decisions, found.traces, len(transport.requests)

    whole, parts = decided(1), decided(n_blocks)
    assert parts[0] == whole[0]
    assert [e.fitness for e in parts[1]] == pytest.approx([e.fitness for e in whole[1]])
    assert parts[2] < whole[2]


@pytest.mark.parametrize(
    "text",
    ["<!-- keep -->Name the colour.<!-- /keep -->", "<!-- keep -->" + "a " * 20 + "<!-- /keep --> now", "colour"],
)
def test_ends_when_nothing_can_go(text: str) -> None:
    transport = Marked()
    study, _ = study_of(transport, marked_task(text))
    best = drive(TaPruning(n_shots=0).optimize(study))
    assert best.prompt.instruction in ("colour", text, text.removesuffix(" now"))
    assert len(transport.requests) < 100


def test_same_seed_same_trace() -> None:
    def trace(seed: int) -> list[Entry]:
        return climb(TaPruning(n_shots=3, order="shuffled"), Marked(liked=rugged), seed=seed).traces

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_no_prompt_meets_an_example_twice() -> None:
    transport = Marked(liked=rugged)
    twins = marked_task(" ".join(["word"] * 12 + ["GOOD"] * 3))  # deleting either of two equal words is the same
    climb(TaPruning(chunk=1), transport, task=twins)
    assert max(Counter(request.digest for request in transport.requests).values()) == 1
    assert len(transport.requests) == 12 * len(transport.prompts)


def test_the_choice_is_on_examples_that_the_search_never_saw() -> None:
    transport = Marked()
    study, _ = study_of(transport, marked_task(n_dev=60), n_calls=1500)
    drive(TaPruning(n_search=20, n_elites=3, has_restarts=False).optimize(study))
    asked: dict[str, set[int]] = {}
    for request in transport.requests:
        asked.setdefault(prompt_of(request), set()).add(item_of(request))
    initial = study.initial.prompt.instruction
    searched = set.intersection(*(items for prompt, items in asked.items() if prompt != initial))
    held = {prompt for prompt, items in asked.items() if items - searched and prompt != initial}
    assert len(searched) == 20
    assert 1 <= len(held) <= 3


def test_the_users_prompt_is_returned_unless_another_is_better() -> None:
    task = marked_task(n_dev=60)
    for liked, is_better in (
        (liking, True),
        (lambda text: 0.3 if text == task.initial.instruction else -0.5, False),
    ):
        study, _ = study_of(Marked(liked=liked), task, n_calls=2000)
        best = drive(TaPruning().optimize(study))
        assert (best.id != task.initial.id) == is_better
        assert not is_better or liking(best.prompt.instruction) > liking(task.initial.instruction)


@pytest.mark.parametrize("n_calls", [110, 300, 1000, 3000])
def test_keeps_calls_for_the_choice(n_calls: int) -> None:
    transport = Marked(liked=rugged)
    study, _ = study_of(transport, marked_task(n_dev=100, n_train=60), n_calls=n_calls)
    drive(TaPruning().optimize(study))
    assert 0.6 * n_calls < len(transport.requests) <= n_calls


def test_starts_anew_from_other_demonstrations() -> None:
    def shown(**options: Any) -> set[str]:
        transport = Marked()
        study, _ = study_of(transport, marked_task("colour GOOD", n_train=60), n_calls=3000)
        drive(TaPruning(n_shots=2, n_search=10, start="few-shot", **options).optimize(study))
        return {n for prompt in transport.prompts for n in re.findall(r"item number (\d+)", prompt)}

    assert len(shown()) > 4
    assert len(shown(has_restarts=False)) == 2


@pytest.mark.parametrize(
    ("demos_help", "start", "is_bare"),
    [(False, "better", True), (True, "better", False), (False, "few-shot", False)],
)
def test_starts_from_the_users_prompt_where_demonstrations_harm(
    demos_help: bool, start: Any, is_bare: bool
) -> None:
    def liked(text: str) -> float:
        return 0.4 if ("item number" in text) == demos_help else -0.4

    options = TaPruning(n_shots=2, start=start, chunk=1)
    study, _ = study_of(Marked(liked=liked), marked_task(n_train=60))
    search, _ = split_dev(study, 12)
    found = Watched(options, study, MARGIN, search, 0)
    drive(found.run(few_shot(study, 2, 10**6)))
    assert (found.traces[0].candidate.id == study.initial.id) == is_bare
    assert found.reference == pytest.approx(80.0 if is_bare or demos_help else -72.0)


def test_climbs_from_the_same_start_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []

    def watched(self: _Climb, chunk: int, is_shuffled: bool) -> list[tuple[int, ...]]:
        orders.append(is_shuffled)
        return []

    monkeypatch.setattr(_Climb, "_stretches", watched)
    found = climb(TaPruning(n_shots=0, chunk=1), Marked(liked=rugged))
    drive(found.run(found.study.initial))
    assert orders == [False, True]


def test_the_paper_preset_is_the_published_algorithm() -> None:
    paper = make_optimizer("tapruning", {"preset": "paper"})[1]
    assert paper == TaPruning("accuracy", n_search=200, start="few-shot", chunk=1, has_restarts=False, n_elites=1)
    assert (paper.threshold, paper.order, paper.n_ahead) == (0.96, "left-to-right", 1)  # type: ignore[attr-defined]


def test_a_missing_answer_decides_nothing() -> None:
    found = climb(TaPruning(chunk=1), Marked())
    found.reference = np.full(12, 50.0)
    half = np.full((1, 12), np.nan)
    half[0, :6] = 50.0

    class Gaps(Fitness):
        async def values(self, study: Any, candidates: Any, examples: Any) -> Any:
            return half[:, : len(examples)]

    found.fitness = Gaps("margin")
    assert drive(found._blockwise(found.now.candidate)) == 50.0


def test_log_probabilities_are_asked_for_only_where_they_are_used() -> None:
    assert uses(TaPruning()) == {"labels", "log-probabilities"}
    assert uses(TaPruning(fitness="accuracy")) == {"labels"}


@pytest.mark.parametrize(
    "options",
    [
        {"n_search": 0},
        {"chunk": 0},
        {"n_ahead": 0},
        {"n_blocks": 0},
        {"n_elites": 0},
        {"n_shots": -1},
        {"threshold": 0.0},
        {"rerank_share": 1.0},
    ],
    ids=str,
)
def test_sizes_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TaPruning(**options)
