"""The served simulator: what it answers, refuses and fails at, and how the command starts and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import COMMAND, served

from promptopt.api import prepare
from promptopt.config import Settings, load_examples
from promptopt.errors import ConfigError
from promptopt.gateway import RetryPolicy
from promptopt.protocol import Refusal, completion, read_chat
from promptopt.providers import LitellmTransport, closing
from promptopt.run import Run
from promptopt.server import Allowance, ServerOptions, SimulatedService
from promptopt.simulator import Simulator, landscape
from promptopt.types import Budget, Example, Message, Request, Response

GOOD: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
SUPPORT = Path(__file__).parent.parent / "tasks" / "support" / "prompt.md"


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    with served("--data", "support") as (address, _):
        yield address


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def call(address: str, path: str, body: object = None) -> tuple[int, Any, Any]:
    """Return status, body and headers of a request; a body that is bytes is sent as it is."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(address.removesuffix("/v1") + path, data)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.loads(reply.read()), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), error.headers


def ask(address: str, *requests: Request, timeout_s: float = 20) -> list[Response]:
    """Return the replies that litellm's OpenAI provider gets, one after the other."""
    transport = LitellmTransport(())

    async def run() -> list[Response]:
        return [await transport.send(request, timeout_s) for request in requests]

    return asyncio.run(closing(run()))


def support() -> tuple[Example, ...]:
    return load_examples("support")


def in_process(name: str = "default") -> Simulator:
    simulator = Simulator(landscape(name))
    simulator.learn(support())
    return simulator


def asked_of(address: str | None, model: str, system: str, text: str, **settings: Any) -> Request:
    messages = (Message("system", system), Message("user", text))
    return Request(model, messages, settings.pop("max_tokens", 200), api_base=address, **settings)


# Answers ------------------------------------------------------------------------------------------


def test_served_and_built_in_simulator_say_the_same(plain: str) -> None:
    texts = [example.inputs["message"] for example in support()[:6]]
    cases: list[dict[str, Any]] = [{"text": text} for text in texts]
    cases += [{"text": texts[0], "max_tokens": 1}, {"text": texts[0], "top_logprobs": 3}, {"text": "unheard of"}]
    cases += [{"text": "Write a better prompt, within <prompt> tags.", "temperature": 1.0}]
    for name in ("sim", "sim:demos"):
        system = "Sort the message. Think step by step."
        requests = [asked_of(plain, f"openai/{name}", system, **case) for case in cases]
        simulator = in_process(name)
        for reply, request in zip(ask(plain, *requests), requests, strict=True):
            own = simulator.complete(request)
            assert (reply.text, reply.usage, reply.finish_reason) == (own.text, own.usage, own.finish_reason)
            assert (reply.logprobs is None) == (own.logprobs is None)
            for there, here in zip(reply.logprobs or (), own.logprobs or (), strict=True):
                assert there == (here[0], pytest.approx(here[1]))


def test_log_probabilities_are_there_where_they_are_asked_for(plain: str) -> None:
    text = support()[0].inputs["message"]
    system = "Sort the message. Answer with the label only."
    (with_them,) = ask(plain, asked_of(plain, "openai/sim", system, text, top_logprobs=3))
    (without,) = ask(plain, asked_of(plain, "openai/sim", system, text))
    assert with_them.logprobs is not None
    assert len(with_them.logprobs) == 3
    assert with_them.logprobs[0][0] in with_them.text
    assert without.logprobs is None
    assert without.text == with_them.text


def test_samples_differ_by_seed_or_by_turn() -> None:
    messages = [{"role": "user", "content": "Improve the prompt <prompt>Sort it.</prompt> within <prompt> tags."}]
    body = {"model": "sim", "messages": messages, "temperature": 1}

    def draws(*seeds: int | None) -> list[str]:
        service = SimulatedService(ServerOptions(), support())
        bodies = [body if seed is None else body | {"seed": seed} for seed in seeds]
        return [service.answer(read_chat(one)).text for one in bodies]

    repeated = draws(*[None] * 8)
    assert len(set(repeated)) > 3
    assert repeated == draws(*[None] * 8)
    seeded = draws(*range(8))
    assert len(set(seeded)) > 3
    assert draws(3, 3, 5, 3) == [seeded[3], seeded[3], seeded[5], seeded[3]]


def test_reply_is_marked_as_simulated_and_repeatable() -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
    asked = read_chat(body)
    service = SimulatedService(ServerOptions())
    reply = completion(asked, service.answer(asked))
    assert reply == completion(asked, service.answer(asked))
    assert reply["system_fingerprint"] == "simulated"
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"]


def test_models_health_and_what_is_not_there(plain: str) -> None:
    status, body, _ = call(plain, "/v1/models")
    assert status == 200
    assert {"sim", "sim:null", "sim:default"} <= {row["id"] for row in body["data"]}
    assert call(plain, "/health")[:2] == (200, {"status": "ok", "model": "simulated"})
    for path, sent, expected in (
        ("/v1/nothing", None, 404),
        ("/v1/chat/completions", None, 405),
        ("/v1/embeddings", {"model": "sim", "input": "x"}, 404),
        ("/v1/chat/completions", b"x" * (17 * 2**20), 413),
    ):
        status, body, _ = call(plain, path, sent)
        assert status == expected
        assert set(body["error"]) == {"message", "type", "param", "code"}


# Wrong requests ----------------------------------------------------------------------------------


def test_refusals_come_as_error_objects(plain: str) -> None:
    for body, status, code in ((GOOD | {"n": 2}, 400, None), (GOOD | {"model": "gpt-4"}, 404, "model_not_found")):
        got, reply, _ = call(plain, "/v1/chat/completions", body)
        assert (got, reply["error"]["code"]) == (status, code)
        assert reply["error"]["message"]
    assert call(plain, "/v1/chat/completions", b"{")[0] == 400
    for model in ("sim:", "sim:nothing", "simulated"):
        assert call(plain, "/v1/chat/completions", GOOD | {"model": model})[0] == 404


def test_half_characters_are_answered(plain: str) -> None:
    raw = b'{"model": "sim", "messages": [{"role": "user", "content": "\\ud800 \\u0000"}]}'
    assert call(plain, "/v1/chat/completions", raw)[0] == 200


# Limits, slowness and faults ----------------------------------------------------------------------


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def n_answered(service: SimulatedService, n: int) -> int:
    refusals = []
    for _ in range(n):
        try:
            service.answer(read_chat(GOOD))
        except Refusal as refusal:
            refusals.append((refusal.status, (refusal.retry_after_s or 0) > 0))
    assert set(refusals) <= {(429, True)}
    return n - len(refusals)


def test_calls_per_second_let_through_a_burst_then_the_rate() -> None:
    clock = Clock()
    service = SimulatedService(ServerOptions(calls_per_second=20), clock=clock)
    assert n_answered(service, 50) == 20
    clock.now += 0.5
    assert n_answered(service, 50) == 10
    clock.now += 60
    assert n_answered(service, 50) == 20


def test_slow_rates_let_single_calls_through() -> None:
    clock = Clock()
    service = SimulatedService(ServerOptions(calls_per_second=0.5), clock=clock)
    assert n_answered(service, 3) == 1
    with pytest.raises(Refusal) as caught:
        service.answer(read_chat(GOOD))
    clock.now += caught.value.retry_after_s or 0
    assert n_answered(service, 3) == 1


def test_tokens_per_minute_count_what_was_used_and_starve_nobody() -> None:
    clock = Clock()
    service = SimulatedService(ServerOptions(tokens_per_minute=24), clock=clock)
    assert n_answered(service, 5) == 2  # each takes 12
    clock.now += 30
    assert n_answered(service, 5) == 1
    tiny = Allowance(6, 0.1, clock)  # a call that takes more than can be saved up
    assert tiny.lack_s(12) == 0
    tiny.take(12)
    assert tiny.lack_s(12) == pytest.approx(120)


def test_refused_calls_do_not_use_up_draws() -> None:
    clock = Clock()
    body = GOOD | {"temperature": 1, "messages": [{"role": "user", "content": "Write a better prompt."}]}
    free = SimulatedService(ServerOptions())
    limited = SimulatedService(ServerOptions(calls_per_second=1), clock=clock)
    texts = []
    for _ in range(3):
        texts.append(limited.answer(read_chat(body)).text)
        assert n_answered(limited, 1) == 0
        with pytest.raises(Refusal):
            limited.answer(read_chat(body))
        clock.now += 1
    assert texts == [free.answer(read_chat(body)).text for _ in range(3)]


def test_refusal_beyond_the_limit_names_the_wait() -> None:
    with served("--calls-per-second", 0.01) as (address, _):
        assert call(address, "/v1/chat/completions", GOOD)[0] == 200
        status, body, headers = call(address, "/v1/chat/completions", GOOD)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 90 <= int(headers["Retry-After"]) <= 100
    assert 90_000 <= int(headers["Retry-After-Ms"]) <= 100_000


def test_latency_and_faults_depend_on_the_seed_alone() -> None:
    options = ServerOptions(latency_ms=50, jitter_ms=20, fault_rate=0.25, faults=("429", "drop"), seed=3)
    first, second = SimulatedService(options), SimulatedService(options)
    draws = [(first.latency_s(), first.fault()) for _ in range(400)]
    assert draws == [(second.latency_s(), second.fault()) for _ in range(400)]
    waits = [wait for wait, _ in draws]
    assert 0.03 <= min(waits) < 0.035
    assert 0.065 < max(waits) <= 0.07
    assert sum(waits) / 400 == pytest.approx(0.05, abs=0.002)
    kinds = [kind for _, kind in draws if kind]
    assert 70 < len(kinds) < 130
    assert set(kinds) == {"429", "drop"}
    other = SimulatedService(ServerOptions(fault_rate=0.25, faults=("429", "drop"), seed=4))
    assert [kind for _, kind in draws] != [other.fault() for _ in range(400)]


# The command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": "example.org"}, "--host"),
        ({"host": "192.168.0.1"}, "--host"),
        ({"host": "::"}, "--host"),
        ({"host": ""}, "--host"),
        ({"port": 65536}, "--port"),
        ({"port": -1}, "--port"),
        ({"seed": -1}, "--seed"),
        ({"landscape": "defualt"}, "did you mean 'default'"),
        ({"latency_ms": -1}, "--latency-ms"),
        ({"latency_ms": float("nan")}, "--latency-ms"),
        ({"latency_ms": 5, "jitter_ms": 6}, "--jitter-ms"),
        ({"calls_per_second": 0}, "--calls-per-second"),
        ({"tokens_per_minute": float("inf")}, "--tokens-per-minute"),
        ({"fault_rate": 1.5}, "--fault-rate"),
        ({"fault_rate": 0.5, "faults": ("hagn",)}, "did you mean 'hang'"),
        ({"faults": ("500",)}, "--fault-rate"),
        ({"max_seconds": 0}, "--max-seconds"),
        ({"calls_per_second": 1e-307}, "--calls-per-second is 1e-307; it must be at least 0.001"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ServerOptions(**options)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "::1"])
def test_loopback_hosts_are_taken(host: str) -> None:
    assert ServerOptions(host=host).address == ("127.0.0.1" if host == "localhost" else host)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_good_order_while_a_call_hangs(number: signal.Signals) -> None:
    with served("--fault-rate", 1, "--fault", "hang") as (address, process):
        port = int(address.rpartition(":")[2].removesuffix("/v1"))
        with socket.create_connection(("127.0.0.1", port)) as client:
            raw = json.dumps(GOOD).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
            client.sendall(head.encode() + raw)
            assert call(address, "/health")[0] == 200  # it serves others meanwhile
            process.send_signal(number)
            process.send_signal(number)
            assert process.wait(20) == 0


def test_it_ends_by_itself() -> None:
    with served("--max-seconds", 0.3) as (_, process):
        assert process.wait(20) == 0


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [str(COMMAND), "simulate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_port_in_use_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --port {port} of 127.0.0.1 is in use")
    assert done.stderr.count("\n") == 1


def test_wrong_data_is_one_clear_error(tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"input": f"text {i}", "label": ""}) + "\n" for i in range(40)))
    for data, *more in (("nothing",), (bare,), (bare, "--target", "label")):
        done = command("--port", 0, "--data", data, *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from promptopt import server

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match=r"promptopt-suite\[server\]"):
        server.run_server(ServerOptions())


def test_examples_are_all_rows_of_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_examples(data, target="label")
    assert sorted((e.inputs["text"], e.target or "") for e in examples) == sorted(
        (row["text"], row["label"]) for row in rows
    )


# A whole run --------------------------------------------------------------------------------------


def test_optimize_runs_against_the_server(plain: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [COMMAND, "optimize", SUPPORT, "--data", "support", "--model", "openai/sim", "--api-base", plain]
    words += ["--optimizer", "random", "--budget-calls", 100, "--out", folder, "--json"]
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] in ("completed", "budget_exhausted")
    assert result["spend"]["calls"] > 60
    assert result["initial"]["test"]["n"] == result["best"]["test"]["n"] > 5
    assert (folder / "best.md").exists()


@pytest.mark.soak  # its pauses take half a minute; see test_faults.py and test_faults_http.py
def test_a_run_gets_through_faults(tmp_path: Path) -> None:
    faults = [word for kind in ("500", "drop", "429") for word in ("--fault", kind)]
    with served("--data", "support", "--fault-rate", 0.2, *faults) as (address, _):
        settings = Settings(
            model="openai/sim",
            api_base=address,
            budget=Budget(calls=100),
            optimizer="random",
            out=tmp_path / "run",
        )
        plan, _ = prepare(SUPPORT, "support", settings)
        result = asyncio.run(closing(Run(plan, retry=RetryPolicy(12, 0.001, 0.004)).execute()))
    assert result.status in ("completed", "budget_exhausted")
    assert result.spend.calls > 60
    assert 1.1 < result.spend.attempts / result.spend.calls < 1.6
    assert result.improvement is not None
