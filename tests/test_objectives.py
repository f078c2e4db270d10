"""Runs that weigh several objectives: the front is none's worse, is found again, and nothing else changes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from commandline import Runner, optimize, run  # noqa: F401
from jsonschema import Draft202012Validator
from scripted import LABELS, Scripted, make_run, make_study, make_task, noise

from promptopt import api, registry
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.front import dominance
from promptopt.plan import make_plan
from promptopt.promptfile import format_prompt
from promptopt.result import Result, lasting
from promptopt.run import Run
from promptopt.screen import Screen
from promptopt.testing.kill import Snapshots
from promptopt.types import Budget, Candidate, Prompt, Request, Response

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/result.schema.json").read_text(encoding="utf-8"))
TOKENS, COST = "score,prompt_tokens", "score,cost"


def wordy(request: Request) -> str:
    """Answer better to longer prompts, and write prompts of many lengths."""
    last = request.messages[-1].content
    if "</prompt>" in last:
        n = int(20 * noise(request.sample, last))
        return f"<prompt>Name the colour{' with care' * n}, way {noise(request.sample):.4f}.</prompt>"
    system = "".join(m.content for m in request.messages[:-1])
    right = LABELS[int(last.split()[-1]) % 3]
    skill = 0.3 + 0.5 * min(1.0, len(system) / 300) + 0.15 * noise("skill", system)
    return right if noise("cell", system, last) < skill else "no idea"


class Priced(Scripted):
    """A transport whose answers cost by the length of what was asked, and by chance."""

    def respond(self, request: Request) -> Response:
        asked = sum(len(m.content) for m in request.messages)
        cost = Decimal(asked + int(100 * noise(asked))) / 10**6
        return replace(super().respond(request), cost_usd=cost)


def settings(objectives: str | None = TOKENS, **more: object) -> Settings:
    return Settings("sim", optimizer="capo", budget=Budget(calls=500), objectives=objectives, **more)  # type: ignore[arg-type]


def finish(folder: Path, objectives: str | None = TOKENS) -> tuple[Run, Result]:
    made = make_run(folder, Priced(wordy), settings=settings(objectives))
    return made, asyncio.run(made.execute())


@pytest.fixture(scope="module", params=[TOKENS, COST, "score,prompt_tokens,cost"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    return finish(tmp_path_factory.mktemp("front") / "run", request.param)


# The front -----------------------------------------------------------------------------------------------


def test_no_prompt_of_the_front_is_dominated_on_the_examples_that_all_were_scored_on(
    done: tuple[Run, Result],
) -> None:
    made, result = done
    assert made.state is not None
    front = result.front
    assert front is not None
    assert len(front.prompts) >= 3
    candidates, examples = made.state.front
    assert [format_prompt(c.prompt) for c in candidates] == [p.prompt for p in front.prompts]
    assert len(examples) == front.n == front.prompts[0].dev.n > 0
    rows = []
    for candidate, prompt in zip(candidates, front.prompts, strict=True):
        cells = [made.state.cells[candidate.id, example.id] for example in examples]
        assert prompt.dev.score == pytest.approx(np.mean([cell.score.value for cell in cells]))
        costs = [cell.cost_usd for cell in cells]
        assert prompt.cost_per_1000_usd == pytest.approx(1000 * float(np.mean([float(c or 0) for c in costs])))
        of = {"score": -prompt.dev.score, "prompt_tokens": prompt.prompt_tokens, "cost": prompt.cost_per_1000_usd}
        rows.append([of[name] for name in front.objectives])
    assert not dominance(rows).any()  # type: ignore[arg-type]


def test_the_best_is_the_front_s_prompt_with_the_best_score(done: tuple[Run, Result]) -> None:
    made, result = done
    assert result.front is not None
    assert [prompt.is_best for prompt in result.front.prompts] == [True] + [False] * (
        len(result.front.prompts) - 1
    )
    assert result.front.prompts[0].prompt == result.best.prompt
    scores = [prompt.dev.score for prompt in result.front.prompts]
    assert scores == sorted(scores, reverse=True)
    for prompt in result.front.prompts:
        assert prompt.is_initial == (prompt.prompt == format_prompt(made.plan.task.initial))


def test_the_population_that_is_left_out_is_dominated(tmp_path: Path) -> None:
    made, _ = finish(tmp_path)
    assert made.state is not None
    told = made.state.journal  # closed by now: events are read again
    from promptopt.journal import Journal

    with Journal(tmp_path / "journal.db") as journal:
        fronts = journal.events("front")
    assert told.path == tmp_path / "journal.db"
    assert fronts[-1]["candidates"] == [c.id for c in made.state.front[0]]
    assert fronts[-1]["n_examples"] == len(made.state.front[1])


def test_it_fits_the_schema_and_the_screen_shows_it(done: tuple[Run, Result]) -> None:
    made, result = done
    content = json.loads((made.folder / "result.json").read_text(encoding="utf-8"))
    Draft202012Validator(SCHEMA).validate(content)
    assert content["front"]["objectives"] == list(made.plan.settings.objectives or ())
    out = io.StringIO()
    Screen(out=out, err=io.StringIO()).result(result, made)
    assert result.front is not None
    text = out.getvalue()
    shown = text[text.index("Front of score") :].splitlines()
    n = len(result.front.prompts)
    assert f"none of these {n} prompts is better in all" in shown[0]
    assert f"the same {result.front.n} examples" in shown[1]
    assert shown[2].split() == ["dev", "score", "prompt", "tokens", "$", "of", "1,000", "uses"]
    for line, prompt in zip(shown[3 : 3 + n], result.front.prompts, strict=True):
        assert line.startswith(f"{100 * prompt.dev.score:.1f}% (")
        assert f"n={result.front.n})" in line
        assert f" {prompt.prompt_tokens} " in line
        assert line.endswith("best") == prompt.is_best
    assert text.startswith("SIMULATED MODEL")


def test_a_search_that_ends_before_its_first_race_has_no_front(tmp_path: Path) -> None:
    def mute(request: Request) -> str:
        if "</prompt>" in request.messages[-1].content:
            made.stop.set()
        return wordy(request)

    made = make_run(tmp_path, Priced(mute), settings=settings())
    result = asyncio.run(made.execute())
    assert result.front is not None
    assert (result.front.n, result.front.prompts) == (0, ())
    Draft202012Validator(SCHEMA).validate(json.loads((tmp_path / "result.json").read_text(encoding="utf-8")))
    out = io.StringIO()
    Screen(out=out, err=io.StringIO()).result(result, made)
    assert "No front: the search ended before its first race did." in out.getvalue()


def test_an_unknown_cost_is_not_free(tmp_path: Path) -> None:
    made = make_run(tmp_path, Scripted(wordy, cost_usd=None), settings=settings())
    result = asyncio.run(made.execute())
    assert result.front is not None
    assert {prompt.cost_per_1000_usd for prompt in result.front.prompts} == {None}
    out = io.StringIO()
    Screen(out=out, err=io.StringIO()).result(result, made)
    assert " unknown" in out.getvalue().split("$ of 1,000 uses")[1].splitlines()[1]


# Races ---------------------------------------------------------------------------------------------------


def skilled(request: Request) -> str:
    """Answer rightly if the prompt says good."""
    i = int(request.messages[-1].content.split()[-1])
    return LABELS[i % 3] if "good" in request.messages[0].content else "no idea"


def test_a_cheap_prompt_that_is_worse_survives_and_a_long_one_that_is_worse_does_not() -> None:
    study, state = make_study(Scripted(skilled), task=make_task(n_dev=60))
    state.objectives = ("score", "prompt_tokens")
    good = [Candidate(Prompt(f"Name the colour, good {i}.")) for i in range(2)]
    short, long = Candidate(Prompt("Colour?")), Candidate(Prompt("Name the colour, please" + " now" * 20))
    left = asyncio.run(study.race([long, *good, short], keep=2, by_fronts=True))
    kept = {c.id for c in left.candidates}
    assert short.id in kept
    assert long.id not in kept
    assert kept & {c.id for c in good}
    plain, _ = make_study(Scripted(skilled), task=make_task(n_dev=60))
    by_mean = asyncio.run(plain.race([long, *good, short], keep=2))
    assert {c.id for c in by_mean.candidates} == {c.id for c in good}, "by score alone it would be dropped"


def test_a_long_prompt_that_is_worse_saves_evaluations() -> None:
    transport = Scripted(skilled)
    study, state = make_study(transport, task=make_task(n_dev=100))
    state.objectives = ("score", "prompt_tokens")
    good, short = Candidate(Prompt("Name the colour, good.")), Candidate(Prompt("Colour?"))
    long = [Candidate(Prompt(f"Name the colour, please {i}" + " now" * 20)) for i in range(3)]
    asyncio.run(study.race([good, short, *long], keep=1, by_fronts=True))
    n_asked = {c.id: sum(r.messages[0].content == c.prompt.instruction for r in transport.requests) for c in long}
    n_dev = len(study.task.dev)
    assert max(n_asked.values()) < n_dev / 2
    assert sum(r.messages[0].content == short.prompt.instruction for r in transport.requests) == n_dev


# Once more -----------------------------------------------------------------------------------------------


def test_it_is_the_same_after_a_kill_anywhere_and_in_a_replay(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "kills", at_most=8)
    with snapshots.watching():
        made, result = finish(tmp_path / "run")
    expected = lasting(json.loads(result.to_json()))
    assert expected["front"]["prompts"]
    assert len(snapshots.folders) >= 4
    for folder in snapshots.folders:
        _, again = finish(folder)
        assert lasting(json.loads(again.to_json())) == expected
    replayed = api.replay(made.folder)
    assert replayed.is_identical, replayed.differences


def test_timing_changes_no_front(tmp_path: Path) -> None:
    found = set()
    for seed in (1, 2, 3):
        made = make_run(tmp_path / str(seed), Priced(wordy, latency_seed=seed), settings=settings())
        found.add(json.dumps(lasting(json.loads(asyncio.run(made.execute()).to_json()))["front"]))
    assert len(found) == 1


def test_a_run_without_objectives_is_as_ever(tmp_path: Path) -> None:
    made, result = finish(tmp_path, None)
    assert result.front is None
    assert "objectives" not in made.plan.identity()
    assert "objectives" not in (tmp_path / "config.toml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"objectives: None there, .*prompt_tokens.* now"):
        finish(tmp_path, TOKENS)


# What is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(registry.BUILT_IN) - {"capo"}))
def test_other_strategies_refuse_and_name_those_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot weigh|needs|log-probabilities") as caught:
        make_plan(make_task(), replace(settings(), optimizer=name))
    if "cannot weigh" in str(caught.value):
        assert "these can: capo" in str(caught.value)


def test_auto_picks_a_strategy_that_can() -> None:
    plan = make_plan(make_task(), replace(settings(), optimizer="auto"))
    assert plan.optimizer_name == "capo"
    assert any("it weighs score and prompt_tokens" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--objectives", TOKENS, "--optimizer", "random"),
            "cannot weigh score and prompt_tokens; these can: capo",
        ),
        (("--objectives", "score"), "write score and what it costs"),
        (("--objectives", "score,length"), "--objectives 'length'"),
        (("--objectives", COST, "--price-in", 0, "--price-out", 0), "costs nothing; weigh prompt_tokens"),
    ],
)
def test_wrong_use_spends_nothing(run: Runner, words: tuple[object, ...], says: str) -> None:  # noqa: F811
    failed = run(*optimize(*words, "--out", "here"))
    assert failed.status == 2
    assert says in failed.err
    assert failed.err.count("\n") == 1
    assert not Path("here").exists()


def test_unknown_prices_and_functions_are_refused() -> None:
    priced: Callable[..., Settings] = lambda **more: settings(COST, **more)  # noqa: E731
    with pytest.raises(ConfigError, match=r"price of openai/x is unknown; tell it \(--price-in"):
        make_plan(make_task(), replace(priced(api_base="http://127.0.0.1:9/v1"), model="openai/x"))
    task = replace(make_task(), predict=lambda prompt, example, call: "red")
    with pytest.raises(ConfigError, match="predict function of its own"):
        make_plan(task, priced())
    assert make_plan(task, settings(TOKENS)).settings.objectives == ("score", "prompt_tokens")


def test_the_settings_file_repeats_them(tmp_path: Path) -> None:
    made, _ = finish(tmp_path)
    assert 'objectives = "score,prompt_tokens"' in (tmp_path / "config.toml").read_text(encoding="utf-8")
    assert made.plan.identity()["objectives"] == ["score", "prompt_tokens"]
