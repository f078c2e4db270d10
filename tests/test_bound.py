"""Every number that a command takes, at and beyond its bounds: a sound run, or status 2 and one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from commandline import Runner

from promptopt import cli

VALUES = ["0", "-1", "1e30", "nan", "inf", "", "x", "9" * 400, "1e-400000", "1000000000"]
COMMANDS = {"optimize": cli.optimize, "evaluate": cli.evaluate, "judge-check": cli.judge_check}
USUAL = {
    "optimize": "prompt.md --data rows.jsonl --model sim --budget-calls 300 --dry-run",
    "evaluate": "prompt.md --data rows.jsonl --model sim --dry-run",
    "judge-check": "--rubric rubric.md --data rows.jsonl --model sim --dry-run",
}
# Numbers that are texts at first, so that they are read exactly.
DOLLARS = {"--budget-usd", "--confirm-above", "--price-in", "--price-out"}


def numbers_of(command: str) -> list[str]:
    """Return a command's options that take a number."""
    types = get_type_hints(COMMANDS[command])
    options = {"--" + name.replace("_", "-"): kind for name, kind in types.items()}
    return [name for name, kind in options.items() if {int, float} & {kind, *get_args(kind)} or name in DOLLARS]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    rows = [{"message": f"m {i}", "target": "ab"[i % 2], "reply": "a", "score": i % 2} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "prompt.md").write_text("Sort the message: {{message}}", encoding="utf-8")
    (tmp_path / "rubric.md").write_text("- It is right.", encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command in USUAL for option in numbers_of(command)]
)
def test_numbers_run_or_are_refused(run: Runner, command: str, option: str) -> None:
    for value in VALUES:
        words = [option, value]
        if option.startswith("--price"):
            words += ["--price-out" if option == "--price-in" else "--price-in", "1", "--budget-usd", "9"]
        done = run(command, *USUAL[command].split(), *words)
        assert done.status in (0, 2), value[:20]
        if done.status == 2 and not done.err.startswith("Usage:"):
            assert done.err.startswith("error: "), value[:20]
            assert done.err.count("\n") == 1, value[:20]


def test_every_command_has_numbers() -> None:
    assert {"--budget-usd", "--seed", "--max-prompt-tokens", "--concurrency"} <= set(numbers_of("optimize"))
    assert {"--failures", "--examples", "--fail-under", "--rpm", "--price-in"} <= set(numbers_of("evaluate"))
    assert {"--repeats", "--concurrency", "--budget-calls"} <= set(numbers_of("judge-check"))


def test_numbers_beyond_reckoning_are_named(run: Runner) -> None:
    words = USUAL["evaluate"].split()
    assert "--failures is -1; it must be at least 0" in run("evaluate", *words, "--failures", -1).err
    assert "--examples must be at most" in run("evaluate", *words, "--examples", "9" * 400).err
    assert "--repeats must be at most" in run("judge-check", *USUAL["judge-check"].split(), "--repeats", 10**6).err


def test_a_long_value_does_not_bury_what_is_wrong(run: Runner) -> None:
    done = run("evaluate", *USUAL["evaluate"].split(), "--api-base", "x" * 100_000)
    assert len(done.err) < 2100
    assert done.err.startswith("error: --api-base is 'xxx")
    assert done.err.endswith("xxx'; write it like http://127.0.0.1:8000/v1\n")
