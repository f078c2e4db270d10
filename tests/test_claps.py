"""ClaPS against its specification: the invariants of the method, on scripted models with log-probabilities."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scripted import LABELS, Scripted, make_study, make_task

from promptopt.errors import ConfigError
from promptopt.evaluation import RunState
from promptopt.optimizers.claps import Claps, _moved, above_percentile
from promptopt.prefix import Ids, PrefixScorer, reward_rows
from promptopt.registry import make_optimizer
from promptopt.study import Study
from promptopt.task import Task
from promptopt.types import Request, Response

WORDS = ("help", "harm", "dull", "flat", "grey", "even", "same", "calm")
PULLS = {"help": 1.0, "harm": -1.0}
START = "Name the colour."


def words_of(request: Request) -> tuple[str, ...]:
    """Return the words before the prompt."""
    return tuple(request.messages[0].content.partition("Name the colour.")[0].split())


@dataclass
class Graded(Scripted):
    """Answers with log-probabilities: each word before the prompt adds to the right label's logit.

    Args:
        pulls: what a word adds; others add nothing.
    """

    pulls: Any = None

    def respond(self, request: Request) -> Response:
        i = int(request.messages[-1].content.split()[-1])
        right = LABELS[i % 3]
        pulls = PULLS if self.pulls is None else self.pulls
        lift = 0.3 * (i % 5 - 2) + sum(pulls.get(word, 0.0) for word in words_of(request))
        logits = {label: lift if label == right else 0.0 for label in LABELS}
        total = math.log(sum(math.exp(value) for value in logits.values()))
        ranked = sorted(((label, value - total) for label, value in logits.items()), key=lambda p: -p[1])
        return replace(super().respond(request), text=ranked[0][0], logprobs=tuple(ranked))


def study_of(
    transport: Graded | None = None, task: Task | None = None, **options: Any
) -> tuple[Study, RunState, Graded]:
    """Return a study whose task model reports log-probabilities, its state and its transport."""
    transport = transport or Graded(str)
    study, state = make_study(transport, task=task or make_task(), **options)
    state.models = {**state.models, "task": replace(state.models["task"], top_logprobs=20)}
    return study, state, transport


def scorer_of(study: Study, words: Sequence[str] = WORDS) -> PrefixScorer:
    """Return a scorer on all of train, with the bare prompt evaluated."""
    items = study.task.train
    base = drive(lambda: reward_rows(study, [study.initial], items, "cross_entropy"))[0]
    return PrefixScorer(study, tuple(words), items, "cross_entropy", base)


def drive(work: Callable[[], Any]) -> Any:
    return asyncio.run(work())


def probes(transport: Graded, split: str, task: Task) -> list[tuple[tuple[str, ...], str]]:
    """Return (words before the prompt, input) of the requests on a split."""
    inputs = {example.inputs["input"] for example in getattr(task, split)}
    asked = [(words_of(request), request.messages[-1].content) for request in transport.requests]
    return [row for row in asked if row[1] in inputs]


class Narrow(Claps):
    """Has a vocabulary of eight words."""

    async def _representatives(self, study: Study, k: int) -> tuple[str, ...]:
        return WORDS


# 1. Pruning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.0, 50.0, 87.0, 99.0])
def test_pruning_keeps_what_lies_strictly_above_the_percentile(percentile: float) -> None:
    values = np.random.default_rng(0).permutation(200).astype(float)
    kept = above_percentile(values, percentile)
    assert set(kept.tolist()) == set(np.flatnonzero(values > np.percentile(values, percentile)).tolist())
    assert values[kept].tolist() == sorted(values[kept], reverse=True)


@pytest.mark.parametrize(("percentile", "n"), [(90.0, 2), (87.0, 3), (99.0, 1)])
def test_where_all_tie_pruning_keeps_that_share_by_rank(percentile: float, n: int) -> None:
    assert above_percentile(np.zeros(20), percentile).tolist() == list(range(n))


@pytest.mark.parametrize("influence", ["reward", "kl"])
@pytest.mark.parametrize("screens", [True, False])
def test_planted_words_survive_pruning_and_neutral_ones_do_not(influence: Any, screens: bool) -> None:
    study, _, _ = study_of()
    claps = Claps(influence=influence, screens=screens, percentile=60.0 if influence == "kl" else 80.0)
    words = ("help", "dull", "flat", "harm", "even", "same", "calm", "grey", "also", "thus")
    kept = drive(lambda: claps._prune(scorer_of(study, words), 2))
    found = {words[i] for i in kept}
    # signed: only what helps; unsigned: what moves the labels, either way
    assert found >= ({"help"} if influence == "reward" else {"help", "harm"})
    assert influence == "kl" or "harm" not in found


# 2. Influence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("influence", ["reward", "kl"])
def test_a_word_that_changes_nothing_has_no_influence(influence: Any) -> None:
    study, _, _ = study_of()
    values = drive(lambda: Claps(influence=influence)._influence(scorer_of(study), np.arange(8), 12))
    assert values[2:] == pytest.approx(np.zeros(6), abs=1e-12)
    assert values[0] > 0.1
    assert (values[1] < -0.1) if influence == "reward" else (values[1] > 0.1)


@pytest.mark.parametrize("influence", ["reward", "kl"])
def test_influence_takes_one_probe_of_each_word_and_the_bare_prompt_per_item(influence: Any) -> None:
    study, _, transport = study_of()
    claps = Narrow(influence=influence, screens=False)
    drive(lambda: claps._prune(scorer_of(study), 2))
    asked = probes(transport, "train", study.task)
    assert len(asked) == len(set(asked)) == (len(WORDS) + 1) * len(study.task.train)
    assert {words for words, _ in asked} == {(), *((word,) for word in WORDS)}


def test_screening_measures_all_words_on_half_and_a_quarter_on_all() -> None:
    study, _, transport = study_of()
    drive(lambda: Narrow()._prune(scorer_of(study), 2))
    counts = dict.fromkeys(WORDS, 0)
    for words, _ in probes(transport, "train", study.task):
        for word in words:
            counts[word] += 1
    assert sorted(counts.values()) == [6] * 6 + [12] * 2
    assert counts["help"] == 12
    assert counts["harm"] == 6


# 3. Clusters (see also test_embedding) --------------------------------------------------------------------


def test_representatives_are_words_of_the_vocabulary_and_at_most_k() -> None:
    study, _, _ = study_of()
    words = drive(lambda: Claps()._representatives(study, 40))
    assert 30 <= len(words) <= 40
    assert len(set(words)) == len(words)
    assert set(words) <= set(study.words())


@pytest.mark.parametrize("clusters", [True, False])
def test_a_vocabulary_of_no_more_than_k_words_stays_whole(clusters: bool) -> None:
    study, _, _ = study_of()
    vocabulary = study.words()
    claps = Claps(clusters=clusters)
    assert drive(lambda: claps._representatives(study, len(vocabulary))) == vocabulary
    assert len(drive(lambda: claps._representatives(study, 10))) <= 10


# 4. What is searched --------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["genetic", "swarm", "random", "greedy"])
def test_searched_prompts_are_of_surviving_words_and_k_long(search: Any) -> None:
    study, state, transport = study_of(n_calls=3000)
    drive(lambda: Narrow(search=search, n_tokens=3, n_finalists=2).optimize(study))
    kept = set(state.journal.events("pruned")[0]["words"])
    strings = {words for words, _ in probes(transport, "train", study.task) if len(words) > 1}
    assert strings
    assert {word for words in strings for word in words} <= kept
    assert {len(words) for words in strings} == ({2, 3} if search == "greedy" else {3})


# 5. Greedy search -----------------------------------------------------------------------------------------


def test_greedy_search_takes_k_times_the_words_and_finds_the_best_of_an_additive_reward() -> None:
    pulls = {"help": 0.4, "even": 0.9, "calm": 0.2, "harm": -0.7}
    study, _, _ = study_of(Graded(str, pulls=pulls))
    scorer = scorer_of(study)
    drive(lambda: Claps(n_tokens=3)._greedy(scorer, tuple(range(8))))
    assert scorer.n_scored == len(scorer.known) == 3 * 8
    best = max(scorer.found, key=lambda row: row[1])[0]
    assert [WORDS[i] for i in best] == ["even"] * 3
    assert [len(ids) for ids, _ in scorer.found] == [1, 2, 3]


def test_greedy_search_has_the_first_step_from_the_influence() -> None:
    study, _, transport = study_of()
    scorer = scorer_of(study)
    drive(lambda: Claps(screens=False)._prune(scorer, 4))
    n_before = len(transport.requests)
    drive(lambda: Claps(n_tokens=1)._greedy(scorer, (0, 1, 2, 3)))
    assert len(transport.requests) == n_before


# 6. Genetic search ----------------------------------------------------------------------------------------


class Watched(Claps):
    """Keeps the generations that it scores."""

    def _goes_on(self, scorer: PrefixScorer, population: Sequence[Ids], n_strings: int) -> bool:
        goes_on = super()._goes_on(scorer, population, n_strings)
        if goes_on:
            self.generations.append(list(population))
        return goes_on

    @property
    def generations(self) -> list[list[Ids]]:
        return self.__dict__.setdefault("_generations", [])


PAPER = {"population_size": 128, "n_mutants": 64, "n_crossovers": 64, "elite_share": 0.1, "mutation_rate": 0.1}


def evolve(claps: Claps, n_words: int = 8, n_strings: int = 10**6) -> PrefixScorer:
    study, _, _ = study_of(Graded(str, pulls={word: i / 10 for i, word in enumerate(WORDS)}))
    scorer = scorer_of(study)
    drive(lambda: claps._genetic(scorer, tuple(range(n_words)), n_strings))
    return scorer


def test_generations_have_the_published_sizes() -> None:
    claps = Watched(n_epochs=4, patience=None, **PAPER)
    evolve(claps)
    assert [len(population) for population in claps.generations] == [128, 140, 142, 142]


def test_each_record_is_its_epochs_best_and_the_best_never_falls() -> None:
    claps = Watched(n_epochs=5, population_size=12, patience=None)
    scorer = evolve(claps)
    assert len(scorer.found) == 5
    for population, (ids, value) in zip(claps.generations, scorer.found, strict=True):
        assert ids in population
        assert value == max(scorer.known[member] for member in population)
    values = [value for _, value in scorer.found]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_no_string_meets_an_example_twice_in_one_run() -> None:
    study, _, transport = study_of(n_calls=3000)
    drive(lambda: Narrow(search="genetic").optimize(study))
    digests = [request.digest for request in transport.requests]
    assert len(digests) == len(set(digests))


def test_mutation_can_change_every_position_to_another_word() -> None:
    study, _, _ = study_of()
    parent = (0, 1, 2, 3, 4)
    claps = Claps(mutation_rate=0.1)
    children = [claps._mutated(study, [parent], tuple(range(8))) for _ in range(600)]
    changed = np.array([[a != b for a, b in zip(child, parent, strict=True)] for child in children]).mean(axis=0)
    assert changed == pytest.approx(0.1, abs=0.05)
    everything = Claps(mutation_rate=1.0)._mutated(study, [parent], tuple(range(8)))
    assert all(a != b for a, b in zip(everything, parent, strict=True))


def test_a_crossover_takes_each_position_from_one_of_its_parents() -> None:
    study, _, _ = study_of()
    elite = [(0,) * 5, (1,) * 5]
    children = [Claps()._crossed(study, elite) for _ in range(200)]
    share = np.array(children).mean(axis=0)
    assert share == pytest.approx(0.5, abs=0.15)
    assert {len(set(child)) for child in children} == {1, 2}
    copies = {Claps(crossover="copy")._crossed(study, elite) for _ in range(50)}
    assert copies == set(elite)


def test_a_search_without_progress_stops_early() -> None:
    study, _, _ = study_of(Graded(str, pulls={}))
    scorer = scorer_of(study)
    drive(lambda: Claps(patience=2, population_size=6)._genetic(scorer, tuple(range(8)), 10**6))
    assert len(scorer.found) == 3


def test_a_search_that_has_tried_everything_ends() -> None:
    scorer = evolve(Claps(patience=None, n_tokens=1, population_size=4), n_words=2, n_strings=30)
    assert len(scorer.found) <= 30
    assert len(scorer.known) == 2


# 7. Particle swarm ----------------------------------------------------------------------------------------


def test_the_swarms_best_never_falls_and_is_a_scored_string() -> None:
    study, _, _ = study_of(Graded(str, pulls={word: i / 10 for i, word in enumerate(WORDS)}))
    scorer = scorer_of(study)
    drive(lambda: Claps(population_size=10, n_epochs=8, patience=None)._swarm(scorer, tuple(range(8)), 10**6))
    values = [value for _, value in scorer.found]
    assert len(values) == 8
    assert values == sorted(values)
    assert values[-1] > values[0]
    assert all(scorer.known[ids] == value for ids, value in scorer.found)


def test_particles_move_on_copies_and_only_to_their_targets() -> None:
    rng = np.random.default_rng(0)
    place, own = np.zeros((200, 5), dtype=int), np.ones((200, 5), dtype=int)
    before = place.copy()
    moved = _moved(rng, place, ((own, 0.5),), np.zeros((200, 5)))
    assert (place == before).all()
    assert set(np.unique(moved)) == {0, 1}
    assert moved.mean() == pytest.approx(0.25, abs=0.05)  # half of the particles, half of their words
    assert (_moved(rng, place, ((own, 0.0),), np.full((200, 5), 9.0)) == place).all()
    assert (_moved(rng, place, ((own, 1.0),), np.full((200, 5), -40.0)) == place).all()


# 8 and 9. Rewards and calibration (see also test_prefix) ------------------------------------------------


def test_calibration_is_reported_from_dev_and_changes_nothing() -> None:
    async def search(study: Study, state: RunState, calibrates: bool) -> str:
        best = await Narrow(calibrates=calibrates).optimize(study)
        await state.journal.committed()
        return best.id

    best = {}
    for calibrates in (False, True):
        study, state, _ = study_of(n_calls=3000)
        best[calibrates] = asyncio.run(search(study, state, calibrates))
        reports = state.journal.events("calibration")
        assert len(reports) == calibrates
    assert best[True] == best[False]
    assert 0 <= reports[0]["accuracy"] <= 1
    assert 0 <= reports[0]["calibrated"] <= 1
    assert len(reports[0]["means"]) == len(reports[0]["deviations"]) == len(LABELS)


# 10. Splits -----------------------------------------------------------------------------------------------


def test_train_searches_dev_chooses_and_test_is_never_seen() -> None:
    study, _, transport = study_of(n_calls=3000)
    drive(lambda: Narrow(n_finalists=2).optimize(study))
    train = {words for words, _ in probes(transport, "train", study.task)}
    dev = {words for words, _ in probes(transport, "dev", study.task)}
    assert len(train) > len(dev) >= 2
    last_train = max(i for i, r in enumerate(transport.requests) if probes_one(r, study.task.train))
    first_dev = min(i for i, r in enumerate(transport.requests) if probes_one(r, study.task.dev))
    assert last_train < first_dev
    seen = {request.messages[-1].content for request in transport.requests}
    assert not seen & {example.inputs["input"] for example in make_task().test}


def probes_one(request: Request, examples: Sequence[Any]) -> bool:
    return request.messages[-1].content in {example.inputs["input"] for example in examples}


# The whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["greedy", "genetic", "swarm", "random"])
def test_the_word_that_helps_is_found_and_wins(search: Any) -> None:
    study, state, _ = study_of(n_calls=3000)
    best = drive(lambda: Narrow(search=search).optimize(study))
    words = best.prompt.instruction.removesuffix(START).split()
    assert "help" in words
    assert "harm" not in words
    assert state.proposals[-1].id == best.id


def test_where_no_word_helps_the_users_prompt_stays() -> None:
    study, _, _ = study_of(Graded(str, pulls=dict.fromkeys(WORDS, -0.5)), n_calls=3000)
    assert drive(lambda: Narrow().optimize(study)).id == study.initial.id


@pytest.mark.parametrize("n_calls", [296, 500, 1000, 3000])
@pytest.mark.parametrize("search", ["greedy", "genetic", "swarm", "random"])
def test_default_sizes_stay_within_the_calls_they_scale_to(search: Any, n_calls: int) -> None:
    study, _, transport = study_of(task=make_task(60, 60), n_calls=n_calls)
    drive(lambda: Claps(search=search, clusters=False).optimize(study))
    assert 0.4 * n_calls < len(transport.requests) <= n_calls


def test_each_generation_is_one_batch() -> None:
    study, _, _ = study_of(n_calls=3000)
    sizes: list[int] = []
    evaluate = study.evaluate

    async def counting(candidates: Any, examples: Any) -> Any:
        sizes.append(len(candidates))
        return await evaluate(candidates, examples)

    study.evaluate = counting  # type: ignore[method-assign]
    scorer = scorer_of(study)
    drive(lambda: Claps(population_size=20, n_epochs=1)._genetic(scorer, tuple(range(8)), 100))
    assert [n for n in sizes if n > 1] == [20]


def test_paper_preset_has_the_published_sizes() -> None:
    _, optimizer = make_optimizer("claps", {"preset": "paper"})
    assert optimizer == Claps(
        search="genetic",
        reward="cross_entropy",
        percentile=99.0,
        n_words=2000,
        n_shots=16,
        screens=False,
        population_size=128,
        n_mutants=64,
        n_crossovers=64,
        n_epochs=30,
        elite_share=0.1,
        mutation_rate=0.1,
        patience=None,
        select="accuracy",
        n_finalists=10**9,
        n_choice=10**9,
    )
    assert optimizer.minimum_calls() > 2000 * 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tokens": "0"}, "n_tokens=0; it must be at least 1"),
        ({"n_words": "1"}, "n_words=1; it must be at least 2"),
        ({"percentile": "100"}, "percentile=100.0; it must be at least 0 and below 100"),
        ({"n_mutants": "-1"}, "n_mutants=-1; it must be at least 0"),
        ({"elite_share": "0"}, "elite_share=0.0"),
        ({"search": "swam"}, "did you mean 'swarm'"),
        ({"reward": "margin"}, "valid: cross_entropy, double_softmax, entropy, gap"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizer("claps", options)
