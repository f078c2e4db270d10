"""result.json: real results of every kind fit the documented schema."""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from rated import rated_task
from scripted import LABELS, Scripted, make_run, make_task, model
from sklearn.metrics import f1_score

from promptopt.config import Settings
from promptopt.promptfile import format_prompt, parse
from promptopt.result import Result, Status, warnings_of
from promptopt.run import Run
from promptopt.screen import Screen
from promptopt.tasks.metrics import load
from promptopt.types import Budget, Request

DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = json.loads((DOCS / "result.schema.json").read_text(encoding="utf-8"))
BUDGET = Budget(calls=200)
REPLIES = {"Answer: red.": "red", "Green": "green", "red": "red", "no idea": "(none)"}  # and what they name


def execute(run: Run) -> Result:
    return asyncio.run(run.execute())


def check(result: Result, folder: Path) -> dict[str, Any]:
    """Check a result against the schema and its files; return result.json."""
    text = (folder / "result.json").read_text(encoding="utf-8")
    assert text == result.to_json()
    content: dict[str, Any] = json.loads(text)
    Draft202012Validator(SCHEMA).validate(content)
    best = (folder / "best.md").read_text(encoding="utf-8")
    assert best == content["best"]["prompt"]
    assert format_prompt(parse(best).prompt) == best
    return content


def test_schema_is_valid_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) == {field.name for field in fields(Result)} - {"out"}

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for name, child in node.get("properties", {}).items():
                assert child.get("description"), name
            if "properties" in node:
                assert node["additionalProperties"] is False
                optional = set(node["properties"]) - set(node["required"])
                assert optional <= {"judge", "embedding"}  # not every run has them
            for child in node.values():
                walk(child)

    walk(SCHEMA)
    page = (DOCS / "result.md").read_text(encoding="utf-8")
    for name in SCHEMA["properties"]:
        assert f"`{name}`" in page


def test_budget_exhausted(tmp_path: Path) -> None:
    content = check(
        execute(make_run(tmp_path, Scripted(model), settings=Settings("sim", budget=BUDGET))), tmp_path
    )
    assert content["status"] == "budget_exhausted"
    assert content["improvement"]["verdict"] in ("proven", "not_proven", "worse")
    assert content["spend"]["by_phase"]["proof"]["calls"] <= 60
    whole, phases = content["spend"], content["spend"]["by_phase"].values()
    assert whole["calls"] == sum(part["calls"] for part in phases) == whole["attempts"]
    assert whole["cost_usd"] == pytest.approx(0.001 * whole["calls"])


def test_completed(tmp_path: Path) -> None:
    def echo(request: Request) -> str:
        return "red" if "</prompt>" not in request.messages[-1].content else "<prompt>Name the colour.</prompt>"

    settings = Settings("sim", budget=Budget(calls=900), optimizer="random", options={"max_shots": "0"})
    result = execute(make_run(tmp_path, Scripted(echo), settings=settings))
    content = check(result, tmp_path)
    assert content["status"] == "completed"
    assert content["best"]["prompt"] == content["initial"]["prompt"]
    assert content["improvement"]["delta"] == 0


def test_macro_f1_is_that_of_the_test_answers(tmp_path: Path) -> None:
    def lazy(request: Request) -> str:
        last = request.messages[-1].content
        return "no prompt" if "</prompt>" in last else tuple(REPLIES)[int(last.split()[-1]) % 4]

    settings = Settings("sim", budget=Budget(calls=900), optimizer="random", options={"max_shots": "0"})
    content = check(execute(make_run(tmp_path, Scripted(lazy), settings=settings)), tmp_path)
    rows = make_task().test
    named = [list(REPLIES.values())[int(row.inputs["input"].split()[-1]) % 4] for row in rows]
    expected = f1_score([row.target for row in rows], named, labels=LABELS, average="macro", zero_division=0)
    assert 0 < expected < 1
    assert content["initial"]["macro_f1"] == content["best"]["macro_f1"] == pytest.approx(expected)


def test_macro_f1_is_null_where_answers_are_no_classes(tmp_path: Path) -> None:
    task = replace(make_task(), metric=load("exact", LABELS))
    content = check(execute(make_run(tmp_path, Scripted(model), task=task, settings=Settings("sim"))), tmp_path)
    assert content["improvement"] is not None
    assert content["initial"]["macro_f1"] is content["best"]["macro_f1"] is None


def test_interrupted(tmp_path: Path) -> None:
    run: Run

    def stop_after(request: Request) -> str:
        if len(transport.requests) == 50:
            run.stop.set()
        return model(request)

    transport = Scripted(stop_after)
    run = make_run(tmp_path, transport, settings=Settings("sim", budget=BUDGET))
    content = check(execute(run), tmp_path)
    assert content["status"] == "interrupted"
    assert content["improvement"] is None
    assert content["best"]["test"] is None
    assert content["best"]["macro_f1"] is None


def test_failed(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        def score(self, reply: str, example: object) -> float:
            raise ValueError("no")

    task = replace(make_task(), metric=Broken())  # type: ignore[arg-type]
    run = make_run(tmp_path, Scripted(model), task=task, settings=Settings("sim", budget=BUDGET))
    content = check(execute(run), tmp_path)
    assert content["status"] == "failed"
    assert "raised" in content["reason"]
    assert content["initial"]["dev"] is None


def test_no_proof_and_unknown_cost(tmp_path: Path) -> None:
    settings = Settings("sim", budget=BUDGET, proof_examples=0)
    run = make_run(tmp_path, Scripted(model, cost_usd=None, usage=None), settings=settings)
    content = check(execute(run), tmp_path)
    assert content["improvement"] is None
    assert content["task"]["test"] == 0
    assert content["spend"]["cost_usd"] is None
    assert content["spend"]["by_role"]["task"]["cost_usd"] is None
    assert content["spend"]["by_phase"]["proof"]["cost_usd"] == 0


@pytest.mark.parametrize(
    ("tried", "status", "calls", "says"),
    [
        (
            4,
            "budget_exhausted",
            (400, 120),
            r"tried: 4; with fewer than 5 .* took about 80 .* 1,200 calls, .* medium",
        ),
        (
            1,
            "budget_exhausted",
            (70, 30),
            r"tried: 1; .* about 35 calls: .* to about 550 calls, or .*--auto medium\.$",
        ),
        (3, "budget_exhausted", (70, 30), r"tried: 3; .* to about 280 calls, or take --auto light\.$"),
        (0, "budget_exhausted", (2000, 600), r"tried: 0; .* about 2,000 calls: .* to about 29,000 calls\.$"),
        (0, "budget_exhausted", (5, 0), r"tried: 0; .* to about 55 calls, or take --auto light\.$"),
        (
            2,
            "completed",
            (70, 30),
            r" 370 calls, or .* light; or, since it ended by itself, .* optimizers capo\)\.$",
        ),
        (2, "interrupted", (70, 30), ""),
        (2, "failed", (70, 30), ""),
        (5, "budget_exhausted", (70, 30), ""),
    ],
)
def test_a_search_that_has_hardly_begun_is_said(
    tmp_path: Path, tried: int, status: Status, calls: tuple[int, int], says: str
) -> None:
    settings = Settings("sim", optimizer="capo", budget=BUDGET)
    run = make_run(tmp_path, Scripted(model), settings=settings)
    done = execute(run)
    search, proof = (replace(done.spend, calls=n) for n in calls)
    spend = replace(done.spend, calls=sum(calls), by_phase={"search": search, "proof": proof})
    found = replace(done, status=status, proposals={"tried": tried, "accepted": 0}, spend=spend)
    warnings = warnings_of(found, run.plan)
    assert bool(warnings) == bool(says)
    assert all(re.search(says, warning) for warning in warnings)


def test_a_rated_answer_takes_a_larger_budget_by_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, Scripted(model), settings=Settings("sim", optimizer="capo", budget=BUDGET))
    found = replace(execute(run), proposals={"tried": 3, "accepted": 0}, status="budget_exhausted")
    assert "calls, or take --auto medium" in warnings_of(found, run.plan)[0]
    rated = replace(run.plan, task=rated_task())
    assert "calls, or take --auto light" in warnings_of(found, rated)[0]


def test_a_warning_stands_in_the_file_and_on_the_screen(tmp_path: Path) -> None:
    settings = Settings("sim", optimizer="reflect", budget=Budget(calls=100))
    run = make_run(tmp_path / "few", Scripted(model), settings=settings)
    found = execute(run)
    [warning] = check(found, tmp_path / "few")["warnings"]
    n_tried = found.proposals["tried"]
    assert n_tried < 5
    assert warning.startswith(f"prompts tried: {n_tried}; with fewer than 5 a search has hardly begun.")
    out = io.StringIO()
    Screen(out=out, err=io.StringIO()).result(found, run)
    assert f"\nWarning: {warning}\n" in out.getvalue()
    assert f"{n_tried} tried, {found.proposals['accepted']} accepted" in " ".join(out.getvalue().split())
    settings = replace(settings, budget=Budget(calls=1000))
    enough = make_run(tmp_path / "enough", Scripted(model), settings=settings)
    assert check(execute(enough), tmp_path / "enough")["warnings"] == []


def test_text_in_json_cannot_steer_a_terminal(tmp_path: Path) -> None:
    result = execute(make_run(tmp_path, Scripted(model), settings=Settings("sim", budget=BUDGET)))
    nasty = "\x1b[31m\x9b\u202e\ufeff\x7f é"
    text = replace(result, reason=nasty, spend=replace(result.spend, cost_usd=Decimal("0.1"))).to_json()
    assert not set(nasty[:-2]) - {"[", "3", "1", "m"} & set(text)
    assert "é" in text
    assert json.loads(text)["reason"] == nasty
