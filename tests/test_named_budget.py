"""Budgets by name: what they amount to, what they exclude, and where they are said."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import Runner, optimize
from rated import rated_task
from scripted import make_task

import promptopt
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.named_budget import CALLS
from promptopt.plan import make_plan
from promptopt.types import Budget, Example, Prompt

ANSWERS = {"light": 300, "medium": 1000, "heavy": 3000}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("optimizer", ["capo", "reflect"])
def test_a_name_gives_the_search_about_so_many_answers(name: str, optimizer: str) -> None:
    plan = make_plan(make_task(n_test=1000), Settings("sim", optimizer=optimizer, auto=name))
    [searched] = [part.calls for part in plan.forecast.parts if (part.phase, part.role) == ("search", "task")]
    assert 0.9 <= searched / ANSWERS[name] <= 1.15
    assert (plan.auto, plan.limit.calls) == (name, CALLS[name])
    assert plan.settings.budget == Budget(calls=CALLS[name])
    assert not any("no budget" in note for note in plan.notes)


def test_an_answer_of_several_calls_gets_so_many_more() -> None:
    async def predict(prompt: Prompt, example: Example, call: Any) -> str:
        raise AssertionError

    twice = replace(make_task(), predict=predict, calls_per_example=2)
    both = replace(rated_task(), predict=predict, calls_per_example=2)
    tasks = (make_task(), twice, rated_task(), both)
    plans = [make_plan(task, Settings("sim", auto="light", proof_examples=5)) for task in tasks]
    assert [plan.limit.calls for plan in plans] == [500, 1000, 1000, 1500]


def test_other_limits_stay() -> None:
    limits = Budget(usd=2, tokens=10**7, seconds=60)
    plan = make_plan(make_task(), Settings("sim", auto="light", budget=limits))
    assert plan.settings.budget == replace(limits, calls=500)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"auto": "lite"}, "--auto lite: did you mean 'light'"),
        ({"auto": 3}, "--auto 3: "),
        ({"auto": ["light"]}, r"--auto \['light'\]: "),
        (
            {"auto": "light", "budget": Budget(calls=500)},
            "--auto light and --budget-calls 500 both limit calls; give one of them",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Settings("sim", **fields)


def test_too_little_is_refused_by_the_name_to_replace() -> None:
    settings = Settings("sim", optimizer="capo", options={"population_size": "60"}, auto="light")
    with pytest.raises(ConfigError, match=r"at least --budget-calls \d+ instead of --auto light") as refused:
        make_plan(make_task(), settings)
    least = re.findall(r"--budget-calls (\d+)", str(refused.value))[0]
    make_plan(make_task(), replace(settings, auto=None, budget=Budget(calls=int(least))))
    tokens = replace(settings, options={}, budget=Budget(tokens=1000))
    with pytest.raises(ConfigError, match=r"at least --budget-tokens \d+$"):
        make_plan(make_task(), tokens)


def test_python_callers_say_it_too(tmp_path: Path) -> None:
    rows = [{"message": f"{kind} {i}", "target": kind} for i in range(40) for kind in ("red", "blue")]
    words: dict[str, Any] = {"model": "sim", "input": "message"}
    result = promptopt.optimize("Name the colour.", rows, auto="light", out=tmp_path / "a", **words)
    assert result.status in ("completed", "budget_exhausted")
    config = tomllib.loads((tmp_path / "a/config.toml").read_text(encoding="utf-8"))
    assert config["budget-calls"] == 500
    assert "auto" not in config
    with pytest.raises(ConfigError, match="auto='light' is a budget of optimize"):
        promptopt.evaluate("Name the colour.", rows, auto="light", out=tmp_path / "b", **words)


def test_the_forecast_names_it(run: Runner) -> None:
    done = run(*optimize("--auto", "light", "--dry-run", "--price-in", 1, "--price-out", 1))
    assert done.status == 0
    forecast = r"forecast for --auto light \(at most 500 calls\): about \d+ calls, \$\S+ expected, \$\S+ at worst"
    assert re.search(forecast, done.out)
    assert re.search(r"search +optimizer +\d+ .*\n(.*\n)*proof +task +\d+ .*\n(.*\n)*.* at worst +500 ", done.out)
    plain = run(*optimize("--budget-calls", 500, "--dry-run"))
    assert "forecast: about" in plain.out
    none = run(*optimize("--dry-run"))
    assert "no budget given: at most 1,000 calls (set --auto light, --budget-usd or --budget-calls)" in none.out


def test_the_command_line_refuses_both(run: Runner) -> None:
    done = run(*optimize("--auto", "light", "--budget-calls", 500, "--out", "here"))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: --auto light and --budget-calls 500 both limit calls; give one of them")
    assert done.err.count("\n") == 1
    assert not Path("here").exists()


def test_the_nearest_place_wins(run: Runner, tmp_path: Path) -> None:
    def calls(*words: object) -> int:
        done = run(*optimize("--dry-run", *words, prompt="prompt.md"))
        assert done.status == 0, done.err
        return int(re.findall(r" at worst +([\d,]+) ", done.out)[0].replace(",", ""))

    prompt, usual, named = (tmp_path / name for name in ("prompt.md", "promptopt.toml", "named.toml"))
    text = "Sort the message: {{message}}"
    prompt.write_text(text, encoding="utf-8")
    usual.write_text('auto = "light"\n', encoding="utf-8")
    named.write_text('auto = "heavy"\n', encoding="utf-8")
    assert calls() == 500
    assert calls("--budget-calls", 700) == 700
    assert calls("--auto", "medium") == 1500
    prompt.write_text(f"---\nbudget-calls: 800\n---\n{text}", encoding="utf-8")
    assert calls() == 800
    assert calls("--auto", "medium") == 1500
    assert calls("--config", named) == 4500
    assert calls("--config", named, "--budget-calls", 700) == 700
    usual.write_text("budget-calls = 600\n", encoding="utf-8")
    prompt.write_text(f"---\nauto: medium\n---\n{text}", encoding="utf-8")
    assert calls() == 1500


def test_a_file_that_says_both_is_refused(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "promptopt.toml").write_text('auto = "light"\nbudget-calls = 600\n', encoding="utf-8")
    done = run(*optimize("--dry-run"))
    assert done.status == 2
    assert "--auto light and --budget-calls 600 both limit calls" in done.err


def test_the_docs_give_the_figures() -> None:
    root = Path(__file__).parent.parent
    table = (root / "docs/cli.md").read_text(encoding="utf-8")
    for name, calls in CALLS.items():
        assert f"| `{name}` | {calls:,} | {ANSWERS[name]:,} |" in table
