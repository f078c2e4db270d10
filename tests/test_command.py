"""What every command of the command line refuses before it looks at its options, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Runner, optimize

from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.roles import find_models


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--budget-calls 200 --budget-calls 300", "--budget-calls stands 2 times; give it once"),
        ("--model sim", "--model stands 2 times; give it once"),
        ("--data support", "--data stands 2 times; give it once"),
        ("--budget-usd=1 --budget-usd 1 --budget-usd 2", "--budget-usd stands 3 times; give it once"),
        (
            "--max-tokens 10 --set-model task.max_tokens=20",
            "--max-tokens and --set-model task.max_tokens say the same; give one of them",
        ),
        (
            "--price-in 1 --price-out 2 --set-model task.price_in=1 --set-model task.price_out=2",
            "--price-in and --set-model task.price_in say the same; give one of them",
        ),
        ("--budget-calls 1e3", "--budget-calls is '1e3'; write a whole number, such as 600"),
        ("--seed 1.5", "--seed is '1.5'; write a whole number, such as 600"),
        ("--budget-seconds soon", "--budget-seconds is 'soon'; write a number, such as 2 or 0.50"),
    ],
)
@pytest.mark.parametrize("command", ["optimize", "evaluate"])
def test_wrong_words_are_one_message(run: Runner, command: str, words: str, says: str) -> None:
    done = run(command, *optimize(*words.split())[1:])
    assert (done.status, done.out) == (2, "")
    assert done.err == f"error: {says}\n"


@pytest.mark.parametrize("command", ["simulate", "judge-check"])
def test_other_commands_refuse_an_option_twice_as_well(run: Runner, command: str) -> None:
    flag = {"simulate": "--landscape", "judge-check": "--rubric"}[command]
    done = run(command, flag, "1", flag, "2")
    assert (done.status, done.err) == (2, f"error: {flag} stands 2 times; give it once\n")


def test_what_may_be_repeated_and_switches_may(run: Runner) -> None:
    words = ("--set", "max_demos=4", "--set", "edits=1", "--quiet", "--quiet", "--dry-run")
    assert run(*optimize(*words)).status == 0


def test_a_wrong_number_in_a_file_is_said_in_the_same_words(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("seed = 1.5\n", encoding="utf-8")
    done = run(*optimize("--config", "own.toml"))
    assert (done.status, done.err) == (2, "error: own.toml: seed is 1.5; write a whole number, such as 600\n")


def test_all_that_is_missing_is_named_at_once(run: Runner) -> None:
    done = run("optimize")
    assert done.status == 2
    assert "Missing PROMPT_FILE, --data, --model." in done.err


def test_an_option_of_the_task_model_in_both_ways_is_refused_in_python_too() -> None:
    settings = Settings("sim", max_tokens=10, model_options={"task": {"max_tokens": 20}})
    with pytest.raises(ConfigError, match=r"--max-tokens and --set-model task\.max_tokens say the same"):
        find_models(settings, frozenset(), ("task",))
