"""CAPO against its specification: the invariants of the method, on scripted models."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import LABELS, Scripted, make_run, make_study, make_task, model, noise

from promptopt.config import Settings
from promptopt.errors import BudgetExhausted, ConfigError
from promptopt.journal import Journal
from promptopt.optimizers.capo import Capo, _Draft
from promptopt.registry import make_optimizer
from promptopt.stats import PairedT
from promptopt.study import Study
from promptopt.types import Budget, Candidate, Demo, Prompt, Request


def is_writing(request: Request) -> bool:
    return "</prompt>" in request.messages[-1].content


def kind(request: Request) -> str:
    text = request.messages[0].content
    if "Merge both" in text:
        return "merge"
    if "same meaning" in text:
        return "paraphrase"
    return "vary" if is_writing(request) else "task"


def drive(work: Callable[[], Any]) -> Any:
    return asyncio.run(work())


class Stepwise(Capo):
    """Stops after a number of steps, by raising what a budget's end raises."""

    n_steps = 3

    async def _race(self, study: Study, *args: Any) -> list[Candidate]:
        survivors = await super()._race(study, *args)
        self.survivors.append(survivors)
        if len(self.survivors) == self.n_steps:
            raise BudgetExhausted("enough")
        return survivors

    @property
    def survivors(self) -> list[list[Candidate]]:
        return self.__dict__.setdefault("_survivors", [])


def test_each_step_writes_twice_per_child_in_two_batches() -> None:
    transport = Scripted(model)
    study, _ = make_study(transport)
    capo = Stepwise(population_size=4, n_crossovers=3)
    with pytest.raises(BudgetExhausted):
        drive(lambda: capo.optimize(study))
    kinds = [kind(request) for request in transport.requests if is_writing(request)]
    assert Counter(kinds) == {"vary": 3, "merge": 9, "paraphrase": 9}
    assert kinds[3:] == (["merge"] * 3 + ["paraphrase"] * 3) * 3


def test_no_prompt_meets_an_example_twice() -> None:
    transport = Scripted(model)
    study, _ = make_study(transport)
    with pytest.raises(BudgetExhausted):
        drive(lambda: Stepwise(population_size=4, n_crossovers=3).optimize(study))
    asked = Counter(request.digest for request in transport.requests)
    assert max(asked.values()) == 1


def test_steps_return_the_population_size() -> None:
    study, _ = make_study(Scripted(model))
    capo = Stepwise(population_size=5, n_crossovers=3)
    with pytest.raises(BudgetExhausted):
        drive(lambda: capo.optimize(study))
    assert [len(survivors) for survivors in capo.survivors] == [5, 5, 5]


@pytest.mark.parametrize("rule", [None, PairedT()], ids=["sound", "paper"])
def test_eliminated_candidates_get_no_later_call(rule: PairedT | None) -> None:
    def reply(request: Request) -> str:
        i = int(request.messages[-1].content.split()[-1])
        is_good = "good" in request.messages[0].content
        return LABELS[i % 3] if is_good else "no idea"

    transport = Scripted(reply)
    study, _ = make_study(transport, task=make_task(n_dev=120))
    good = [Candidate(Prompt(f"Name the colour, good {i}.")) for i in range(3)]
    bad = Candidate(Prompt("Name the colour, bad."))
    left = drive(lambda: study.race([*good, bad], keep=3, rule=rule, block=30))
    assert {c.id for c in left.candidates} == {c.id for c in good}
    calls = Counter(request.messages[0].content for request in transport.requests)
    assert calls[bad.prompt.instruction] == 30
    assert set(calls.values()) == {30}  # three are left of three: nothing more to decide


@pytest.mark.parametrize(("race", "reasons"), [("halving", {"halved"}), ("betting", {"beaten", "curtailed"})])
def test_the_users_rule_goes_first(tmp_path: Path, race: str, reasons: set[str]) -> None:
    settings = Settings(model="sim", optimizer="capo", seed=2, budget=Budget(calls=400), race=race)
    asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
    with Journal(tmp_path / "journal.db") as journal:
        out = journal.events("elimination")
    assert out
    assert {event["reason"] for event in out} <= reasons


def test_another_rule_is_another_run(tmp_path: Path) -> None:
    for race, message in (("halving", ""), ("betting", "race: 'halving' there, 'betting' now"), (None, "race")):
        settings = Settings(model="sim", optimizer="capo", budget=Budget(calls=200), race=race)
        with pytest.raises(ConfigError, match=message) if message else nullcontext():
            asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
    with pytest.raises(ConfigError, match="--race halving drops"):
        Settings(model="sim", race="halving", objectives="score,prompt_tokens")
    for wrong in ("halved", "", ["halving"]):
        with pytest.raises(ConfigError, match="--race"):
            Settings(model="sim", race=wrong)  # type: ignore[arg-type]


def test_equal_scores_without_penalty_drop_nobody_before_the_end() -> None:
    transport = Scripted(lambda request: LABELS[int(request.messages[-1].content.split()[-1]) % 3])
    study, _ = make_study(transport, task=make_task(n_dev=90))
    equals = [Candidate(Prompt(f"Name the colour {i}.")) for i in range(4)]
    drive(lambda: study.race(equals, keep=2, rule=PairedT(), block=30))
    assert len(transport.requests) == 4 * 90


def test_equal_scores_with_penalty_keep_the_shortest_after_one_block() -> None:
    transport = Scripted(lambda request: LABELS[int(request.messages[-1].content.split()[-1]) % 3])
    study, _ = make_study(transport, task=make_task(n_dev=90))
    words = [Candidate(Prompt("Name the colour" + " please" * n)) for n in (9, 2, 30, 0, 17)]
    longest = max(study.tokens(c) for c in words)
    left = drive(
        lambda: study.race(
            words, keep=2, rule=PairedT(), block=30, penalties=[0.05 * study.tokens(c) / longest for c in words]
        )
    )
    assert {c.id for c in left.candidates} == {words[1].id, words[3].id}
    assert len(transport.requests) == 5 * 30


def test_paper_blocks_leave_out_the_remainder_and_ours_leave_out_nothing() -> None:
    for drops, n_used in ((True, 60), (False, 75)):
        transport = Scripted(lambda request: LABELS[int(request.messages[-1].content.split()[-1]) % 3])
        study, _ = make_study(transport, task=make_task(n_dev=75))
        equals = [Candidate(Prompt(f"Name the colour {i}.")) for i in range(3)]
        drive(
            lambda study=study, equals=equals, drops=drops: study.race(
                equals, keep=1, rule=PairedT(), block=30, drops_remainder=drops
            )
        )
        assert len(transport.requests) == 3 * n_used


def test_penalty_of_the_longest_initial_member_is_gamma(tmp_path: Path) -> None:
    study, _ = make_study(Scripted(model))
    seen: list[list[float]] = []

    class Spy(Stepwise):
        n_steps = 1

    race = study.race

    async def spy(candidates: Any, **options: Any) -> Any:
        seen.append(options["penalties"])
        return await race(candidates, **options)

    study.race = spy  # type: ignore[method-assign]
    with pytest.raises(BudgetExhausted):
        drive(lambda: Spy(population_size=6, n_crossovers=2, length_penalty=0.05).optimize(study))
    n_initial = 6
    assert max(seen[0][:n_initial]) == pytest.approx(0.05)
    assert all(0 < penalty <= 0.05 + 1e-12 for penalty in seen[0][:n_initial])


def shots(*numbers: int) -> tuple[Demo, ...]:
    return tuple(Demo((("input", f"item number {i}"),), LABELS[i % 3]) for i in numbers)


def test_crossover_takes_half_of_both_parents_shots() -> None:
    study, _ = make_study(Scripted(model))
    parents = [Candidate(Prompt("A colour.", shots(0, 1, 2))), Candidate(Prompt("The colour.", shots(3, 4)))]
    drafts = drive(lambda: Capo()._crossover(study, parents, 8))
    assert len(drafts) == 8
    assert {len(draft.shots) for draft in drafts} == {2}
    assert {draft.parents for draft in drafts} <= {tuple(parents), tuple(reversed(parents))}


@pytest.mark.parametrize(("u", "n_after"), [(0.1, 3), (0.5, 1), (0.9, 2)])
def test_mutation_changes_the_shots_by_at_most_one(
    u: float, n_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = make_study(Scripted(model))

    class Fixed:
        def __init__(self, rng: np.random.Generator) -> None:
            self._rng = rng

        def random(self) -> float:
            return u

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rng, name)

    parent = Candidate(Prompt("A colour.", shots(0, 1)))
    drafts = [_Draft("A colour.", shots(0, 1), (parent,))] * 3
    init = Study.__init__

    def fixed(self: Study, *args: Any) -> None:
        init(self, *args)
        self.rng = Fixed(self.rng)  # type: ignore[assignment]

    monkeypatch.setattr(Study, "__init__", fixed)  # forces the branch of the mutation that is under test
    children = drive(lambda: Capo()._mutate(study, drafts))
    assert [len(child.prompt.demos) for child in children] == [n_after] * 3


def test_shot_counts_stay_within_their_limit() -> None:
    study, state = make_study(Scripted(model))
    with pytest.raises(BudgetExhausted):
        drive(lambda: Stepwise(population_size=6, n_crossovers=6, max_shots=2).optimize(study))
    members = list(state.journal.candidates())
    assert {len(member.prompt.demos) for member in members} <= {0, 1, 2}
    for member in members:
        assert len({demo.inputs for demo in member.prompt.demos}) == len(member.prompt.demos)


def test_max_shots_zero_means_no_demonstrations() -> None:
    study, state = make_study(Scripted(model))
    with pytest.raises(BudgetExhausted):
        drive(lambda: Stepwise(population_size=4, n_crossovers=4, max_shots=0).optimize(study))
    assert all(member.prompt.demos == () for member in state.journal.candidates())


@pytest.mark.parametrize("is_right", [True, False])
def test_a_shot_carries_the_reply_iff_it_is_right_whatever_its_case(is_right: bool) -> None:
    def reply(request: Request) -> str:
        i = int(request.messages[-1].content.split()[-1])
        return f"Let me think.\nAnswer: {LABELS[(i + (not is_right)) % 3].upper()}"

    study, _ = make_study(Scripted(reply))
    made = drive(lambda: Capo()._make_shots(study, "Name the colour.", 4, ()))
    assert len(made) == 4
    for shot in made:
        i = int(shot.inputs[0][1].split()[-1])
        wanted = f"Let me think.\nAnswer: {LABELS[i % 3].upper()}" if is_right else LABELS[i % 3]
        assert shot.output == wanted


def test_plain_shots_use_the_answer_tag_that_the_instruction_names() -> None:
    study, _ = make_study(Scripted(lambda request: "no idea"))
    made = drive(lambda: Capo()._make_shots(study, "Answer in <answer> tags.", 2, ()))
    assert all(shot.output.startswith("<answer>") and shot.output.endswith("</answer>") for shot in made)


def test_a_model_that_only_echoes_ends_the_search() -> None:
    def echo(request: Request) -> str:
        return "<prompt>Name the colour.</prompt>" if is_writing(request) else model(request)

    transport = Scripted(echo)
    study, _ = make_study(transport)
    best = drive(lambda: Capo(population_size=3, n_crossovers=2, max_shots=0, patience=3).optimize(study))
    assert best.prompt.instruction == "Name the colour."
    assert sum(is_writing(request) for request in transport.requests) <= 2 + 3 * 2 * 2 + 2 * 2 * 3


def test_chatter_without_tags_is_repaired_once_and_never_becomes_a_prompt() -> None:
    def chatter(request: Request) -> str:
        if is_writing(request):
            return "Sure! Here is a better instruction for you."
        return model(request)

    transport = Scripted(chatter)
    study, state = make_study(transport)
    drive(lambda: Capo(population_size=3, n_crossovers=2, patience=2).optimize(study))
    assert not any("Sure" in member.prompt.instruction for member in state.journal.candidates())
    repairs = [request for request in transport.requests if len(request.messages) == 3]
    assert len(repairs) * 2 == sum(is_writing(request) for request in transport.requests)


@pytest.mark.parametrize("n_calls", [110, 137, 260])
def test_spends_at_most_the_budget_with_writing_included(tmp_path: Path, n_calls: int) -> None:
    transport = Scripted(model)
    settings = Settings(model="sim", budget=Budget(calls=n_calls), optimizer="capo", proof_examples=0)
    result = asyncio.run(make_run(tmp_path, transport, settings=settings).execute())
    assert len(transport.requests) == result.spend.calls <= n_calls
    assert result.spend.by_role["optimizer"].calls > 0


def test_train_and_dev_are_never_mixed() -> None:
    transport = Scripted(model)
    study, state = make_study(transport)
    with pytest.raises(BudgetExhausted):
        drive(lambda: Stepwise(population_size=4, n_crossovers=4).optimize(study))
    shown = {demo.inputs[0][1] for member in state.journal.candidates() for demo in member.prompt.demos}
    assert shown <= {example.inputs["input"] for example in study.task.train}
    assert study.task.test == ()


def test_paper_preset_has_the_published_sizes() -> None:
    _, optimizer = make_optimizer("capo", {"preset": "paper"})
    assert optimizer == Capo(
        population_size=10,
        n_crossovers=4,
        max_shots=5,
        n_shown=0,
        n_dev=10**9,
        block_size=30,
        max_blocks=10,
        length_penalty=0.05,
        race="paired-t",
        shuffles_blocks=False,
        shrinkage=0.0,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": "1"}, "population_size=1; it must be at least 2"),
        ({"populationsize": "4"}, "did you mean 'population_size'"),
        ({"race": "fair"}, "valid: betting, halving, paired-t, predictive"),
        ({"max_shots": "-1"}, "max_shots=-1"),
        ({"population_size": "many"}, "population_size=many"),
        ({"preset": "papper"}, "did you mean 'paper'"),
        ({"shuffles_blocks": "perhaps"}, "write true or false"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizer("capo", options)


def test_noise_is_spread() -> None:
    assert 0.4 < float(np.mean([noise(i) for i in range(500)])) < 0.6
