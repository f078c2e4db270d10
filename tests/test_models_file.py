"""What is remembered of models: enough to run from the journal without litellm, and nothing that could mislead."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from commandline import SUPPORT
from loopback import Loopback, chat, serve

from promptopt import Budget, ConfigError, folder, models_file, providers
from promptopt.api import prepare, prepare_evaluation, run_in_thread
from promptopt.config import Settings
from promptopt.facts import Facts
from promptopt.journal import Journal
from promptopt.roles import find_models

MODEL = "openai/gpt-4o-mini"
AGAIN = """
import json, sys
from pathlib import Path
from promptopt import Budget, evaluate, optimize
from promptopt.errors import ConfigError
command, prompt, out, model = sys.argv[1:]
given = dict(model=model, out=Path(out), seed=1)
try:
    if command == "evaluate":
        found = evaluate(Path(prompt), "support", **given)
        score, calls = found.score.score, found.spend.calls
    else:
        found = optimize(Path(prompt), "support", optimizer="random", budget=Budget(calls=200), **given)
        score, calls = found.best.test.score, found.spend.calls
    print(json.dumps([found.status, score, calls, "litellm" in sys.modules]))
except ConfigError as error:
    print(json.dumps([str(error), "litellm" in sys.modules]))
"""


def answer(body: dict[str, Any]) -> Any:
    text = body["messages"][-1]["content"]
    if "</prompt>" in text:
        return chat(f"<prompt>Way {len(text)}: sort {{{{message}}}}</prompt>")
    return chat(("billing", "refund", "delivery")[len(text) % 3], usage=(20, 2))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv("OPENAI_API_KEY", "placeholder")
    with serve(answer) as found:
        monkeypatch.setenv("OPENAI_BASE_URL", found.url)
        yield found


def in_another_process(command: str, out: Path, model: str = MODEL) -> list[Any]:
    words = [sys.executable, "-c", AGAIN, command, str(SUPPORT), str(out), model]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("command", "status"), [("evaluate", "completed"), ("optimize", "budget_exhausted")])
def test_from_the_journal_neither_litellm_nor_a_key_is_needed(
    command: str, status: str, tmp_path: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    *first, loaded = in_another_process(command, tmp_path)
    assert (first[0], loaded) == (status, True)
    n_asked = len(server.bodies)
    assert n_asked == first[2] > 5
    monkeypatch.delenv("OPENAI_API_KEY")
    assert in_another_process(command, tmp_path) == [*first, False]
    assert len(server.bodies) == n_asked


def test_without_a_key_nothing_new_is_asked(
    tmp_path: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluating(split: str) -> Any:
        return prepare_evaluation(SUPPORT, "support", Settings(model=MODEL, out=tmp_path), split)

    run_in_thread(evaluating("dev"))
    n_asked = len(server.bodies)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="needs a key: set OPENAI_API_KEY"):
        run_in_thread(evaluating("test"))
    assert len(server.bodies) == n_asked
    with Journal(tmp_path / "journal.db") as journal:
        journal.start_session("now")
        outcomes = {row[0] for row in journal._db.execute("SELECT outcome FROM attempts")}
    assert outcomes == {"ok", "ConfigError"}  # none counts as lost in flight, hence perhaps paid


def test_holds_facts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    address = "http://127.0.0.1:9/v1"
    settings = Settings(model=MODEL, api_base=address, model_options={"task": {"seed": 77123}}, out=tmp_path)
    models = find_models(settings, frozenset(), ("task",))
    folder.keep_facts(tmp_path, [*models.values(), providers.find_model("sim", "task")])
    text = (tmp_path / "models.json").read_text(encoding="utf-8")
    assert not any(word in text for word in ("a-secret", address, "77123"))
    assert list(models_file.read(tmp_path).values()) == [models["task"].facts]
    assert models["task"].facts.price_in == Decimal("1.5E-7")
    folder.keep_facts(tmp_path, [replace(models["task"], question="another", facts=Facts())])
    assert len(models_file.read(tmp_path)) == 2


def test_another_question_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "placeholder")
    known = Settings(model="openai/gpt-5-mini", out=tmp_path)
    folder.keep_facts(tmp_path, find_models(known, frozenset(), ("task",)).values())
    monkeypatch.setattr("promptopt.providers.load_litellm", lambda: pytest.fail("looked up again"))
    assert find_models(known, frozenset(), ("task",))["task"].facts.is_reasoning
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", "placeholder")
    refused = replace(known, model_options={"task": {"temperature": 0.5}})
    with pytest.raises(ConfigError, match="does not take it"):
        find_models(refused, frozenset(), ("task",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"litellm": "', '"litellm": "0'),
        ('"price_in": "', '"price_in": "-'),
        ('"price_in": "', '"price_in": "x'),
        ('"is_reasoning": false', '"is_reasoning": 0'),
        ('"is_reasoning": false', '"is_reasoning": null'),
        ('"sees_images": true', '"sees_images": "yes"'),
        ('"price_out"', '"price"'),
        ('"facts": {', '"facts": ['),
        ("{", ""),
    ],
)
def test_what_is_outdated_or_spoiled_counts_for_nothing(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "placeholder")
    models = find_models(Settings(model=MODEL), frozenset(), ("task",))
    folder.keep_facts(tmp_path, models.values())
    file = tmp_path / "models.json"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert models_file.read(tmp_path) == {}
    folder.keep_facts(tmp_path, models.values())
    assert len(models_file.read(tmp_path)) == 1


def test_a_dry_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "placeholder")
    plan, _ = prepare(SUPPORT, "support", Settings(model=MODEL, budget=Budget(calls=500), out=tmp_path / "run"))
    assert plan.models["task"].facts.price_in is not None
    assert not (tmp_path / "run").exists()
