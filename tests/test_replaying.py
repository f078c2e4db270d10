"""A finished run is gone through again without any model, and ends in the identical result."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import Runner, run  # noqa: F401  # a fixture
from scripted import Scripted, documented_strategy, make_run, make_task, model, noise

import promptopt
from promptopt import recording, registry
from promptopt.api import prepare, replay
from promptopt.config import Settings
from promptopt.errors import ConfigError, ContentRefused, RateLimited, ReplayDiverged
from promptopt.gateway import RetryPolicy
from promptopt.plan import make_plan
from promptopt.run import Run
from promptopt.testing import label_task, outcome
from promptopt.types import Budget, Request, Score

INITIAL = "Name the colour."


def recorded(folder: Path) -> Path:
    """Return the file that a run folder is recorded in; the folder itself is gone."""
    path = folder.with_suffix(".jsonl")
    recording.write(recording.of_run(folder), path)
    shutil.rmtree(folder)
    return path


def execute(folder: Path, settings: Settings, reply: Any = model) -> Scripted:
    transport = Scripted(reply)
    asyncio.run(make_run(folder, transport, settings=settings).execute())
    return transport


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a replay tried to reach a model")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_every_strategy_ends_identically_from_folder_and_recording(tmp_path: Path, name: str) -> None:
    folder, task = tmp_path / "run", label_task()
    least = registry.make_optimizer(name, {})[1].minimum_calls()
    budget = Budget(calls=least + 100)
    made = promptopt.optimize(
        task.initial, task, model="sim", optimizer=name, budget=budget, proof_examples=5, out=folder
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = replay(folder)
    assert found.differences == ()
    assert found.n_answers == made.spend.calls > 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the folder stays as it is"
    assert replay(recorded(folder)).is_identical


def test_a_raised_budget_ends_identically(tmp_path: Path) -> None:
    for calls in (160, 300):
        execute(tmp_path / "run", Settings(model="sim", budget=Budget(calls=calls), seed=5))
    assert replay(tmp_path / "run").is_identical
    assert replay(recorded(tmp_path / "run")).is_identical


def test_missing_and_refused_answers_stay_what_they_were(tmp_path: Path) -> None:
    def faulty(request: Request) -> str:
        last = request.messages[-1].content
        if last.endswith("103") and noise("gap", request.messages[0].content) < 0.3:
            raise RateLimited("slow down")
        if last.endswith("107") and "variant" in request.messages[0].content:
            raise ContentRefused("the filter stopped it")
        return model(request)

    settings = Settings(model="sim", budget=Budget(calls=200), optimizer="capo", seed=3)
    plan = make_plan(make_task(), replace(settings, out=tmp_path / "run"))
    once = RetryPolicy(n_attempts=1, first_wait_s=0.0)
    result = asyncio.run(Run(plan, transports={"sim": Scripted(faulty)}, retry=once).execute())
    assert result.missing
    assert replay(tmp_path / "run").differences == ()
    assert replay(recorded(tmp_path / "run")).differences == ()


def test_a_run_that_was_never_answered_at_first_is_replayed_like_any_other(tmp_path: Path) -> None:
    def refuse(request: Request) -> str:
        raise ContentRefused("the filter stopped it")

    settings = Settings(model="sim", budget=Budget(calls=200), optimizer="capo", seed=3)
    execute(tmp_path / "run", settings, refuse)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"
    execute(tmp_path / "run", settings)
    execute(tmp_path / "whole", settings)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert replay(tmp_path / "run").differences == ()


def test_a_run_that_time_ended_ends_there_again(tmp_path: Path) -> None:
    task = label_task()
    budget = Budget(seconds=0.8)
    made = promptopt.optimize(task.initial, task, model="sim", budget=budget, out=tmp_path / "run")
    assert "time is over" in made.reason
    assert replay(tmp_path / "run").differences == ()


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_end_is_refused_with_what_to_do(tmp_path: Path, status: str) -> None:
    execute(tmp_path, Settings(model="sim", budget=Budget(calls=160)))
    result = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**result, "status": status}))
    with pytest.raises(ConfigError, match=f"ended as {status}; let it go on with the command that began it"):
        replay(tmp_path)


def test_another_prompt_diverges_with_the_place_and_the_difference(tmp_path: Path) -> None:
    execute(tmp_path, Settings(model="sim", budget=Budget(calls=160)))
    with pytest.raises(ReplayDiverged, match="has no answer to a call of sim") as caught:
        replay(tmp_path, prompt="Say which colour it is.")
    assert caught.value.path == "root:0"
    assert "-Name the colour." in caught.value.difference
    assert "+Say which colour it is." in caught.value.difference


def test_another_strategy_file_has_to_be_named_and_diverges_with_the_difference(
    tmp_path: Path,
    run: Runner,  # noqa: F811
) -> None:
    source = documented_strategy()
    file = tmp_path / "mine.py"
    file.write_text(source)
    execute(tmp_path / "run", Settings(model="sim", optimizer=f"{file}:Climb", budget=Budget(calls=160)))
    refused = run("replay", "run")
    assert (refused.status, refused.out) == (2, "")
    assert "code is never taken from a recording" in refused.err
    assert "--optimizer mine.py:Climb" in refused.err
    assert run("replay", "run", "--optimizer", "mine.py:Climb").out.startswith("identical: ")
    assert "Put the instruction" in source
    file.write_text(source.replace("Put the instruction", "Write the instruction"))
    changed = run("replay", "run", "--optimizer", "mine.py:Climb")
    assert changed.status == 1
    assert "error: diverged: " in changed.err
    assert "path '" in changed.err
    assert "\n+" in changed.err
    assert "+Write the instruction" in changed.err


def test_a_function_as_metric_has_to_be_given_again(tmp_path: Path) -> None:
    def short(reply: str, example: Any) -> Score:
        return Score(float(len(reply) < 12 and example.target in reply))

    task = label_task()
    rows = [{"input": e.inputs["input"], "target": e.target} for e in (*task.train, *task.dev, *task.test)]
    promptopt.optimize(
        "Sort it.", rows, metric=short, model="sim", budget=Budget(calls=150), proof_examples=5, out=tmp_path
    )
    with pytest.raises(ConfigError, match="code is never taken from a recording"):
        replay(tmp_path)
    from promptopt.tasks.function_metric import given

    assert replay(tmp_path, metric=given(short)).differences == ()


def test_the_file_of_a_metric_is_part_of_the_recording(tmp_path: Path, run: Runner) -> None:  # noqa: F811
    Path("schema.json").write_text('{"type": "object", "required": ["colour"]}')
    Path("prompt.md").write_text("Give the colour as JSON: {{item}}")
    Path("data.csv").write_text("item\n" + "\n".join(f"thing {i}" for i in range(60)) + "\n")
    transport = Scripted(lambda request: '{"colour": 1}' if "JSON" in request.messages[-1].content else "{}")
    plan, _ = prepare(
        Path("prompt.md"),
        "data.csv",
        Settings(model="sim", budget=Budget(calls=120), out=tmp_path / "run"),
        metric="json-schema:schema.json",
    )
    asyncio.run(Run(plan, transports={"sim": transport}).execute())
    for name in ("schema.json", "prompt.md", "data.csv"):
        Path(name).unlink()
    assert run("replay", "run").out.startswith("identical: ")
    assert run("record", "run", "--out", "it.jsonl").out.startswith("wrote it.jsonl: ")
    assert run("replay", "it.jsonl").out.startswith("identical: ")


def test_a_function_of_the_user_has_to_be_given_again(tmp_path: Path) -> None:
    async def predict(prompt: Any, example: Any, call: Any) -> str:
        return (await call(f"{prompt.instruction}\n\n{example.inputs['input']}")).text

    task = replace(label_task(), predict=predict)
    promptopt.optimize(
        task.initial, task, model="sim", budget=Budget(calls=150), proof_examples=5, out=tmp_path / "run"
    )
    with pytest.raises(ConfigError, match="came from the function"):
        replay(tmp_path / "run")
    assert replay(tmp_path / "run", task=task).differences == ()


def test_no_key_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    settings = Settings(model="openai/gpt-5-mini", budget=Budget(calls=160), out=tmp_path)
    asyncio.run(Run(make_plan(make_task(), settings), transports={"": Scripted(model)}).execute())
    monkeypatch.delenv("OPENAI_API_KEY")
    models = json.loads((tmp_path / "models.json").read_text())
    (tmp_path / "models.json").write_text(json.dumps({**models, "litellm": "0.0.1"}))
    assert replay(tmp_path).differences == ()


def test_another_result_is_told_field_by_field(tmp_path: Path, run: Runner) -> None:  # noqa: F811
    execute(tmp_path / "run", Settings(model="sim", budget=Budget(calls=160)))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    result["spend"]["calls"] += 1
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    (tmp_path / "run" / "best.md").write_text("Something else.\n")
    done = run("replay", "run")
    assert done.status == 1
    assert f"spend.calls: recorded {result['spend']['calls']}, now {result['spend']['calls'] - 1}\n" in done.out
    assert "the best prompt differs:" in done.out
    assert "-Something else." in done.out
    assert "\nnot identical: " in done.out


def test_a_token_in_the_address_has_to_be_given_again(tmp_path: Path, run: Runner) -> None:  # noqa: F811
    address = "http://127.0.0.1:9/k3yk3yk3yk3yk3yk3y/v1"
    settings = Settings(model="mine", api_base=address, budget=Budget(calls=160), out=tmp_path / "run")
    asyncio.run(Run(make_plan(make_task(), settings), transports={"": Scripted(model)}).execute())
    refused = run("replay", "run")
    assert refused.status == 2
    assert "--api-base" in refused.err
    assert "k3yk3y" not in refused.err
    assert run("replay", "run", "--api-base", address).out.startswith("identical: ")
    assert "k3yk3y" not in recorded(tmp_path / "run").read_text()
