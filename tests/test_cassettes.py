"""Recorded exchanges through litellm, replayed with every socket shut; and that the recordings are sound."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cassette
import pytest
import yaml
from cassette import CASSETTES, RECORDER, SCENARIOS, Stage, Told, question, record, replay, replayed, tell
from served import served

from promptopt.config import load_examples
from promptopt.errors import CallRefused, RunRefused, ServerFailed
from promptopt.providers import load_litellm
from promptopt.simulator import Simulator, landscape
from promptopt.types import Message, Request, Response

ALL = sorted(CASSETTES.iterdir())
# Header names that carry keys, and the shapes of keys.
SECRET = re.compile(
    r"authorization|bearer |api[-_]?key|cookie|openai-organization|\bsk-\w|\bAIza\w|\bgh[pous]_\w|\bxox[bp]-|"
    r"\bAKIA[A-Z0-9]|-----BEGIN",
    re.IGNORECASE,
)
MACHINE = re.compile(
    r"127\.0\.0\.1|localhost|x-stainless|user-agent|^ *(?:date|server|host):|/home/|/tmp/",
    re.IGNORECASE | re.MULTILINE,
)
MOST_EXCHANGES = 100  # matching is linear


def texts(told: Told) -> list[str]:
    return [reply.text for reply in told.replies if isinstance(reply, Response)]


def simulator() -> Simulator:
    known = Simulator(landscape("default"))
    known.learn(load_examples("support"))
    return known


# Scenarios ----------------------------------------------------------------------------------------


def test_evaluation_scores_what_the_built_in_simulator_says(tmp_path: Path) -> None:
    rows, _ = replay("evaluation", tmp_path)
    examples = {example.id: example for example in load_examples("support")}
    prompt = cassette.prepare(cassette.PROMPT, "support", Stage("http://x/v1", tmp_path).settings())[0].task
    assert len(rows) == 5
    for name, score, reply in rows:
        asked = Request("sim", prompt.render(prompt.initial, examples[name]), 1024)
        assert reply == simulator().complete(asked).text
        assert score == float(reply.strip() == examples[name].target)
    assert 0 < sum(score for _, score, _ in rows) < 5


def test_logprobs_are_those_of_the_built_in_simulator(tmp_path: Path) -> None:
    told, stage = replay("logprobs", tmp_path)
    (reply,) = told.replies
    assert reply.logprobs is not None
    assert len(reply.logprobs) == 4
    message = load_examples("support")[0].inputs["message"]
    text = f"Sort the message. Answer with the label only.\n\nMessage: {message}"
    own = simulator().complete(question(text, stage, top_logprobs=4))
    assert own.logprobs is not None
    assert dict(reply.logprobs) == pytest.approx(dict(own.logprobs))
    assert (reply.text, reply.usage) == (own.text, own.usage)


def test_limit_is_waited_out_as_the_server_asks(tmp_path: Path) -> None:
    told, stage = replay("rate_limit", tmp_path)
    assert len(texts(told)) == 2
    assert stage.waits == [2.0]
    assert told.attempts == {"ok": 2, "RateLimited": 1}


def test_error_is_tried_again(tmp_path: Path) -> None:
    told, stage = replay("server_error", tmp_path)
    assert len(texts(told)) == 1
    assert len(stage.waits) == 1
    assert told.attempts == {"ok": 1, "ServerFailed": 1}


def test_refusals_are_told_apart_and_not_tried_again(tmp_path: Path) -> None:
    told, stage = replay("refused", tmp_path)
    assert [type(reply) for reply in told.replies] == [CallRefused, RunRefused]
    assert stage.waits == []
    assert "temperature is 5.0" in str(told.replies[0])
    assert "model 'simulator' does not exist" in str(told.replies[1])


def test_run_ends_as_it_did_when_it_was_recorded(tmp_path: Path) -> None:
    found, _ = replay("optimize", tmp_path)
    assert found == json.loads((CASSETTES / "optimize.json").read_text(encoding="utf-8"))
    assert found["spend"][0] == found["spend"][1] == len(exchanges(CASSETTES / "optimize.yaml"))


def test_cassettes_serve_httpx_as_well_as_aiohttp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_litellm(), "disable_aiohttp_transport", True)
    # Another address, or litellm would take the client that it made before.
    stage = Stage("http://httpx.invalid/v1", tmp_path)
    with replayed(CASSETTES / "rate_limit.yaml"):
        told = SCENARIOS["rate_limit"].play(stage)
    assert told.attempts == {"ok": 2, "RateLimited": 1}


# Sound recordings ---------------------------------------------------------------------------------


def exchanges(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["interactions"]
    return rows


def test_every_scenario_is_replayed_by_a_test_and_no_cassette_is_an_orphan() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    used = set(re.findall(r"replay\(\"(\w+)\"", source))
    assert used == set(SCENARIOS)
    assert {path.name for path in ALL} == {*(f"{name}.yaml" for name in SCENARIOS), "optimize.json"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_recordings_hold_no_secret_and_nothing_of_the_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for pattern in (SECRET, MACHINE):
        found = pattern.search(text)
        assert found is None, f"{path.name} holds {found.group()!r}"


@pytest.mark.parametrize("path", [path for path in ALL if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_recordings_hold_bare_exchanges_with_the_simulator(path: Path) -> None:
    rows = exchanges(path)
    assert 0 < len(rows) <= MOST_EXCHANGES
    for row in rows:
        assert row["request"]["uri"].startswith("http://simulator.invalid/v1/")
        assert {name.lower() for name in row["request"]["headers"]} == {"content-type"}
        assert {name.lower() for name in row["response"]["headers"]} <= {"content-type", "retry-after"}
        body = json.loads(row["response"]["body"]["string"])
        assert "error" in body or body["system_fingerprint"] == "simulated"


@pytest.mark.parametrize("secret", ["Authorization: x", "Bearer x", "api_key=1", "sk-proj-1", "AIzaSy"])
def test_secrets_would_be_seen(secret: str) -> None:
    assert SECRET.search(f"  - {secret}")


def test_unmatched_request_fails_the_test_though_the_gateway_takes_it_for_an_outage(tmp_path: Path) -> None:
    stage = Stage(cassette.NOWHERE, tmp_path)
    path = CASSETTES / "server_error.yaml"
    told: list[Told] = []
    with pytest.raises(AssertionError, match=r"(?s)not in server_error\.yaml.*make cassettes"), replayed(path):
        told += [tell(stage, question("one", stage)), tell(stage, question("never asked", stage))]
    assert len(texts(told[0])) == 1
    assert isinstance(told[1].replies[0], ServerFailed)


def test_exchange_that_nobody_asks_for_fails_the_test(tmp_path: Path) -> None:
    stage, path = Stage(cassette.NOWHERE, tmp_path), CASSETTES / "rate_limit.yaml"
    with pytest.raises(AssertionError, match=r"3 recorded, 1 asked for"), replayed(path):
        tell(stage, question("one", stage))


def test_no_socket_is_reached_even_on_this_machine() -> None:
    path = CASSETTES / "server_error.yaml"
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        address = listening.getsockname()
        for how in ("connect", "connect_ex", ""):
            # Suppressed, as by code that takes any error for an outage.
            with (
                pytest.raises(AssertionError, match=r"^(reached for|looked up)"),
                replayed(path),
                contextlib.suppress(AssertionError),
            ):
                getattr(client, how)(address) if how else socket.create_connection(address)
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_recording_anew_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("server_error", "logprobs"):
        record(name, tmp_path, tmp_path / "cassettes")
        fresh = tmp_path / "cassettes" / f"{name}.yaml"
        assert fresh.read_text(encoding="utf-8") == (CASSETTES / f"{name}.yaml").read_text(encoding="utf-8")


def test_keys_do_not_get_into_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    path = tmp_path / "new.yaml"
    with served() as (address, _), RECORDER.use_cassette(str(path), record_mode="all"):
        stage = Stage(address, tmp_path)
        assert len(texts(tell(stage, question("one", stage)))) == 1
    assert "secret" not in path.read_text(encoding="utf-8")
    assert Message("user", "one").content in path.read_text(encoding="utf-8")


def test_unknown_scenario_is_refused() -> None:
    script = cassette.ROOT / "scripts" / "record_cassettes.py"
    done = subprocess.run([sys.executable, script, "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no scenario 'nothing'" in done.stderr
