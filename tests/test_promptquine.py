"""PromptQuine against its specification: the invariants of the method, on scripted models."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from marked import N_MARKERS, Marked, drive, item_of, liking, marked_task, prompt_of, study_of
from scripted import Scripted, noise

from promptopt.errors import ConfigError
from promptopt.optimizers.promptquine import PromptQuine, _Evolution, elites, survivors, tournament
from promptopt.pruning import Entry, Fitness, few_shot, split_dev
from promptopt.registry import make_optimizer, uses
from promptopt.task import Task
from promptopt.types import Candidate, Prompt

PUBLISHED: dict[str, Any] = {
    **{"max_bits": 4, "p_run": 0.0, "p_section": 0.0, "survival": "aging", "init": "duplicates"},
    **{"has_restarts": False, "min_tokens": 4},
}
ALL_MODES = pytest.mark.parametrize("mode", ["gga", "ssga"])


def evolve(
    options: PromptQuine,
    *,
    transport: Scripted | None = None,
    task: Task | None = None,
    n_search: int = 12,
    p: int = 6,
    q: int = 8,
    seed: int = 0,
    cls: type[_Evolution] = _Evolution,
    kind: Any = "margin",
) -> _Evolution:
    """Return a search from the user's prompt after its end."""
    study, _ = study_of(transport or Marked(), task or marked_task(), has_logprobs=kind == "margin", seed=seed)
    search, _ = split_dev(study, n_search)
    evolution = cls(options, study, Fitness(kind), search, p, q, 0)

    async def run() -> None:
        await evolution.run(few_shot(study, options.n_shots or 0, 10**6))

    drive(run())
    return evolution


def optimize(options: PromptQuine, transport: Scripted, task: Task, **sizes: Any) -> Candidate:
    study, _ = study_of(transport, task, **sizes)
    return drive(options.optimize(study))


def entry(fitness: float, name: str = "x", *, n_kept: int = 1, is_full: bool = True) -> Entry:
    candidate = Candidate(Prompt(f"{name} {fitness} {n_kept}"))
    return Entry(candidate, (True,) * n_kept, fitness, is_full=is_full)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def is_subsequence(short: str, long: str) -> bool:
    rest = iter(long)
    return all(char in rest for char in short)


@ALL_MODES
@pytest.mark.parametrize("init", ["spread", "random", "duplicates"])
def test_prompts_are_subsequences_with_every_placeholder_once(mode: Any, init: Any) -> None:
    text = "system:\nName the GOOD colour. <!-- keep -->Be FINE.<!-- /keep -->\n\nuser:\nIt is this: {{input}}"
    options = PromptQuine(mode, init=init, n_shots=3, max_prompts=60)
    evolution = evolve(options, task=marked_task(text))
    start = squeezed("".join(evolution.tokens.tokens))
    assert len(evolution.history) > 20
    for found in evolution.history:
        prompt = found.candidate.prompt
        assert prompt.instruction.count("{{input}}") == 1
        assert "<!-- keep -->Be FINE.<!-- /keep -->" in prompt.instruction
        kept = "".join(t for t, keeps in zip(evolution.tokens.tokens, found.mask, strict=True) if keeps)
        shown = squeezed(prompt.instruction + "".join(_text(demo) for demo in prompt.demos))
        assert shown == squeezed(kept)
        assert is_subsequence(shown, start)


def _text(demo: Any) -> str:
    columns = "".join(text for _, text in demo.inputs)
    return f"Input:{columns}Output:{demo.output}" if demo.inputs else demo.output


@ALL_MODES
def test_masks_only_lose_one_to_four_tokens_a_mutation(mode: Any) -> None:
    evolution = evolve(PromptQuine(mode, **PUBLISHED, max_prompts=120))
    by_id = {found.candidate.id: found for found in evolution.history}
    children = [found for found in evolution.history if found.candidate.operator == "pruning"]
    lost = Counter()
    for child in children:
        parent = by_id[child.candidate.parents[0]]
        assert all(now <= before for now, before in zip(child.mask, parent.mask, strict=True))
        lost[parent.n_kept - child.n_kept] += 1
    assert set(lost) == {1, 2, 3, 4}


def test_our_mutations_drop_runs_and_sections_as_well() -> None:
    shapes = Counter()
    for options in (PromptQuine(p_run=1.0, p_section=0.0), PromptQuine(p_run=0.0, p_section=1.0)):
        evolution = evolve(replace(options, n_shots=4, init="duplicates", max_prompts=40))
        by_id = {found.candidate.id: found for found in evolution.history}
        for child in evolution.history[1:]:
            parent = by_id[child.candidate.parents[0]]
            kept = [i for i in evolution.tokens.mutable if parent.mask[i]]
            places = [kept.index(i) for i in kept if not child.mask[i]]
            is_run = places == list(range(places[0], places[0] + len(places)))
            gone = {kept[place] for place in places}
            is_section = any(gone == {i for i in part if parent.mask[i]} for part in evolution.sections)
            shapes[options.p_section, "run" if is_run else "scattered", is_section] += 1
    assert all(shape == "run" for p, shape, _ in shapes if p == 0)
    assert all(is_section for p, _, is_section in shapes if p == 1)
    assert len(shapes) > 1


def test_the_old_make_room_for_children_even_if_they_are_fitter() -> None:
    parents, children = [entry(9.0, f"p{i}") for i in range(3)], [entry(float(i), "c") for i in range(4)]
    assert survivors(parents, children, 3, 4, "aging") == [children[3], children[2], children[1]]
    assert survivors(parents, children[:3], 3, 4, "aging")[0] == parents[2]  # three children leave one place
    assert survivors(parents, children, 3, 4, "elitist") == parents


def test_aging_replaces_the_start_though_nothing_is_better() -> None:
    class OneGeneration(_Evolution):
        def _report(self, n_generations: int, n_children: int) -> None:
            self.n_affordable_now = 0 if n_children >= self.q else 1

        @property
        def n_affordable(self) -> int:
            return 100 * getattr(self, "n_affordable_now", 1)

    transport = Marked(liked=lambda text: len(text) / 1000)
    for survival, stays in (("aging", False), ("elitist", True)):
        options = PromptQuine(**{**PUBLISHED, "survival": survival})
        evolution = evolve(options, transport=transport, cls=OneGeneration)
        ids = {member.candidate.id for member in evolution.population}
        assert (evolution.start.id in ids) == stays


def test_the_fittest_drawn_wins_a_tournament_and_the_first_on_ties() -> None:
    members = [entry(1.0, "a"), entry(3.0, "b"), entry(3.0, "c"), entry(9.0, "d", is_full=False)]
    assert tournament(members, [0, 2, 1]) is members[2]
    assert tournament(members, [0, 0]) is members[0]
    assert tournament(members, [3, 0]) is members[0]  # half a score ranks below any whole one
    assert tournament(members[:1], [0, 0]) is members[0]


@pytest.mark.parametrize(("init", "n_prompts"), [("duplicates", 1), ("random", 1 + 6)])
def test_what_the_first_population_costs(init: Any, n_prompts: int) -> None:
    class OnlyBegin(_Evolution):
        async def run(self, start: Candidate) -> None:
            await self.begin(start)

    transport = Marked()
    text = " ".join(f"word{i}" for i in range(60))
    evolution = evolve(PromptQuine(init=init), transport=transport, task=marked_task(text), cls=OnlyBegin)
    assert len(transport.requests) == n_prompts * 12
    assert len(evolution.population) == 6
    if init == "duplicates":
        assert {member.candidate.id for member in evolution.population} == {evolution.start.id}
    else:
        assert all(0.7 < member.n_kept / 60 < 1 for member in evolution.population)


def test_spread_members_keep_few_to_nearly_all_tokens() -> None:
    evolution = evolve(PromptQuine(n_shots=6, max_prompts=1), task=marked_task(" ".join(["word"] * 40)))
    kept = sorted(sum(mask) for mask in evolution._spread(12))
    n = len(evolution.tokens.tokens)
    assert kept[0] <= 4
    assert kept[-1] >= 0.7 * n
    assert evolution.study.tokenized(evolution.start.prompt).starts[1] in kept  # no demonstrations at all


@ALL_MODES
@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["default", "published"])
def test_keeps_all_markers_and_drops_most_else(mode: Any, options: dict[str, Any]) -> None:
    evolution = evolve(PromptQuine(mode, **options, max_prompts=800), n_search=3, p=30, q=50)
    best = elites(evolution.history, 1e-9)[0]
    assert len(re.findall("GOOD|FINE", best.candidate.prompt.instruction)) == N_MARKERS
    assert best.n_kept <= len(evolution.tokens.tokens) / 2


def halved(text: str) -> float:
    return 2 * noise("liked", text) - 1


def test_halving_asks_for_the_second_half_of_promoted_children_only() -> None:
    class Watched(_Evolution):
        async def _score_by_halves(self, drafts: Any) -> list[Entry]:
            n_before = len(transport.requests)
            found = await super()._score_by_halves(drafts)
            bar = min(member.first_half for member in self.population)
            promoted = [child for child in found if child.first_half >= bar]
            assert [child for child in found if child.is_full] == promoted
            assert len(transport.requests) - n_before == 7 * len(found) + 6 * len(promoted)
            counts.update(child.is_full for child in found)
            return found

    transport, counts = Marked(liked=halved), Counter[bool]()
    options = PromptQuine(is_halving=True, fitness="accuracy", max_prompts=80)
    evolution = evolve(options, transport=transport, n_search=13, cls=Watched, kind="accuracy")
    assert min(counts[True], counts[False]) > 5
    for found in evolution.history:  # a whole score is the mean over all, whatever the sizes of the halves
        asked = [r for r in transport.requests if prompt_of(r) == found.candidate.prompt.instruction]
        right = [(item_of(r) * 0.618) % 1 < (1 + halved(prompt_of(r))) / 2 for r in asked]
        assert found.fitness == pytest.approx(sum(right) / len(right))
        assert len(right) == (13 if found.is_full else 7)
    assert all(found.is_full for found in elites(evolution.history, 1.0))


@pytest.mark.parametrize("options", [{"mode": "ssga", "fitness": "accuracy"}, {}, {"fitness": "margin"}])
def test_halving_is_refused_where_it_is_not_defined(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="halving"):
        PromptQuine(is_halving=True, **options)


def test_elites_are_a_share_of_all_that_was_scored_with_ties() -> None:
    history = [entry(float(value), n_kept=9 - value) for value in range(10)]
    assert [e.fitness for e in elites(history, 0.15)] == [9.0, 8.0]
    tied = [*history, entry(8.0, n_kept=5), entry(8.0, n_kept=2), entry(99.0, is_full=False)]
    assert [(e.fitness, e.n_kept) for e in elites(tied, 0.15)] == [(9, 0), (8, 1), (8, 2), (8, 5)]


def test_elites_meet_on_examples_that_the_search_never_saw() -> None:
    transport = Marked()
    study, _ = study_of(transport, marked_task(n_dev=60), n_calls=800)
    options = PromptQuine(n_search=20, has_restarts=False)
    drive(options.optimize(study))
    asked: dict[str, set[int]] = {}
    for request in transport.requests:
        asked.setdefault(prompt_of(request), set()).add(item_of(request))
    initial = study.initial.prompt.instruction
    searched = set.intersection(*(items for prompt, items in asked.items() if prompt != initial))
    assert len(searched) == 20
    held = [items - searched for prompt, items in asked.items() if items - searched and prompt != initial]
    assert 1 <= len(held) < len(asked) / 4
    assert all(len(items) >= 10 for items in held)


@ALL_MODES
@pytest.mark.parametrize(
    "text",
    ["<!-- keep -->Name the colour.<!-- /keep -->", "<!-- keep -->" + "a " * 20 + "<!-- /keep --> now", "colour"],
)
def test_ends_when_nothing_can_go(mode: Any, text: str) -> None:
    for options in (PromptQuine(mode, n_shots=0), PromptQuine(mode, n_shots=0, **PUBLISHED)):
        transport = Marked()
        best = optimize(options, transport, marked_task(text))
        assert best.prompt.instruction in ("colour", text.strip(), text.removesuffix(" now"))
        assert len(transport.requests) < 200


@ALL_MODES
def test_same_seed_same_history(mode: Any) -> None:
    def history(seed: int) -> list[tuple[str, float]]:
        evolution = evolve(PromptQuine(mode, n_shots=3, max_prompts=60), seed=seed)
        return [(found.candidate.id, found.fitness) for found in evolution.history]

    assert history(1) == history(1)
    assert history(1) != history(2)


@ALL_MODES
def test_no_prompt_meets_an_example_twice_and_no_prompt_is_scored_twice(mode: Any) -> None:
    transport = Marked()
    evolution = evolve(PromptQuine(mode, max_prompts=200), transport=transport)
    assert max(Counter(request.digest for request in transport.requests).values()) == 1
    ids = [found.candidate.id for found in evolution.history]
    assert len(ids) == len(set(ids))
    assert len(transport.requests) == 12 * len(ids)


class OneAtATime(_Evolution):
    """SSGA as published: each child is scored before the next parent is drawn."""

    async def _steady_state(self, q: int) -> list[Entry]:
        pool = list(self.population)
        for _ in range(q):
            draft = self._child(tournament(pool, self._draws(len(pool))), {})
            pool += await self._score([draft] if draft else [])
        return pool[len(self.population) :]


def test_children_scored_together_are_those_of_one_at_a_time() -> None:
    def history(cls: type[_Evolution]) -> tuple[list[Entry], int]:
        options = PromptQuine("ssga", n_shots=4, max_prompts=150, init="random", tournament=0.3)
        batches.clear()
        return evolve(options, transport=Marked(liked=halved), cls=cls).history, len(batches)

    class Counted(_Evolution):
        async def _score(self, drafts: Any) -> list[Entry]:
            batches.append(len(drafts))
            return await super()._score(drafts)

    batches: list[int] = []
    (together, n_batches), (alone, _) = history(Counted), history(OneAtATime)
    assert together == alone
    assert len(together) > 100
    assert n_batches < len(together) / 1.5


def test_the_users_prompt_is_returned_unless_another_is_better() -> None:
    task = marked_task(n_dev=60)
    worse = Marked(liked=lambda text: 0.3 if text == task.initial.instruction else -0.5)
    assert optimize(PromptQuine(), worse, task, n_calls=900).prompt == task.initial
    better = optimize(PromptQuine(), Marked(), task, n_calls=3000)
    assert liking(better.prompt.instruction) > liking(task.initial.instruction)


@pytest.mark.parametrize("n_calls", [110, 300, 1000, 3000])
def test_keeps_calls_for_the_choice(n_calls: int) -> None:
    transport = Marked()
    study, state = study_of(transport, marked_task(n_dev=100), n_calls=n_calls)
    drive(PromptQuine().optimize(study))
    assert 0.6 * n_calls < len(transport.requests) <= n_calls
    assert state.births  # candidates were met
    assert max(Counter(map(prompt_of, transport.requests)).values()) > (10 if n_calls == 110 else 16)


def test_starts_anew_from_other_demonstrations() -> None:
    transport = Marked()
    task = marked_task("colour GOOD", n_train=60)
    optimize(PromptQuine(n_shots=2, n_search=10), transport, task, n_calls=3000)
    numbers = {n for prompt in transport.prompts for n in re.findall(r"item number (\d+)", prompt)}
    assert len(numbers) > 4
    transport = Marked()
    optimize(PromptQuine(n_shots=2, n_search=10, has_restarts=False), transport, task, n_calls=3000)
    assert len({n for prompt in transport.prompts for n in re.findall(r"item number (\d+)", prompt)}) == 2


def test_the_paper_preset_is_the_published_algorithm() -> None:
    paper = make_optimizer("promptquine", {"preset": "paper"})[1]
    assert isinstance(paper, PromptQuine)
    assert (paper.population_size, paper.n_offspring, paper.max_bits) == (30, 50, 4)
    assert (paper.p_run, paper.p_section, paper.survival, paper.init) == (0, 0, "aging", "duplicates")
    assert (paper.min_tokens, paper.max_prompts, paper.tournament) == (15, 10_000, 0.2)
    transport = Marked()
    study, _ = study_of(transport, marked_task(n_dev=60), n_calls=4000)
    drive(paper.optimize(study))
    counts = Counter(map(prompt_of, transport.requests))
    assert Counter(counts.values()).most_common(1)[0][0] == 8 * 3


def test_log_probabilities_are_asked_for_only_where_they_are_used() -> None:
    assert uses(PromptQuine()) == {"labels", "log-probabilities"}
    assert uses(PromptQuine(fitness="accuracy")) == {"labels"}


@pytest.mark.parametrize(
    "options",
    [
        {"population_size": 0},
        {"n_offspring": 0},
        {"max_bits": 0},
        {"patience": 0},
        {"tournament": 0.0},
        {"elite_share": 1.5},
        {"rerank_share": 1.0},
        {"p_run": 0.7, "p_section": 0.7},
        {"n_shots": -1},
    ],
    ids=str,
)
def test_sizes_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        PromptQuine(**options)
