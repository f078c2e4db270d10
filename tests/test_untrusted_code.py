"""Code runs, and servers far away are called, only where the command line names them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from commandline import Runner, rows

import promptopt
from promptopt.errors import ConfigError

PROMPT = "Name the colour of {{item}}."
EVIL = "from pathlib import Path\nPath('ran').write_text('')\n\n\ndef f(reply, example):\n    return 1.0\n"
PLACES = {"metric": "evil.py:f", "optimizer": "evil.py:F", "data": "evil.py:task"}
MODULES = {"metric": "evil:f", "optimizer": "evil:F", "data": "evil:task"}
CASES = [(key, name) for names in (PLACES, MODULES) for key, name in names.items()]


@pytest.fixture(autouse=True)
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "prompt.md").write_text(PROMPT)
    (tmp_path / "data.csv").write_text(rows())
    monkeypatch.syspath_prepend(str(tmp_path))


def words_without(key: str, command: str = "optimize") -> list[str]:
    words = [command, "prompt.md", "--model", "sim", "--budget-calls", "200"]
    return words if key == "data" else [*words, "--data", "data.csv"]


def check_refused(status: int, err: str, folder: Path, key: str, name: str, source: str) -> None:
    assert status == 2
    message = err.removeprefix("options from promptopt.toml\n")
    assert message.startswith(f"error: {source}")
    assert message.count("\n") == 1
    assert f"{key} {name!r} is code" in message
    assert f"write --{key} {name} there" in message
    assert not (folder / "ran").exists(), "the code was run"
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(("key", "name"), CASES)
def test_front_matter_has_no_code_run(run: Runner, tmp_path: Path, key: str, name: str) -> None:
    (tmp_path / "prompt.md").write_text(f"---\n{key}: {name}\n---\n{PROMPT}")
    done = run(*words_without(key))
    check_refused(done.status, done.err, tmp_path, key, name, "prompt.md")


@pytest.mark.parametrize(("key", "name"), CASES)
def test_a_settings_file_that_merely_lies_there_has_no_code_run(
    run: Runner, tmp_path: Path, key: str, name: str
) -> None:
    (tmp_path / "promptopt.toml").write_text(f'{key} = "{name}"\n')
    done = run(*words_without(key))
    check_refused(done.status, done.err, tmp_path, key, name, "promptopt.toml")


@pytest.mark.parametrize("table", ["", "[evaluate]\n"])
def test_evaluate_has_no_code_of_such_files_run_either(run: Runner, tmp_path: Path, table: str) -> None:
    (tmp_path / "promptopt.toml").write_text(f'{table}metric = "evil.py:f"\n')
    done = run(*words_without("metric", "evaluate"))
    check_refused(done.status, done.err, tmp_path, "metric", "evil.py:f", "promptopt.toml")


def test_python_has_no_code_of_front_matter_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"---\nmetric: evil.py:f\n---\n{PROMPT}"
    (tmp_path / "prompt.md").write_text(text)
    for prompt in (text, Path("prompt.md")):
        with pytest.raises(ConfigError, match=r"front matter: metric 'evil\.py:f' is code"):
            promptopt.evaluate(prompt, "data.csv", model="sim")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["front matter", "promptopt.toml"])
def test_what_the_command_line_names_is_run_whatever_such_a_file_says(
    run: Runner, tmp_path: Path, place: str
) -> None:
    if place == "front matter":
        (tmp_path / "prompt.md").write_text(f"---\nmetric: evil.py:f\n---\n{PROMPT}")
    else:
        (tmp_path / "promptopt.toml").write_text('metric = "evil.py:f"\n')
    done = run(*words_without("metric", "evaluate"), "--metric", "evil.py:f", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["score"]["score"] == 1
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("toml", ["own.toml", "promptopt.toml"])
def test_a_settings_file_that_the_command_line_names_has_code_run(run: Runner, tmp_path: Path, toml: str) -> None:
    (tmp_path / toml).write_text('metric = "evil.py:f"\n')
    done = run(*words_without("metric", "evaluate"), "--config", toml, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["score"]["score"] == 1


def test_the_config_of_a_run_with_code_makes_it_again(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text(f"---\nmetric: evil.py:f\n---\n{PROMPT}")
    first = run(*words_without("metric"), "--metric", "evil.py:f", "--out", "a", "--json")
    assert first.status == 0, first.err
    again = run("optimize", "--config", "a/config.toml", "--out", "b", "--json")
    assert again.status == 0, again.err
    assert "not the run that wrote" not in again.err
    prompts = [json.loads(done.out)["best"]["prompt"] for done in (first, again)]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("metric", ["regex:search", "contains:all", "rouge:rouge1", "bleu:floor", "label"])
def test_names_of_metrics_that_look_like_modules_are_no_code(run: Runner, tmp_path: Path, metric: str) -> None:
    (tmp_path / "prompt.md").write_text(f"---\nmetric: {metric}\n---\n{PROMPT}")
    done = run(*words_without("metric"), "--dry-run")
    assert done.status == 0, done.err


CLAIMS = (
    '{"item": "thing %d", "target": "red", "metric": "evil.py:f", "optimizer": "evil.py:F", "data": "evil:task"}'
)


def test_data_that_names_code_is_data(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(CLAIMS % i for i in range(60)))
    words = ["evaluate", "prompt.md", "--model", "sim", "--data", "rows.jsonl", "--json"]
    done = run(*words)
    assert done.status == 0, done.err
    assert json.loads(done.out)["task"]["metric"] != "evil.py:f"
    assert not (tmp_path / "ran").exists()


def test_a_journal_and_a_record_that_name_code_have_none_run(run: Runner, tmp_path: Path) -> None:
    words = [*words_without("metric"), "--out", "here"]
    assert run(*words).status == 0
    with sqlite3.connect(tmp_path / "here/journal.db") as journal:
        (config,) = journal.execute("SELECT config FROM runs").fetchone()
        journal.execute("UPDATE runs SET config = ?", (config.replace('"label"', '"evil.py:f"'),))
    journal.close()
    record = (tmp_path / "here/config.toml").read_text()
    (tmp_path / "here/config.toml").write_text(record.replace('metric = "label"', 'metric = "evil.py:f"'))
    done = run(*words)
    assert done.status == 2
    assert "another configuration" in done.err
    assert not (tmp_path / "ran").exists()


FAR = "https://collect.example.com/v1"


@pytest.mark.parametrize("place", ["prompt.md", "promptopt.toml"])
@pytest.mark.parametrize(
    ("line", "flag"),
    [("api-base: {}", "--api-base"), ("set-model: task.api_base={}", "--set-model task.api_base=")],
    ids=["all roles", "a role"],
)
def test_a_server_far_away_is_named_on_the_command_line_alone(
    run: Runner, tmp_path: Path, place: str, line: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    words = ["optimize", "prompt.md", "--data", "data.csv", "--model", "local", "--budget-calls", "200"]
    words += ["--optimizer-model", "sim"]
    text = line.format(FAR)
    if place == "prompt.md":
        (tmp_path / place).write_text(f"---\n{text}\n---\n{PROMPT}")
    else:
        key, value = text.split(": ")
        (tmp_path / place).write_text(f'{key} = "{value}"\n' if key == "api-base" else f'{key} = ["{value}"]\n')
    done = run(*words)
    assert done.status == 2
    assert f"{place}: {FAR!r} would get the data and a key" in done.err
    assert f"write {flag} on the command line" in done.err
    assert not (tmp_path / "runs").exists()
    (tmp_path / place).write_text((tmp_path / place).read_text().replace(FAR, "http://127.0.0.1:9/v1"))
    assert run(*words, "--dry-run").status == 0, "one's own server may stand there"


def test_a_server_far_away_may_stand_in_a_file_that_the_command_line_names(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f'api-base = "{FAR}"\nmodel = "local"\ndata = "data.csv"\n')
    done = run("optimize", "prompt.md", "--config", "own.toml", "--budget-calls", "200", "--dry-run")
    assert done.status == 0, done.err
    (tmp_path / "own.toml").rename(tmp_path / "promptopt.toml")
    typed = ["--api-base", FAR, "--budget-calls", "200", "--dry-run"]
    assert run("optimize", "prompt.md", *typed).status == 0, "what is typed is the user's own word"
