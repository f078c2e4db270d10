"""Options of each role's model: read, checked before anything is sent, and sent as they are."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback import Reply, chat, failure, serve
from scripted import make_task, model

from promptopt.api import run_in_thread
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.gateway import RetryPolicy
from promptopt.plan import make_plan
from promptopt.providers import ModelSpec
from promptopt.roles import find_models, read_options
from promptopt.run import Run
from promptopt.types import Budget, Message, Request


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def models(**options: dict[str, Any]) -> dict[Any, ModelSpec]:
    settings = Settings(model="m", api_base="http://127.0.0.1:1/v1", model_options=options)
    return find_models(settings, frozenset(), ("task", "optimizer"))


def test_known_options_are_settings_and_others_go_to_the_provider() -> None:
    found = models(
        task={"temperature": 0.5, "max_tokens": 77, "timeout_s": 5, "price_in": 1, "price_out": 2},
        optimizer={"reasoning_effort": "low", "api_base": "http://127.0.0.1:2/v1"},
    )
    task, writer = found["task"], found["optimizer"]
    assert (task.temperature, task.max_tokens, task.timeout_s) == (0.5, 77, 5)
    assert task.prices == (Decimal("0.000001"), Decimal("0.000002"))
    assert writer.options == (("reasoning_effort", '"low"'),)
    assert (task.api_base, writer.api_base) == ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
    assert task.is_noisy


def test_no_temperature_is_sent_where_none_is_wanted() -> None:
    assert models(task={"temperature": "none"})["task"].temperature is None
    assert models(task={"temperature": None})["task"].is_noisy


def test_requests_differ_by_options_and_not_without() -> None:
    spec, other = models()["task"], models(task={"top_p": 0.5})["task"]
    messages = (Message("user", "x"),)
    assert spec.request(messages).digest != other.request(messages).digest
    assert Request("m", messages, 5).digest == "31efc14d9d5b51ec4a6dfd002f2a16eb"


def test_texts_are_read_as_json_where_they_are() -> None:
    pairs = {"task.temperature": "0.5", "task.stop": '["a"]', "judge.reasoning_effort": "low"}
    assert read_options(pairs) == {
        "task": {"temperature": 0.5, "stop": ["a"]},
        "judge": {"reasoning_effort": "low"},
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tsk": {"top_p": 1}}, "no such role; did you mean 'task'"),
        ({"judge": {"top_p": 1}}, "this run has no judge model"),
        ({"task": {"api_key": "x"}}, "keys are read from the environment"),
        ({"task": {"model": "x"}}, "name it with --model"),
        ({"task": {"stream": True}}, "whole answers are read"),
        ({"task": {"timeout": 3}}, "write timeout_s"),
        ({"task": {"fallbacks": [{"model": "openai/z"}]}}, "another model would answer under the name"),
        ({"task": {"models": ["a", "b"]}}, "another model would answer under the name"),
        ({"task": {"mock_response": "red"}}, "no model asked"),
        ({"task": {"mock_tool_calls": []}}, "no model asked"),
        ({"optimizer": {"extra_headers": {"Authorization": "Bearer sk"}}}, "headers may hold keys"),
        ({"task": {"aws_secret_access_key": "x"}}, "keys are read from the environment"),
        ({"task": {"azure_ad_token": "x"}}, "keys are read from the environment"),
        ({"task": {"base_url": "http://127.0.0.1:2"}}, "write api_base"),
        ({"task": {"tools": []}}, "answers are text"),
        ({"task": {"caching": True}}, "in the journal alone"),
        ({"task": {"metadata": {"a": "b"}}}, "litellm keeps it to itself, so no model would see it"),
        ({"task": {"retry_policy": {}}}, "litellm keeps it to itself, so no model would see it"),
        ({"task": {"extra_body": {"model": "z"}}}, "extra_body: model: name it with --model"),
        ({"task": {"extra_body": {"max_tokens": 9}}}, "extra_body: max_tokens: write it outside of extra_body"),
        ({"task": {"extra_body": {"api_key": "x"}}}, "extra_body: api_key: keys are read"),
        ({"task": {"temperature": 3}}, "it must lie between 0 and 2"),
        ({"task": {"temperature": "warm"}}, "write a number"),
        ({"task": {"max_tokens": 0}}, "write a whole number above 0"),
        ({"task": {"max_tokens": 1.5}}, "write a whole number above 0"),
        ({"task": {"timeout_s": -1}}, "it must be above 0"),
        ({"task": {"price_in": 1}}, "give both task.price_in and task.price_out"),
        ({"task": {"price_in": -1, "price_out": 1}}, "a price is at least 0"),
        ({"task": {"price_in": 1e30, "price_out": 1}}, "task.price is 1e\\+30; it must be at most 1000000"),
        ({"task": {"max_tokens": "1e400"}}, "it must be at most 1000000"),
        ({"task": {"timeout_s": 1e30}}, "it must be at most"),
        ({"task": {"api_base": 5}}, "task.api_base is 5; write it like http://"),
        ({"optimizer": {"api_base": "localhost:8000"}}, "optimizer.api_base is 'localhost:8000'; write it like"),
        ({"task": {"response_format": 5}}, "task.response_format=5: litellm cannot read the value"),
        ({"task": {"custom_llm_provider": "azure"}}, "write it in front of the model's name"),
        ({"task": {"top_p": float("nan")}}, "task.top_p: no JSON can carry its value"),
        ({"task": {"stop": Path("x")}}, "task.stop: no JSON can carry its value"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        models(**options)


@pytest.mark.parametrize(
    "option",
    [
        *({"reasoning_effort": "low"}, {"top_p": 0.5}, {"seed": 3}, {"stop": ["a"]}, {"logit_bias": {"5": 1}}),
        *({"presence_penalty": 1}, {"frequency_penalty": 1}, {"service_tier": "flex"}, {"user": "u"}),
        *({"response_format": {"type": "json_object"}}, {"prediction": {"type": "content", "content": "x"}}),
        *({"prompt_cache_key": "k"}, {"safety_identifier": "s"}, {"store": False}, {"web_search_options": {}}),
        *({"top_k": 4}, {"min_p": 0.1}, {"pad_token_id": 4}, {"chat_template_kwargs": {"enable_thinking": False}}),
        *({"extra_body": {"guided_json": {"password": "x"}}}, {"provider": {"order": ["a"]}}),
        *({"api_version": "1"}, {"ssl_verify": False}, {"allowed_openai_params": ["thinking"]}),
        *({"aws_region_name": "r"}, {"vertex_project": "p"}, {"organization": "o"}),
    ],
    ids=str,
)
def test_options_of_providers_are_taken(option: dict[str, Any]) -> None:
    assert dict(models(task=option)["task"].options).keys() == option.keys()


def test_a_text_that_is_no_json_is_itself() -> None:
    assert read_options({"task.x": "[" * 100_000}) == {"task": {"x": "[" * 100_000}}


@pytest.mark.parametrize("key", ["temperature", "task.", ".x", "task"])
def test_keys_are_written_role_option(key: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as role.option=value|no such role"):
        read_options({key: "1"})


def test_options_that_a_model_is_known_to_refuse_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    settings = Settings(model="openai/gpt-5-mini", model_options={"task": {"temperature": 0.3}})
    with pytest.raises(ConfigError, match="openai/gpt-5-mini does not take it; leave it out, or write none"):
        find_models(settings, frozenset(), ("task",))


def test_the_simulator_takes_no_options_of_providers() -> None:
    settings = Settings(model="sim", model_options={"task": {"top_p": 0.5}})
    with pytest.raises(ConfigError, match="sim does not take it"):
        find_models(settings, frozenset(), ("task",))


def run_with(folder: Path, answer: Any, **settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    with serve(answer) as server:
        given = Settings(
            model="my-model",
            api_base=server.url,
            budget=Budget(calls=120),
            optimizer="random",
            out=folder,
            **settings,
        )
        run = Run(make_plan(make_task(), given), retry=RetryPolicy(2, 0.001, 0.004))
        try:
            return run_in_thread(run), server.bodies
        except ConfigError as error:
            return error, server.bodies


def reply_to(body: dict[str, Any]) -> Any:
    messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
    if "the word OK" in messages[-1].content:
        return chat("OK")
    return chat(model(Request(body["model"], messages, 100, sample=messages[-1].content)))


def test_options_reach_the_wire_by_role(tmp_path: Path) -> None:
    options = {"task": {"top_p": 0.25, "max_tokens": 33}, "optimizer": {"temperature": 0.5, "seed": 7}}
    result, bodies = run_with(tmp_path, reply_to, model_options=options)
    assert result.status in ("completed", "budget_exhausted")
    writing = [body for body in bodies if "top_p" not in body]
    answering = [body for body in bodies if "top_p" in body]
    assert {(body["top_p"], body["max_tokens"]) for body in answering} == {(0.25, 33)}
    assert {(body["temperature"], body["seed"]) for body in writing} == {(0.5, 7)}


@pytest.mark.parametrize("probes", [True, False])
def test_a_probe_tells_a_refused_option_before_the_run(tmp_path: Path, probes: bool) -> None:
    def picky(body: dict[str, Any]) -> Any:
        return failure(400, "unsupported value: top_k") if "top_k" in body else reply_to(body)

    options = {"task": {"top_k": 3}}
    found, bodies = run_with(tmp_path, picky, model_options=options, probe=probes)
    if probes:
        assert isinstance(found, ConfigError)
        assert "the task model my-model refuses a call with" in str(found)
        assert "top_k=3" in str(found)
        assert len(bodies) == 2  # one for each role
    else:
        assert found.status == "failed"


def test_a_probe_blames_no_option_where_nobody_answers(tmp_path: Path) -> None:
    found, _ = run_with(tmp_path, lambda body: Reply(drops=True), probe=True)
    assert isinstance(found, ConfigError)
    assert "the task model my-model cannot be reached: " in str(found)
    assert not any(word in str(found) for word in ("refuses", "max_tokens", "--set-model"))


def test_a_probe_counts_as_calls_of_the_run(tmp_path: Path) -> None:
    result, bodies = run_with(tmp_path, reply_to, probe=True)
    asked = [body for body in bodies if "Reply with the word OK" in body["messages"][-1]["content"]]
    assert len(asked) == 2
    assert result.spend.calls == len(bodies) <= 120
