"""The doors for Python users: optimize and aoptimize."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import Scripted, make_run, make_task, model

import promptopt
from promptopt import Budget, ConfigError, Example, Prompt, Response, Result, Task, api
from promptopt.config import Settings
from promptopt.run import Run
from promptopt.tasks import bundled
from promptopt.tasks.metrics import load

SUPPORT = bundled.folder("support") / bundled.PROMPT
BUDGET = Budget(calls=200)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def examples(split: str, n: int, start: int = 0) -> tuple[Example, ...]:
    return tuple(Example(f"{split}-{i}", {"input": f"item {start + i}"}, ("red", "blue")[i % 2]) for i in range(n))


def own_task(**fields: object) -> Task:
    splits = (examples("train", 10), examples("dev", 30, 100), examples("test", 30, 200))
    return Task("own", load("label", ["red", "blue"]), *splits, **fields)  # type: ignore[arg-type]


def test_from_a_script(tmp_path: Path) -> None:
    result = promptopt.optimize("Sort the message: {{message}}", "support", model="sim", budget=BUDGET, out="here")
    assert isinstance(result, Result)
    assert result.status == "budget_exhausted"
    assert result.initial.prompt == "Sort the message: {{message}}\n"
    assert result.best.test is not None
    assert result.improvement is not None
    assert result.out == "here"
    assert json.loads((tmp_path / "here/result.json").read_text(encoding="utf-8")) == json.loads(result.to_json())


def test_inside_a_running_loop_and_awaited() -> None:
    async def both() -> tuple[Result, Result]:
        blocking = promptopt.optimize(SUPPORT, "support", model="sim", budget=BUDGET)
        return blocking, await promptopt.aoptimize(SUPPORT, "support", model="sim", budget=BUDGET)

    first, second = asyncio.run(both())
    assert first.best == second.best
    assert first.spend.calls == second.spend.calls
    assert first.out != second.out


def test_a_folder_is_named_by_text_or_path(tmp_path: Path) -> None:
    found = promptopt.evaluate(SUPPORT, "support", model="sim", examples=3, out="folder")
    again = promptopt.evaluate(SUPPORT, "support", model="sim", examples=3, out=tmp_path / "folder")
    assert (found.out, found.paid_calls, again.paid_calls) == ("folder", 3, 0)
    assert Settings("sim", out="here").out == Path("here")  # type: ignore[arg-type]


def test_ways_to_name_prompt_and_task() -> None:
    text = SUPPORT.read_text(encoding="utf-8")
    prompts = (SUPPORT, text)
    sources = ("support", bundled.folder("support"), str(bundled.folder("support")))
    bests = {
        promptopt.optimize(prompt, source, model="sim", budget=BUDGET).best.prompt
        for prompt in prompts
        for source in sources
    }
    assert len(bests) == 1


def test_task_of_ones_own() -> None:
    result = promptopt.optimize(Prompt("Name the colour."), own_task(), model="sim", budget=BUDGET, seed=3)
    assert result.task["name"] == "own"
    assert result.seed == 3


def test_predict_of_ones_own() -> None:
    async def predict(prompt: Prompt, example: Example, call: object) -> str:
        response: Response = await call(f"{prompt.instruction}\n\n{example.inputs['input']}")  # type: ignore[operator]
        return response.text

    result = promptopt.optimize(
        "Name the colour.", own_task(predict=predict), model="sim", budget=BUDGET, optimizer="random"
    )
    assert result.status in ("budget_exhausted", "completed")
    assert result.spend.by_role["task"].calls > 0


def test_options_are_given_as_they_are() -> None:
    result = promptopt.optimize(
        SUPPORT, "support", model="sim", budget=BUDGET, options={"max_demos": 0, "critique": False}
    )
    assert (result.options["max_demos"], result.options["critique"]) == (0, False)


def test_data_options() -> None:
    result = promptopt.optimize(SUPPORT, "support", model="sim", budget=BUDGET, metric="exact")
    assert result.task["metric"] == "exact"
    with pytest.raises(ConfigError, match="metric: only for data; a Task has its own"):
        promptopt.optimize("x", own_task(), model="sim", metric="exact")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sead": 1}, "no setting 'sead': did you mean 'seed'"),
        ({"metrik": "label"}, "no setting 'metrik': did you mean 'metric'"),
        ({"options": {"max_demo": 1}}, "no option 'max_demo': did you mean 'max_demos'"),
        ({"budget": Budget(usd=float("inf"))}, "--budget-usd is inf"),
        ({"budget": Budget(calls=float("nan"))}, "--budget-calls is nan; write a whole number"),
        ({"concurrency": "8"}, "--concurrency is '8'; write a whole number"),
        ({"seed": True}, "--seed is True; write a whole number"),
    ],
)
def test_wrong_settings(settings: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        promptopt.optimize(SUPPORT, "support", model="sim", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_path_given_as_text_is_no_prompt() -> None:
    with pytest.raises(ConfigError, match=r"'prompt\.md', which looks like a path; give Path\('prompt\.md'\)"):
        promptopt.optimize("prompt.md", "support", model="sim")


def test_stop_ends_a_run_orderly(tmp_path: Path) -> None:
    def watch(run: Run) -> None:
        run.stop.set()

    transport = Scripted(model, latency_seed=1)
    run = make_run(tmp_path, transport, task=make_task(), settings=Settings("sim", budget=Budget(calls=5000)))
    run.stop.set()
    result = api.run_in_thread(run, watch)
    assert result.status == "interrupted"
    assert transport.requests == []
    assert (tmp_path / "best.md").exists()


def test_first_keyboard_interrupt_stops_a_second_leaves(tmp_path: Path) -> None:
    n_seen = 0

    def interrupt(run: Run) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen == 1:
            raise KeyboardInterrupt

    def reply(request: object) -> str:
        return model(request)  # type: ignore[arg-type]

    run = make_run(tmp_path / "a", Scripted(reply), settings=Settings("sim", budget=Budget(calls=100_000)))
    assert api.run_in_thread(run, interrupt).status == "interrupted"
    run = make_run(tmp_path / "b", Scripted(reply), settings=Settings("sim", budget=BUDGET))
    run.stop.set()
    with pytest.raises(KeyboardInterrupt):
        api.run_in_thread(run, _always_interrupt)


def _always_interrupt(run: Run) -> None:
    raise KeyboardInterrupt


def test_errors_of_the_run_reach_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is a file, not a folder"):
        promptopt.optimize(SUPPORT, "support", model="sim", budget=BUDGET, out="file")


# Metrics and mistakes in Python ---------------------------------------------------------------------


def ends_well(reply: str, example: Example) -> float:
    """Score by the last word."""
    return float(reply.split()[-1].strip(".").casefold() == (example.target or ""))


class Ends:
    def score(self, reply: str, example: Example) -> float:
        return ends_well(reply, example)


TEXT = "Sort the message: {{message}}"


@pytest.mark.parametrize("metric", [ends_well, Ends(), Ends, lambda reply, example: ends_well(reply, example)])
def test_a_function_is_a_metric(metric: object) -> None:
    found = promptopt.evaluate(TEXT, "support", model="sim", examples=20, metric=metric, out="there")
    assert found.score is not None
    assert 0 < found.score.score < 1
    assert found.task["metric"].startswith("test_api:")


def test_a_run_knows_its_function_by_name_and_source(tmp_path: Path) -> None:
    words = {"model": "sim", "budget": BUDGET, "out": str(tmp_path / "here")}
    first = promptopt.optimize(TEXT, "support", metric=ends_well, **words)  # type: ignore[arg-type]
    again = asyncio.run(promptopt.aoptimize(TEXT, "support", metric=ends_well, **words))  # type: ignore[arg-type]
    assert again.best == first.best
    with pytest.raises(ConfigError, match="another configuration"):
        promptopt.optimize(TEXT, "support", metric=Ends, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"budget": 200}, r"^budget is 200; write Budget\(calls=200\)$"),
        ({"budget": 0}, r"^budget is 0; write Budget\(calls=200\)$"),
        ({"budget": Budget(calls=-1)}, "budget-calls is -1; it must be above 0"),
        ({"model": None}, "^model is None; write its name as text"),
        ({"judge_model": 3}, "^judge_model is 3; write its name as text"),
        ({"prompt": 5}, "^the prompt is 5; give its text, the Path of its file, or a Prompt$"),
        ({"metric": 5}, "int is no function; write def int"),
        ({"metric": len}, "len cannot be called with two arguments"),
        ({"metric": ends_well, "answer_pattern": "(a)"}, "answer_pattern: your own metric"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("door", [promptopt.optimize, promptopt.evaluate])
def test_likely_mistakes_are_named(door: Callable[..., object], words: dict[str, object], says: str) -> None:
    given = {"prompt": TEXT, "task": "support", "model": "sim", **words}
    with pytest.raises(ConfigError, match=says):
        door(**given)
