"""Options in promptopt.toml, in front matter and in a run's config.toml: who wins, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import typer
from commandline import SUPPORT, Outcome, Runner
from hypothesis import given
from hypothesis import strategies as st

from promptopt import cli, promptfile, settings_file
from promptopt.api import prepare
from promptopt.config import Settings
from promptopt.errors import ConfigError

PROMPT = "Sort the message: {{message}}"


def write(folder: Path, toml: str = "", prompt: str = PROMPT) -> None:
    (folder / "prompt.md").write_text(prompt, encoding="utf-8")
    if toml:
        (folder / "promptopt.toml").write_text(toml, encoding="utf-8")


def forecast_of(done: Outcome) -> str:
    assert done.status == 0, done.err
    return done.out


TOML = 'prompt-file = "prompt.md"\ndata = "support"\nmodel = "sim"\nbudget_calls = 400\n'


def test_every_option_can_stand_in_the_file(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, TOML)
    done = run("optimize", "--dry-run")
    assert "options from promptopt.toml" in done.err
    assert "about 400 calls" in forecast_of(done)


def test_keys_of_files_are_the_options_of_the_commands() -> None:
    group = typer.main.get_command(cli.app)
    keys = set()
    for name in ("optimize", "evaluate"):
        for param in group.commands[name].params:  # type: ignore[attr-defined]
            keys |= {opt.removeprefix("--").replace("_", "-") for opt in param.opts}
    assert keys - {"config"} == set(promptfile.OPTION_KEYS)


def test_the_nearest_place_wins(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, TOML)
    named = tmp_path / "named.toml"
    named.write_text(TOML.replace("400", "500"), encoding="utf-8")

    def calls(*words: object) -> str:
        return forecast_of(run("optimize", "--dry-run", *words)).partition(" calls,")[0].rpartition(" ")[2]

    assert calls() == "400"
    assert calls("--budget-calls", 600) == "600"
    assert calls("--config", named) == "500"
    write(tmp_path, TOML, prompt=f"---\nbudget-calls: 700\n---\n{PROMPT}")
    assert calls() == "700"
    assert calls("--config", named) == "500"
    assert calls("--config", named, "--budget-calls", 600) == "600"


def test_front_matter_data_options_win_over_the_folders_file(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, TOML + 'metric = "exact"\n', prompt=f"---\nmetric: label\n---\n{PROMPT}")
    done = run("optimize", "--quiet", "--json", "--budget-calls", 300)
    assert json.loads(done.out)["task"]["metric"] == "label"


def test_a_table_holds_for_its_command_alone(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, TOML + "[evaluate]\nexamples = 7\n[optimize]\nbudget-calls = 500\n")
    assert "about 500 calls" in forecast_of(run("optimize", "--dry-run"))
    assert "forecast: 7 calls" in forecast_of(run("evaluate", "--dry-run"))


def test_options_that_may_be_repeated_are_joined(run: Runner, tmp_path: Path) -> None:
    own = (
        'optimizer = "capo"\n[set]\npopulation_size = 5\nmax_shots = 1\n[set-model.optimizer]\ntemperature = 0.5\n'
    )
    write(tmp_path, TOML + own)
    done = run("optimize", "--out", "here", "--json", "--set", "max-shots=2", "--set-model", "task.max_tokens=50")
    options = json.loads(done.out)["options"]
    assert (options["population_size"], options["max_shots"]) == (5, 2)
    config = (tmp_path / "here/config.toml").read_text(encoding="utf-8")
    assert '"optimizer.temperature" = "0.5"' in config
    assert '"task.max_tokens" = "50"' in config


def test_a_runs_config_repeats_it(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, prompt=f"---\nmetric: label\n---\n{PROMPT}")
    words = ("--budget-calls", 300, "--seed", 3, "--set", "max_demos=4", "--proof-examples", 0)
    first = run("optimize", "prompt.md", "--data", "support", "--model", "sim", *words, "--out", "a", "--json")
    (tmp_path / "prompt.md").write_text("something else", encoding="utf-8")
    again = run("optimize", "--config", "a/config.toml", "--out", "b", "--json")
    assert again.status == 0
    assert {**json.loads(again.out), "duration_s": 0} == {**json.loads(first.out), "duration_s": 0}
    assert "not the run that wrote" not in again.err
    other = run("optimize", "--config", "a/config.toml", "--seed", 4, "--dry-run")
    assert "not the run that wrote a/config.toml" in forecast_of(other)


def test_paths_in_a_named_file_lie_beside_it(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", TOML.replace('"support"', '"rows.jsonl"'))
    rows = [{"message": f"m {i}", "target": "ab"[i % 2]} for i in range(60)]
    (tmp_path / "deep/rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert "rows.jsonl: 60 rows" in forecast_of(run("optimize", "--config", "deep/promptopt.toml", "--dry-run"))
    (tmp_path / "deep/rubric.md").write_text("- It is right.\n", encoding="utf-8")
    words = ("--config", "deep/promptopt.toml", "--dry-run")
    write(tmp_path / "deep", TOML.replace('"support"', '"rows.jsonl"') + 'metric = "judge:rubric.md"\n')
    assert "metric judge:deep/rubric.md: sim rates each answer" in forecast_of(run("optimize", *words))


def test_python_callers_are_told_that_front_matter_options_do_not_count() -> None:
    text = f"---\nbudget-calls: 9999\nmetric: label\n---\n{PROMPT}"
    plan, _ = prepare(text, "support", Settings(model="sim"))
    assert plan.settings.budget.calls == 1000
    assert any("budget-calls" in note for note in plan.notes)


WRONG = [
    ("no toml", "x = [", r"promptopt\.toml: is not TOML"),
    ("unknown key", TOML + "budgt_calls = 3", r"unknown key 'budgt_calls'; did you mean 'budget-calls'"),
    ("unknown key of a table", TOML + "[evaluate]\nsplitt = 'dev'", r"unknown key 'splitt'; did you mean 'split'"),
    ("unknown table", TOML + "[evaluat]\nsplit = 'dev'", r"unknown key 'evaluat'; did you mean 'evaluate'"),
    (
        "a key of an API",
        TOML + "api-key = 'x'",
        r"'api-key'; keys are read from the environment alone",
    ),
    (
        "option of evaluate",
        TOML + "[optimize]\nsplit = 'dev'",
        r"'split'; it belongs to another command",
    ),
    ("key of another command", TOML + "[optimize]\nfail-under = 0.5", r"unknown key 'fail-under'"),
    ("command as a value", TOML + "evaluate = 3", r"evaluate is a command; write its options into a table"),
    ("a command as a value, the own one", TOML + "optimize = 3", r"optimize is a command; write its options into"),
    ("the record as a value", TOML + "run = 3", r"run is the record of a run, which is a table \[run\]"),
    ("a date among pairs", TOML + "[set]\nx = 2020-01-01", r"promptopt\.toml: set x cannot be read .*in quotes"),
    ("a date in a list", TOML + "[set]\nx = [2020-01-01]", r"promptopt\.toml: set x cannot be read"),
    ("an endless number", TOML + f"seed = {'9' * 5000}", r"promptopt\.toml: is not TOML .*4300 digits"),
    ("a long hexadecimal", TOML + f"seed = 0x{'f' * 5000}", r"promptopt\.toml: seed cannot be read .*4300 digits"),
    (
        "not a number",
        TOML.replace("400", "'many'"),
        r"promptopt\.toml: budget-calls is many; write a whole number",
    ),
    ("a list for one value", TOML + "seed = [1]", r"promptopt\.toml: seed needs one value, not a list"),
    ("a table for one value", TOML + "[seed]\nx = 1", r"promptopt\.toml: seed needs one value, not a dict"),
    ("true for a value", TOML + "seed = true", r"seed needs a value, not true"),
    ("a word for a switch", TOML + "quiet = 'yes'", r"quiet is a switch; write true or false"),
    ("numbers for pairs", TOML + "set = [3]", r"set needs texts or a table \[set\]"),
    ("pair without name", TOML + "set = ['x']", r"--set x: write it as name=value"),
    ("no such option", TOML + "[set]\npopulation = 3", r"population"),
    (
        "unknown role",
        TOML + "[set-model.writer]\ntemperature = 1",
        r"--set-model writer\.temperature: no such role",
    ),
    ("missing prompt", TOML.replace("prompt.md", "gone.md"), r"gone\.md: no such file"),
]


@pytest.mark.parametrize(("toml", "says"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_files_are_refused_before_anything_is_spent(
    run: Runner, tmp_path: Path, toml: str, says: str
) -> None:
    write(tmp_path, toml)
    done = run("optimize", "--out", "here")
    assert done.status == 2
    message = done.err.replace("options from promptopt.toml\n", "")
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert re.search(says, message), message
    assert not (tmp_path / "here").exists()


STRANGE = {
    "date": "2020-01-01",
    "infinite": "-inf",
    "hexadecimal": f"0x{'f' * 5000}",
    "tables": "[{a = 1}, {b = {c = 07:32:00}}]",
    "nan in a table": "{task = {x = nan}}",
    "empty": "''",
    "odd characters": r"'a\u0000\u001b[31m'",
    "long": f"'{'x/' * 3000}'",
}


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_no_value_of_any_key_ends_in_a_traceback(run: Runner, tmp_path: Path, value: str) -> None:
    usual = {"prompt-file": "'prompt.md'", "data": "'support'", "model": "'sim'", "budget-calls": "300"}
    for key in (*promptfile.OPTION_KEYS, "optimize", "evaluate", "run"):
        lines = {**usual, key: value}
        write(tmp_path, "\n".join(f"{name} = {text}" for name, text in lines.items()))
        done = run("optimize", "--dry-run")
        assert done.status in (0, 2), key
        if done.status == 2:
            message = done.err.replace("options from promptopt.toml\n", "")
            assert re.match("(error|Usage): ", message), key
            assert len(message) < 2200, key


VALUES = st.recursive(
    st.integers() | st.floats() | st.booleans() | st.dates() | st.times() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "x", "-", ""]), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*promptfile.OPTION_KEYS, "optimize", "evaluate", "run", "seeed"]), VALUES))
def test_any_table_is_read_as_texts_or_refused(tmp_path_factory: pytest.TempPathFactory, table: Any) -> None:
    path = tmp_path_factory.mktemp("settings") / "file.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        found = settings_file.read(path, "optimize", promptfile.OPTION_KEYS, ("set", "set-model", "image"))
        for said in found.values():
            assert isinstance(said.value, str | bool) or all(isinstance(text, str) for text in said.value)


def test_binary_and_missing_files(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in run("optimize", SUPPORT, "--config", "bad.toml").err
    assert "bad2.toml: no such file; `promptopt init` writes one" in run("optimize", "--config", "bad2.toml").err


def test_help_does_not_read_files(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, "x = [")
    assert run("optimize", "--help").status == 0


def test_front_matter_values_are_texts(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, prompt=f"---\nset:\n  population_size: 5\nseed:\n  - 1\n---\n{PROMPT}")
    done = run("optimize", "prompt.md", "--data", "support", "--model", "sim")
    assert done.status == 2
    assert "prompt.md:4: front matter key 'seed' needs one text" in done.err


def test_files_are_named_unless_all_is_to_be_quiet(run: Runner, tmp_path: Path) -> None:
    write(tmp_path, TOML)
    assert "options from promptopt.toml" in run("evaluate", "--examples", 3).err
    assert run("evaluate", "--examples", 3, "--quiet").err == ""
    assert run("evaluate", "--examples", 3, "--json").err == ""


def on_terminal(folder: Path, *words: object, says: str = "") -> tuple[int, bytes]:
    """Return exit status and messages of a command on a terminal; `says` is typed when it asks."""
    terminal, theirs = pty.openpty()
    command = [Path(sys.executable).parent / "promptopt", *map(str, words)]
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end has gone
        while part := os.read(terminal, 1000):
            if b"[y/N]" in part:
                os.write(terminal, says.encode() + b"\n")
            shown += part
    os.close(terminal)
    return process.wait(60), shown


@pytest.mark.parametrize(("says", "status"), [("y", 0), ("n", 2), ("", 2)])
@pytest.mark.parametrize("command", ["evaluate", "optimize"])
def test_a_person_is_asked_before_much_may_be_spent(
    tmp_path: Path, command: str, says: str, status: int, endpoint: tuple[str, list[str]]
) -> None:
    address, requests = endpoint
    words = [command, SUPPORT, "--data", "support", "--model", "local", "--api-base", address, "--out", "here"]
    words += ["--price-in", 1, "--price-out", 1, "--budget-calls", 200, "--confirm-above", "0.01"]
    found, shown = on_terminal(tmp_path, *words, says=says)
    assert b"this may cost up to $" in shown
    assert (b"not started, nothing was spent" in shown) == (status == 2)
    assert found == status
    assert bool(requests) == (tmp_path / "here").exists() == (status == 0)


AWAY = ("--api-base", "http://api.example.com/v1")


@pytest.mark.parametrize(
    ("command", "words", "why"),
    [
        ("optimize", (*AWAY, "--budget-calls", 200), "the price of local is unknown"),
        ("evaluate", AWAY, "the price of local is unknown"),
        (
            "optimize",
            ("--price-in", 30, "--price-out", 90, "--budget-seconds", 4),
            "no calls, tokens or dollars are limited",
        ),
    ],
)
def test_a_person_is_asked_where_nothing_bounds_the_sum(
    tmp_path: Path, command: str, words: tuple[object, ...], why: str, endpoint: tuple[str, list[str]]
) -> None:
    address, requests = endpoint
    base = [command, SUPPORT, "--data", "support", "--model", "local", "--out", "here"]
    base += [] if "--api-base" in words else ["--api-base", address]
    status, shown = on_terminal(tmp_path, *base, *words, says="n")
    assert f"this may cost any sum: {why}; go on? [y/N]".encode() in shown
    assert b"or raise --confirm-above (none = never ask)" in shown
    assert (status, requests, (tmp_path / "here").exists()) == (2, [], False)


@pytest.mark.parametrize(
    "words",
    [(), ("--price-in", 0, "--price-out", 0), ("--price-in", 1, "--price-out", 1, "--confirm-above", "none")],
    ids=["own server of unknown price", "free", "never"],
)
def test_nobody_is_asked_where_nothing_is_paid_or_who_said_so(
    tmp_path: Path, words: tuple[object, ...], endpoint: tuple[str, list[str]]
) -> None:
    base = [
        "evaluate",
        SUPPORT,
        "--data",
        "support",
        "--model",
        "local",
        "--api-base",
        endpoint[0],
        "--out",
        "here",
    ]
    above = () if "--confirm-above" in words else ("--confirm-above", "0.0001")
    status, shown = on_terminal(tmp_path, *base, *above, *words)
    assert status == 0
    assert b"go on?" not in shown


@pytest.mark.parametrize("command", ["evaluate", "optimize"])
def test_nobody_is_asked_for_the_simulator(tmp_path: Path, command: str) -> None:
    words = [command, SUPPORT, "--data", "support", "--model", "sim", "--budget-calls", 200, "--out", "here"]
    status, shown = on_terminal(tmp_path, *words, "--confirm-above", 0)
    assert status == 0
    assert b"go on?" not in shown


@pytest.mark.parametrize("metric", ["tone.py:polite", "judge:rubric.md"])
def test_a_run_with_a_metric_in_a_file_is_made_again_from_elsewhere(
    metric: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tone.py").write_text("def polite(reply, example):\n    return float(reply == example.target)\n")
    (tmp_path / "rubric.md").write_text("- right: The reply names the right kind of message.\n")
    (tmp_path / "elsewhere").mkdir()
    given = ("--data", "support", "--model", "sim", "--budget-calls", 500, "--metric", metric, "--out", "a")
    first = run("optimize", SUPPORT, *given, "--json")
    assert first.status == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = run("optimize", "--config", "../a/config.toml", "--out", "b", "--json")
    assert "not the run that wrote" not in again.err
    scores = [json.loads(done.out)["best"]["dev"] for done in (first, again)]
    assert scores[0] == scores[1]
