"""Keys in the environment, in addresses and in what servers say get into nothing that a run keeps or shows."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chatty
import pytest
from chatty import FAILURES, KEYS, PATH_TOKEN, leaks, leaks_below
from commandline import SUPPORT, Runner, optimize, run
from loopback import Loopback, serve

import promptopt
from promptopt.api import prepare
from promptopt.config import Settings
from promptopt.errors import ConfigError, PromptoptError
from promptopt.gateway import RetryPolicy
from promptopt.providers import LitellmTransport, ModelSpec, closing, load_litellm
from promptopt.report import write_report
from promptopt.result import Result
from promptopt.run import Run
from promptopt.types import Budget, Message, Request

__all__ = ["run"]
QUICK = RetryPolicy(n_attempts=2, first_wait_s=0.001, max_wait_s=0.001)
SMALL = {"n_dev": "4", "batch_size": "1", "max_shots": "1"}
BUDGET = 36
QUICK_KINDS = ("401", "429", "odd")


def soak(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.soak)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serve(lambda body: chatty.page(body)) as loopback:
        loopback.answer = chatty.answering(lambda: len(loopback.bodies))
        yield loopback


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Return all that is logged, by every package, at the level DEBUG."""
    load_litellm()
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setenv("LITELLM_LOG", "DEBUG")
    names = [name for name in logging.root.manager.loggerDict if not name.startswith("faker")]
    for name in ("", *names):
        caplog.set_level(logging.DEBUG, logger=name or None)
    return caplog


@pytest.fixture(autouse=True)
def keys(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Place the keys; after the command line's fixture, which takes away those that are there."""
    chatty.place(monkeypatch)


def address(server: Loopback) -> str:
    """Return the server's address, with a token in its path."""
    return server.url.replace("/v1", f"/{PATH_TOKEN}/v1")


def execute(server: Loopback, folder: Path, announce: Callable[[Run], None] | None = None) -> Result:
    settings = Settings(
        "local",
        optimizer="random",
        options=SMALL,
        api_base=address(server),
        budget=Budget(calls=BUDGET),
        proof_examples=4,
        concurrency=4,
        out=folder,
    )
    plan, front_matter = prepare(SUPPORT, "support", settings)
    made = Run(plan, front_matter=front_matter, retry=QUICK, announce=announce)
    return asyncio.run(closing(made.execute()))


def check(folder: Path, logs: pytest.LogCaptureFixture, *texts: str) -> None:
    if (folder / "journal.db").exists():
        write_report(folder)
        assert (folder / "report.html").stat().st_size > 10_000
    assert leaks_below(folder) == []
    assert logs.records
    assert leaks(logs.text) == []
    for text in texts:
        assert leaks(text) == []


# Every exit of a run ---------------------------------------------------------------------------------


def test_run_that_ends_well_holds_no_key(
    server: Loopback, tmp_path: Path, logs: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    result = execute(server, tmp_path / "run")
    assert result.status in ("completed", "budget_exhausted")
    assert "<OPENAI_API_KEY>" in (tmp_path / "run/journal.db").read_bytes().decode("utf-8", "replace")
    check(tmp_path / "run", logs, *capsys.readouterr(), repr(result), result.to_json())


@pytest.mark.parametrize("kind", [kind if kind in QUICK_KINDS else soak(kind) for kind in FAILURES])
def test_run_that_fails_holds_no_key(
    kind: str,
    server: Loopback,
    tmp_path: Path,
    logs: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails, answers, n = FAILURES[kind], server.answer, itertools.count()
    n_fails = 2 if kind == "429" else 10**6  # the pace of an endpoint that refuses for long is slow
    server.answer = lambda body: fails(body) if 6 <= next(n) < 6 + n_fails else answers(body)
    result = execute(server, tmp_path / "run")
    assert (result.status == "failed") == (kind != "429")
    check(tmp_path / "run", logs, *capsys.readouterr(), repr(result), result.to_json())


def test_run_that_is_interrupted_holds_no_key(
    server: Loopback, tmp_path: Path, logs: pytest.LogCaptureFixture
) -> None:
    answers, runs = server.answer, list[Run]()

    def answer(body: dict[str, Any]) -> Any:
        if len(server.bodies) > 12:
            runs[0].stop.set()
        return answers(body)

    server.answer = answer
    result = execute(server, tmp_path / "run", runs.append)
    assert result.status == "interrupted"
    check(tmp_path / "run", logs, repr(result))


def test_run_that_is_killed_holds_no_key(server: Loopback, tmp_path: Path) -> None:
    code = "import logging; logging.basicConfig(level=1); from promptopt.cli import main; main()"
    words = optimize("--api-base", address(server), "--budget-calls", 200, "--out", "run", model="local")
    answers, fails = server.answer, FAILURES["500"]
    server.answer = lambda body: fails(body) if len(server.bodies) == 5 else answers(body)
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", code, *map(str, words)]
    with (tmp_path / "said.txt").open("wb") as said:
        environment = {**os.environ, "LITELLM_LOG": "DEBUG", "PYTHONASYNCIODEBUG": "1"}
        killed = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said, env=environment)
        try:
            until = time.monotonic() + 120
            while len(server.bodies) < 25 and killed.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.wait(10)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "run/journal.db-wal").stat().st_size > 0
    assert "DEBUG" in (tmp_path / "said.txt").read_text(encoding="utf-8", errors="replace")
    assert leaks_below(tmp_path) == []


# The command line and Python -------------------------------------------------------------------------


def test_command_line_shows_and_records_no_key(
    server: Loopback, tmp_path: Path, run: Runner, logs: pytest.LogCaptureFixture
) -> None:
    given = ["--api-base", address(server), "--out", "here", "--optimizer", "random", "--proof-examples", 4]
    given += ["--budget-calls", BUDGET]
    given += [word for name, text in SMALL.items() for word in ("--set", f"{name}={text}")]
    planned = run(*optimize(*given, "--dry-run", model="local"))
    done = run(*optimize(*given, "--json", model="local"))
    assert (planned.status, done.status) == (0, 0)
    assert json.loads((tmp_path / "here/result.json").read_text(encoding="utf-8"))["spend"]["calls"] > 10
    check(tmp_path, logs, planned.out, planned.err, done.out, done.err)
    config = (tmp_path / "here/config.toml").read_text(encoding="utf-8")
    assert "--api-base" in config
    assert "/***/v1" in config
    again = run(*optimize(*given, model="local"))  # the same command goes on, and asks for nothing
    assert again.status == 0, again.err
    refused = run("optimize", "--config", "here/config.toml")
    assert refused.status == 2
    assert "secret was struck out; give it whole" in refused.err


@pytest.mark.parametrize("kind", ["401", soak("400")])
def test_evaluation_that_fails_shows_no_key(
    kind: str, server: Loopback, tmp_path: Path, run: Runner, logs: pytest.LogCaptureFixture
) -> None:
    server.answer = FAILURES[kind]
    words = ["evaluate", SUPPORT, "--data", "support", "--model", "local", "--api-base", address(server)]
    done = run(*words, "--examples", 5, "--out", "here")
    assert done.status == 1
    assert done.err.startswith("error: ") or "error: " in done.err
    check(tmp_path, logs, done.out, done.err)


def test_tracebacks_hold_no_key(server: Loopback, tmp_path: Path) -> None:
    """Whatever a call raises: message, representation, notes, and the errors behind it, shown or not."""
    spec = ModelSpec("local", api_base=address(server))
    for kind, fails in FAILURES.items():
        server.answer = fails
        asked = Request("local", (Message("user", "q"),), 8, api_base=address(server))
        with pytest.raises(PromptoptError) as caught:
            asyncio.run(closing(LitellmTransport((spec,)).send(asked, 10)))
        error: BaseException | None = caught.value
        shown = [kind, *traceback.format_exception(caught.value)]
        while error is not None:
            shown += [str(error), repr(error), repr(error.args), repr(vars(error))]
            error = error.__cause__ or error.__context__
        assert leaks("\n".join(shown)) == []
    server.answer = FAILURES["400"]
    with pytest.raises(ConfigError) as refused:
        promptopt.optimize(SUPPORT, "support", model="local", api_base=address(server), probe=True, out=tmp_path)
    assert leaks("".join(traceback.format_exception(refused.value))) == []


def test_users_own_code_that_fails_puts_no_key_into_the_result(tmp_path: Path) -> None:
    def metric(reply: str, example: object) -> float:
        raise ValueError(f"cannot reach the store with {chatty.said()}")

    done = promptopt.evaluate(SUPPORT, "support", model="sim", metric=metric, out=tmp_path / "run", examples=5)
    assert done.status == "failed"
    assert "<HF_TOKEN>" in done.reason
    assert set(leaks(done.to_json())) <= {"the path"}, "which nobody could know to be a token"


# Addresses and options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["http://me:KEY@127.0.0.1:9/v1", "http://KEY@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=KEY"]
)
def test_address_with_a_password_or_a_query_is_refused_without_showing_it(
    where: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has ever reached a server: HTTP clients refuse the one, and break the path with the other."""
    key = KEYS["AZURE_API_KEY"]
    monkeypatch.delenv("AZURE_API_KEY")
    given = (
        ("--api-base", where.replace("KEY", key)),
        ("--set-model", f"task.api_base={where.replace('KEY', key)}"),
    )
    for words in given:
        done = run(*optimize(*words, "--out", "here", model="local"))
        assert done.status == 2
        assert "no user, password or query can be sent" in done.err
        assert leaks(done.err + done.out) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["htp://me:KEY@h/v1", "http://me:KEY@h:99999/v1", "http://h/KEY/v1/embeddings"])
def test_wrong_address_is_named_without_its_secret(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = KEYS["AZURE_API_KEY"]
    monkeypatch.delenv("AZURE_API_KEY")
    with pytest.raises(ConfigError) as caught:
        Settings("local", api_base=where.replace("KEY", key))
    assert leaks(str(caught.value)) == []


def test_another_token_in_the_path_is_another_run(server: Loopback, tmp_path: Path) -> None:
    execute(server, tmp_path / "run")
    server.url = server.url.replace("/v1", "/another0token1of2mine3/v1")
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        execute(server, tmp_path / "run")


@pytest.mark.parametrize("name", ["user", "metadata", "extra_body"])
def test_option_whose_value_is_a_key_is_refused(name: str, run: Runner) -> None:
    for key in KEYS.values():
        value = json.dumps({"x": key}) if name != "user" else key
        done = run(*optimize("--set-model", f"task.{name}={value}", model="openai/gpt-5-mini"))
        assert done.status == 2
        assert "its value holds a key" in done.err
        assert leaks(done.err) == []


# The search itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_a_key_would_be_found_in_any_form(name: str, tmp_path: Path) -> None:
    key = KEYS[name]
    for text in (key, chatty.quote(key, safe=""), json.dumps(key)):
        assert name in leaks(f"x{text}y")
        assert name in leaks(text.encode("utf-16"))
    for before in ("", "u", "u:", "user:"):
        assert name in leaks(base64.b64encode(f"{before}{key}:z".encode()))
    (tmp_path / "here").write_bytes(b"\0" * 100 + key.encode() + b"\0")
    assert leaks_below(tmp_path) == [f"here: {name}"]
    assert leaks("nothing") == []
