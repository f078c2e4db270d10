"""Evaluating a prompt as it is: the score, what it takes, its failures, and the answers that it shares."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from commandline import SUPPORT, Runner
from loopback import Loopback, chat, failure, serve
from rated import is_rating, rated_task, verdicts
from scripted import Scripted
from scripted import make_task as colours

import promptopt
from promptopt import Budget, ConfigError, Example, Task
from promptopt.api import prepare_evaluation, run_in_thread
from promptopt.config import Settings
from promptopt.errors import RunRefused
from promptopt.gateway import RetryPolicy
from promptopt.providers import load_litellm
from promptopt.scoring import Evaluating, Evaluation
from promptopt.stats import score_interval
from promptopt.tasks.metrics import load
from promptopt.types import Image, Prompt, Request, Response, Usage

COLOURS = ("red", "green", "blue")
N_TEST = 60


def make_task(n_test: int = N_TEST) -> Task:
    def rows(split: str, n: int) -> tuple[Example, ...]:
        return tuple(Example(f"{split}-{i}", {"input": f"{split} thing {i}"}, COLOURS[i % 3]) for i in range(n))

    prompt = Prompt("Name the colour of {{input}}.")
    return Task("colours", load("label", COLOURS), rows("train", 6), rows("dev", 6), rows("test", n_test), prompt)


def answer(body: dict[str, Any]) -> Any:
    """Say red to every thing: a third is right; every tenth thing gets an unreadable reply."""
    number = int(body["messages"][-1]["content"].rstrip(".").split()[-1])
    return chat("no idea" if number % 10 == 1 else "red", usage=(20, 2))


def evaluating(folder: Path, url: str, **settings: Any) -> Evaluating:
    given = {"price_in": 1, "price_out": 2, "api_base": url, "model": "m", "out": folder, **settings}
    split, n = given.pop("split", "test"), given.pop("n_examples", None)
    task = given.pop("task", make_task())
    return Evaluating(task, Settings(**given), split, n, retry=RetryPolicy(2, 0.001, 0.002))


class Asked:
    """A server and evaluations against it."""

    def __init__(self, folder: Path, server: Loopback) -> None:
        self.folder, self.server = folder, server

    def __call__(self, reply: Any = answer, **settings: Any) -> tuple[Evaluation, int]:
        """Return an evaluation, and how often the server was asked for it."""
        self.server.answer = reply
        n_before = len(self.server.bodies)
        result = run_in_thread(evaluating(settings.pop("out", self.folder), self.server.url, **settings))
        return result, len(self.server.bodies) - n_before


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Asked]:
    with serve(answer) as server:
        yield Asked(tmp_path, server)


def test_score_cost_and_failures(found: Asked, tmp_path: Path) -> None:
    result, n_asked = found()
    right = [i for i in range(N_TEST) if i % 3 == 0 and i % 10 != 1]
    assert n_asked == result.spend.calls == result.paid_calls == N_TEST
    assert result.score is not None
    assert (result.score.score, result.score.n) == (len(right) / N_TEST, N_TEST)
    assert result.score.ci95 == score_interval([1.0] * len(right) + [0.0] * (N_TEST - len(right)))
    assert float(result.spend.cost_usd or 0) == pytest.approx(N_TEST * (20 * 1e-6 + 2 * 2e-6))
    assert result.per_call == {"input_tokens": 20, "output_tokens": 2, "cost_usd": pytest.approx(24e-6)}
    assert result.macro_f1 == pytest.approx(
        2 * len(right) / (54 + 20) / 3
    )  # of red, said 54 times and right 20 times
    assert result.per_rating is None
    assert result.unparsed == 6
    assert [f.example_id for f in result.failures] == [f"test-{i}" for i in range(N_TEST) if i not in right]
    first = result.failures[0]
    assert (first.inputs, first.output, first.target) == ({"input": "test thing 1"}, "no idea", "green")
    assert first.reason
    stored = json.loads(next(tmp_path.glob("evaluation-test-*.json")).read_text(encoding="utf-8"))
    assert stored == json.loads(result.to_json())


def test_answers_in_the_folder_are_not_paid_again(found: Asked) -> None:
    first, _ = found()
    again, n_asked = found()
    assert (n_asked, again.paid_calls) == (0, 0)
    assert (again.score, again.spend) == (first.score, first.spend)
    more, n_asked = found(split="all")
    assert n_asked == 12
    assert more.spend.calls == N_TEST + 12


def test_shares_answers_with_a_run_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    words: dict[str, Any] = {"model": "sim", "out": tmp_path / "here", "seed": 1}
    run = promptopt.optimize(SUPPORT, "support", budget=Budget(calls=500), **words)
    journal = tmp_path / "here/journal.db"
    score = promptopt.evaluate(SUPPORT, "support", **words)
    assert score.paid_calls < score.spend.calls
    best = promptopt.evaluate(tmp_path / "here/best.md", "support", **words)
    assert run.best.test is not None
    assert best.score is not None
    assert best.spend.calls - best.paid_calls == run.best.test.n
    assert journal.exists()
    again = promptopt.optimize(SUPPORT, "support", budget=Budget(calls=500), **words)
    assert {**vars(again), "duration_s": 0, "evaluations": 0} == {**vars(run), "duration_s": 0, "evaluations": 0}


def test_a_budget_takes_a_fair_sample_and_says_so(found: Asked, tmp_path: Path) -> None:
    result, n_asked = found(budget=Budget(calls=25))
    assert (result.status, n_asked) == ("budget_exhausted", 25)
    assert result.score is not None
    assert result.score.n == 25
    drawn, _ = found(out=tmp_path / "other", n_examples=25)
    assert drawn.status == "completed"
    assert drawn.score == result.score


def test_a_dollar_budget_is_never_passed(found: Asked) -> None:
    whole = N_TEST * 24e-6
    result, _ = found(budget=Budget(usd=whole / 2), max_tokens=10)
    assert result.status == "budget_exhausted"
    assert whole / 4 < float(result.spend.cost_usd or 0) <= whole / 2


def test_missing_answers_count_in_nothing(found: Asked) -> None:
    def flaky(body: dict[str, Any]) -> Any:
        return failure(500) if body["messages"][-1]["content"].endswith(" 7.") else answer(body)

    result, _ = found(flaky)
    assert (result.status, result.missing) == ("completed", 1)
    assert result.score is not None
    assert result.score.n == N_TEST - 1
    mended, n_asked = found()
    assert (mended.missing, n_asked) == (0, 1)


def test_an_outage_fails_with_its_reason_and_keeps_what_was_paid(found: Asked) -> None:
    result, _ = found(lambda body: failure(401, "no such key"))
    assert result.status == "failed"
    assert "no such key" in result.reason
    assert result.score is None
    mended, n_asked = found()
    assert (mended.status, n_asked) == ("completed", N_TEST)


def test_the_estimate_bounds_what_it_takes(found: Asked, tmp_path: Path) -> None:
    with serve(answer) as server:
        estimate = evaluating(tmp_path, server.url).estimate
    result, _ = found()
    assert estimate.calls == result.spend.calls
    assert estimate.worst_tokens >= result.spend.input_tokens + result.spend.output_tokens
    assert estimate.worst_usd is not None
    assert estimate.worst_usd >= (result.spend.cost_usd or 0)
    assert estimate.expected_tokens < estimate.worst_tokens


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": "tets"}, "did you mean 'test'"),
        ({"n_examples": 0}, "--examples is 0"),
        ({"task": make_task(0)}, "the test split of task 'colours' is empty"),
        ({"model_options": {"judge": {"temperature": 1}}}, "this run has no judge model"),
    ],
)
def test_wrong_use(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        evaluating(tmp_path / "here", "http://127.0.0.1:1/v1", **change)
    assert not (tmp_path / "here").exists()


def test_data_without_targets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"input": f"a {i}"}) for i in range(30)))
    with pytest.raises(ConfigError, match="nothing to score by"):
        prepare_evaluation("Say it.", tmp_path / "rows.jsonl", Settings(model="sim"))


# Ends -----------------------------------------------------------------------------------------------


def play(request: Request) -> str:
    return verdicts("yes", "yes") if is_rating(request) else "red"


def scripted(transport: Scripted, task: Task, **settings: Any) -> Evaluating:
    given = {"model": "m", "api_base": "http://127.0.0.1:1/v1", "price_in": 1, "price_out": 2, **settings}
    return Evaluating(task, Settings(**given), "dev", transports={"": transport})


async def predict(prompt: Prompt, example: Example, call: Any) -> str:
    reply: Response = await call(f"{prompt.instruction} {example.inputs['input']}")
    return reply.text


@pytest.mark.parametrize("end", ["time", "stop", "outage"])
@pytest.mark.parametrize(
    ("task", "n_paid", "n_scored"),
    [
        (colours(), 13, 13),
        (replace(colours(), predict=predict), 13, 13),
        (rated_task(), 25, 5),
        (replace(rated_task(), predict=predict), 25, 5),
    ],
    ids=["answers", "predict", "ratings", "predict and ratings"],
)
def test_what_was_paid_before_the_end_is_scored(
    tmp_path: Path, task: Task, n_paid: int, n_scored: int, end: str
) -> None:
    transport = Scripted(play)
    evaluating = scripted(transport, task, out=tmp_path, concurrency=1)

    def finish(request: Request) -> None:
        assert evaluating.state is not None
        n = len(transport.requests)
        if end == "outage" and n > n_paid:
            raise RunRefused("no such key")
        if end == "stop" and n == n_paid:
            evaluating.stop.set()
        if end == "time" and n == n_paid:
            evaluating.state.gateway.deadlines["search"] = 0

    transport.on_request = finish
    found = asyncio.run(evaluating.execute())
    assert found.status == {"time": "budget_exhausted", "stop": "interrupted", "outage": "failed"}[end]
    assert found.score is not None
    assert found.score.n == n_scored
    assert found.spend.calls == found.paid_calls == n_paid
    assert len(transport.requests) == n_paid or end == "outage"
    transport.on_request = None
    whole = asyncio.run(scripted(transport, task, out=tmp_path).execute())
    assert whole.status == "completed"
    assert whole.paid_calls == whole.spend.calls - found.paid_calls


def test_ratings_come_in_time() -> None:
    transport = Scripted(play)
    evaluating = scripted(transport, rated_task(), concurrency=1, budget=Budget(seconds=1000))
    asyncio.run(evaluating.execute())
    assert [is_rating(request) for request in transport.requests[:9]] == [False] * 4 + [True] * 4 + [False]


def test_images_count_in_what_an_example_may_take(tmp_path: Path) -> None:
    task = colours()
    shown = Image("https://e.org/a.png", "", "https://e.org/a.png")
    dev = tuple(replace(example, images=(shown,)) for example in task.dev)
    transport = Scripted(play, usage=Usage(20_000, 5))
    budget = Budget(tokens=300_000)
    found = asyncio.run(scripted(transport, replace(task, dev=dev), out=tmp_path, budget=budget).execute())
    assert found.reason == "the budget affords no more examples at worst"
    assert found.score is not None
    assert found.score.n == found.spend.calls > 8


# A judge that needs repairs -------------------------------------------------------------------------


@dataclass
class Wordy(Scripted):
    """Replies as long as they may be, and ratings that are read only when asked for once more."""

    def respond(self, request: Request) -> Response:
        is_read = not is_rating(request) or len(request.messages) == 3
        said = (play(request) if is_read else "hard to say").ljust(5 * request.max_tokens, ".")
        n_in = sum(len(message.content.encode()) for message in request.messages)
        return Response(said, Usage(n_in, request.max_tokens), (n_in + 2 * request.max_tokens) * Decimal("1e-6"))


def test_the_estimate_bounds_a_judge_that_needs_repairs(tmp_path: Path) -> None:
    evaluating = scripted(Wordy(play), rated_task(), out=tmp_path, max_tokens=100)
    estimate = evaluating.estimate
    found = asyncio.run(evaluating.execute())
    assert found.score is not None
    assert found.spend.calls == 3 * found.score.n == 3 * len(evaluating.examples)
    assert estimate.worst_tokens >= found.spend.input_tokens + found.spend.output_tokens
    assert estimate.worst_usd is not None
    assert estimate.worst_usd >= (found.spend.cost_usd or 0) > estimate.worst_usd / 2


@pytest.mark.parametrize("limit", [{"calls": 47}, {"tokens": 90_000}, {"usd": Decimal("0.1")}], ids=str)
def test_no_answer_is_paid_whose_repaired_rating_does_not_fit(tmp_path: Path, limit: dict[str, Any]) -> None:
    transport = Wordy(play)
    settings: dict[str, Any] = {"out": tmp_path, "max_tokens": 100, "budget": Budget(**limit)}
    found = asyncio.run(scripted(transport, rated_task(), **settings).execute())
    assert (found.status, found.missing) == ("budget_exhausted", 20 - len(transport.requests) // 3)
    assert found.score is not None
    assert 3 * found.score.n == len(transport.requests)
    assert 5 < found.score.n < 20


# The budget and the files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "most"),
    [({"usd": Decimal("0.001")}, 0.001), ({"calls": 2}, 0.04), ({"usd": 100}, None), ({}, None)],
    ids=str,
)
def test_the_budget_caps_the_worst_case(limit: dict[str, Any], most: float | None) -> None:
    free = scripted(Scripted(play), colours()).estimate.worst_usd
    estimate = scripted(Scripted(play), colours(), budget=Budget(**limit)).estimate
    assert free is not None
    assert estimate.worst_usd is not None
    assert estimate.is_capped == (most is not None)
    assert estimate.worst_usd == free if most is None else estimate.worst_usd <= most < free


def test_evaluations_in_one_folder_are_kept_apart(tmp_path: Path) -> None:
    plain = Example("1", {"input": "a thing"}, "red")
    tasks = []
    for pattern in (None, "(red|blue)"):
        metric = load("exact", ["red"], answer_pattern=pattern)
        tasks.append(replace(colours(), metric=metric, dev=(plain,)))
    tasks.append(replace(tasks[0], predict=predict))
    transport = Scripted(lambda _: "it is red, or so")
    changes: list[tuple[Task, dict[str, Any]]] = [(task, {}) for task in tasks]
    changes.append((tasks[0], {"model": "other"}))
    made = [scripted(transport, task, out=tmp_path, **change) for task, change in changes]
    found = [asyncio.run(evaluating.execute()) for evaluating in made]
    assert [one.score and one.score.score for one in found] == [0.0, 1.0, 0.0, 0.0]
    assert len({evaluating.file for evaluating in made}) == len(list(tmp_path.glob("evaluation-dev-*.json"))) == 4
    assert [evaluating.file.read_text(encoding="utf-8") for evaluating in made] == [f.to_json() for f in found]
    with closing(sqlite3.connect(tmp_path / "journal.db")) as journal:
        stored = [value for (value,) in journal.execute("SELECT value FROM evaluations ORDER BY run_id")]
    assert stored == [0.0, 1.0, 0.0, 0.0]


# The command ----------------------------------------------------------------------------------------


def evaluate(*words: object) -> tuple[object, ...]:
    return ("evaluate", SUPPORT, "--data", "support", "--model", "sim", *words)


def test_the_command_shows_score_costs_and_failures(run: Runner, tmp_path: Path) -> None:
    done = run(*evaluate("--failures", 2, "--out", "here"))
    assert done.status == 0
    for part in (
        "SIMULATED",
        "test score",
        "95% interval",
        "macro-F1",
        "a call: ",
        "failures, 2 of them",
        "target: ",
        "expected",
    ):
        assert part in done.out
    again = run(*evaluate("--out", "here", "--quiet"))
    assert "120 of them paid before" in again.out
    assert next(tmp_path.glob("here/evaluation-test-*.json")).name in again.out
    assert again.err == ""


def test_a_failed_evaluation_says_why_once(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(reply, example):\n    return 5\n", encoding="utf-8")
    done = run(*evaluate("--metric", "own.py:score"))
    assert done.status == 1
    assert "No example of 120 was scored.\nfailed before every example was scored\n" in done.out
    assert (done.out + done.err).count("returned 5") == 1
    assert "error: metric own.py:score" in done.err


def test_a_dead_server_has_no_costs_a_call(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptopt.gateway.random.uniform", lambda low, high: 0.0)  # no pause between attempts
    words = ("--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--examples", 1)
    done = run("evaluate", SUPPORT, "--data", "support", *words)
    assert done.status == 1
    assert "evaluating on 1 test example of support" in done.err
    assert "No example of 1 was answered.\n" in done.out
    assert "a call:" not in done.out


def test_a_judges_ratings_are_shown_apart(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "rubric.md").write_text("- It is right.\n", encoding="utf-8")
    done = run(*evaluate("--metric", "judge:rubric.md", "--split", "all", "--examples", 9, "--failures", 0))
    assert "evaluating on 9 examples of support" in done.err
    assert "9 answers and 9 ratings by the judge; " in done.out
    assert "\nan answer: " in done.out
    assert "\na rating: " in done.out


def test_json_is_the_file_and_nothing_else(run: Runner, tmp_path: Path) -> None:
    done = run(*evaluate("--json", "--out", "here", "--split", "dev"))
    assert done.err == ""
    stored = next((tmp_path / "here").glob("evaluation-dev-*.json")).read_text(encoding="utf-8")
    assert done.out == stored


def test_the_end_of_the_time_is_said_once(run: Runner) -> None:
    done = run(*evaluate("--budget-seconds", "0.00001"))
    assert done.status == 1
    assert "\nbudget exhausted: the time is over\n" in done.out
    assert "budget_exhausted" not in done.out


@pytest.mark.parametrize(("bar", "status"), [(0.0, 0), (1.0, 1)])
def test_fail_under_decides_the_exit_status(run: Runner, bar: float, status: int) -> None:
    done = run(*evaluate("--fail-under", bar, "--json"))
    assert done.status == status
    assert ("below --fail-under" in done.err) == (status == 1)


def test_dry_run_spends_nothing(run: Runner, tmp_path: Path) -> None:
    done = run(*evaluate("--dry-run"))
    assert done.status == 0
    assert "forecast: 120 calls" in done.out
    assert "the budget ends it" not in done.out
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_where_the_budget_ends_it(run: Runner) -> None:
    done = run(*evaluate("--dry-run", "--budget-usd", "0.01"))
    assert "$0.0100, where the budget ends it" in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--fail-under", 90), "scores lie between 0 and 1, so write 0.9 for 90%"),
        (("--split", "sealed"), "--split sealed"),
        (("--dry-run", "--json"), "leave --json out"),
        (("--metric", "none"), "nothing to score by"),
        (("--budget-usd", "lots"), "--budget-usd is 'lots'"),
        (("--set-model", "judge.temperature=1"), "this run has no judge model"),
    ],
    ids=str,
)
def test_wrong_use_of_the_command(run: Runner, tmp_path: Path, words: tuple[object, ...], says: str) -> None:
    done = run(*evaluate(*words))
    assert done.status == 2
    assert says in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_no_connection_stays_open(found: Asked) -> None:
    kept = load_litellm().in_memory_llm_clients_cache.cache_dict
    before = set(kept)
    found()
    assert set(kept) <= before
