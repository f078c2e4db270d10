"""Tasks without labels as users meet them: what loads, what is refused at once, what the screen says."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from climb import CLIMB, is_judge, unlabelled, vote, world
from loopback import Loopback, Reply, chat, serve
from rated import is_rating, rated_task, shown_reply, verdicts
from scripted import LABELS, Scripted, make_run, make_task, model

from promptopt import cli, registry
from promptopt.api import prepare
from promptopt.config import Settings, load_task
from promptopt.errors import ConfigError, TaskError
from promptopt.evaluation import judge_reply
from promptopt.journal import Journal
from promptopt.plan import Plan, make_plan
from promptopt.providers import SimulatorTransport, closing
from promptopt.result import Result
from promptopt.run import Run
from promptopt.screen import Screen
from promptopt.simulator import Simulator, landscape
from promptopt.tasks import bundled
from promptopt.tasks.function_metric import given
from promptopt.tasks.metrics import Unscored
from promptopt.types import Budget, Example, Message, Prompt, Request, Score

SETTINGS = Settings("sim", optimizer=CLIMB, budget=Budget(calls=200))
PROMPT = Prompt("Name the colour.\n{{question}}")
SUPPORT = Path(__file__).parent.parent / "tasks" / "support" / "prompt.md"


def questions(folder: Path, n: int = 40, **more: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"item number {i}", **more}) for i in range(n)))
    return path


def plan_of(data: Path, **settings: object) -> Plan:
    return prepare(PROMPT, data, replace(SETTINGS, **settings))[0]  # type: ignore[arg-type]


def shown(run: Run, result: Result) -> str:
    out = io.StringIO()
    Screen(out=out, err=io.StringIO()).result(result, run)
    return out.getvalue()


# Data -----------------------------------------------------------------------------------------------


def test_rows_without_targets_load(tmp_path: Path) -> None:
    plan = plan_of(questions(tmp_path))
    assert plan.task.metric.name == "none"
    assert not plan.task.has_labels
    assert "metric none: no row has a target, so answers get no scores: none" in plan.notes
    assert any("asks sim as a judge" in note and "no ground truth" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("optimizer", "metric", "said"),
    [
        (
            "auto",
            None,
            r"no target column 'target', and the prompt does not show 'answer'; .*--target.*--metric none",
        ),
        ("capo", None, r"no target column 'target' \(columns: question, answer\)"),
        (CLIMB, "exact", r"no target column 'target' \(columns: question, answer\)"),
    ],
)
def test_a_column_that_may_hold_targets_is_not_overlooked(
    tmp_path: Path, optimizer: str, metric: str | None, said: str
) -> None:
    data = questions(tmp_path, answer="red")
    with pytest.raises(ConfigError, match=said):
        prepare(PROMPT, data, replace(SETTINGS, optimizer=optimizer), metric=metric)


def test_other_columns_do_no_harm_where_no_labels_are_wanted(tmp_path: Path) -> None:
    data = questions(tmp_path, source="forum")
    assert plan_of(data).task.metric.name == "none"
    assert load_task(data, metric="none", columns_of=PROMPT)[0].metric.name == "none"
    both = replace(PROMPT, instruction="{{question}} {{source}}")
    assert load_task(data, columns_of=both)[0].metric.name == "none"


def test_some_missing_targets_are_refused() -> None:
    task = make_task()
    holed = replace(task, dev=(replace(task.dev[0], target=None), *task.dev[1:]))
    with pytest.raises(ConfigError, match=r"1 of 52 examples have no target, the first is 'dev-100'; give every"):
        make_plan(holed, SETTINGS)
    assert make_plan(replace(holed, metric=Unscored()), SETTINGS).task.metric.name == "none"


def test_metric_none_leaves_targets_aside(tmp_path: Path) -> None:
    plan = prepare(SUPPORT, "support", SETTINGS, metric="none")[0]
    assert "metric none: the targets of the data are left aside" in plan.notes
    assert plan.task.train[0].target is not None  # for the simulator alone
    for task in (plan.open_task, Run(plan, transports={})._make_state(Journal(None)).task):
        assert task.labels == ()
        assert not any(example.target for example in (*task.train, *task.dev, *task.test))
    assert not any(example.target for example in plan.sealed)


# Scores ---------------------------------------------------------------------------------------------


def test_no_score_is_taken_from_the_metric_none_alone() -> None:
    example = make_task().dev[0]
    assert judge_reply(unlabelled(), "red", example).value != judge_reply(unlabelled(), "red", example).value

    class Odd:
        def __init__(self, name: str, value: float) -> None:
            self.name, self._value = name, value

        def score(self, reply: str, example: object) -> Score:
            return Score(self._value)

    for name, value in (("own", float("nan")), ("none", 0.5)):
        with pytest.raises(TaskError, match=r"gave (nan|0\.5) on .* only the metric none gives none"):
            judge_reply(replace(make_task(), metric=Odd(name, value)), "red", example)


def test_an_own_metric_scores_answers_without_targets(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def polite(reply, example):\n    return float('please' in reply)\n")
    data = questions(tmp_path, n=60)
    metric = f"{tmp_path / 'own.py'}:polite"
    plan, _ = prepare("Name the colour.", data, replace(SETTINGS, out=tmp_path / "run"), metric=metric)
    transport = Scripted(world)
    result = asyncio.run(closing(Run(plan, transports={"sim": transport}).execute()))
    assert result.improvement is not None
    assert result.improvement.test == "exact McNemar"
    assert result.improvement.judged is None
    assert result.best.test is not None
    assert result.best.test.score > 0.5
    assert result.spend.by_phase["proof"].calls == 2 * result.best.test.n  # no judge there
    with pytest.raises(ConfigError, match="'capo' needs labels, and no row of the data has a target"):
        make_plan(plan.task, replace(SETTINGS, optimizer="capo"))


# Refusals -------------------------------------------------------------------------------------------


def test_a_strategy_that_needs_labels_is_refused_and_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(registry.BUILT_IN)
    monkeypatch.setattr(registry, "BUILT_IN", {**known, "climb": "climb:Climb"})
    for name in ("capo", "random"):
        with pytest.raises(ConfigError, match=rf"'{name}' needs labels.*--target.*need no labels: .*climb"):
            make_plan(unlabelled(), replace(SETTINGS, optimizer=name))
    aside = replace(make_task(), metric=Unscored())
    with pytest.raises(ConfigError, match="the metric none leaves the targets aside"):
        make_plan(aside, replace(SETTINGS, optimizer="capo"))


def test_auto_picks_by_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = replace(SETTINGS, optimizer="auto")
    known = {name: value for name, value in registry.BUILT_IN.items() if name in ("reflect", "random")}
    monkeypatch.setattr(registry, "BUILT_IN", known)
    with pytest.raises(ConfigError, match=r"auto finds no strategy: no row .* and every strategy needs labels"):
        make_plan(unlabelled(), automatic)
    monkeypatch.setattr(registry, "BUILT_IN", {**known, "spo": "climb:Climb"})
    plan = make_plan(unlabelled(), automatic)
    assert plan.optimizer_name == "spo"
    assert "optimizer spo, picked by auto: there are no labels" in plan.notes
    assert make_plan(make_task(), automatic).optimizer_name == "reflect"


def scores_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, requires: str = '"scores"') -> None:
    """Let `auto` pick a strategy that needs no more than scores, as "reflect"."""
    text = Path(CLIMB.removesuffix(":Climb")).read_text(encoding="utf-8")
    text = text.replace(
        'frozenset({"optimizer model", "judge"})', f'frozenset({{"optimizer model", "judge", {requires}}})'
    )
    (folder / "scores_alone.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "scores_alone", raising=False)
    known = {name: registry.BUILT_IN[name] for name in ("capo", "spo")}
    monkeypatch.setattr(registry, "BUILT_IN", {**known, "reflect": "scores_alone:Climb"})


def test_auto_picks_by_scores_where_these_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = replace(SETTINGS, optimizer="auto")
    polite = replace(unlabelled(), metric=given(polite_enough))
    tasks = (make_task(), polite, rated_task().without_targets(), unlabelled())
    with monkeypatch.context() as patched:
        scores_alone(tmp_path, patched)
        plans = [make_plan(task, automatic) for task in tasks]
    assert [plan.optimizer_name for plan in plans] == ["reflect", "reflect", "reflect", "spo"]
    assert "optimizer reflect, picked by auto: the task has labels" in plans[0].notes
    assert all("optimizer reflect, picked by auto: there are scores" in plan.notes for plan in plans[1:3])
    scores_alone(tmp_path, monkeypatch, '"scores", "labels"')
    assert make_plan(polite, automatic).optimizer_name == "spo"


def test_a_strategy_that_needs_scores_is_refused_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores_alone(tmp_path, monkeypatch)
    settings = replace(SETTINGS, optimizer="reflect")
    why = r"'reflect' needs scores, and no row .*--target\), or score answers without targets"
    with pytest.raises(
        ConfigError, match=rf"{why}: --metric judge:FILE\.md; these strategies need no labels: spo$"
    ):
        make_plan(unlabelled(), settings)
    with pytest.raises(ConfigError, match="'reflect' needs scores, and the metric none leaves the targets aside"):
        make_plan(replace(make_task(), metric=Unscored()), settings)
    with pytest.raises(ConfigError, match=r"'capo' needs labels.* need no labels: reflect, spo$"):
        make_plan(replace(unlabelled(), metric=given(polite_enough)), replace(SETTINGS, optimizer="capo"))
    data = questions(tmp_path, answer="red")
    with pytest.raises(ConfigError, match=r"no target column 'target', and the prompt does not show 'answer'"):
        prepare(PROMPT, data, settings)
    (tmp_path / "own.py").write_text("def polite(reply, example):\n    return float('please' in reply)\n")
    plan, _ = prepare(PROMPT, data, settings, metric=f"{tmp_path / 'own.py'}:polite")
    assert plan.optimizer_name == "reflect"


@pytest.mark.parametrize("gives", ["function", "judge"])
def test_reflect_climbs_by_scores_without_targets(tmp_path: Path, gives: str) -> None:
    def play(request: Request) -> str:
        if is_rating(request):
            reply = shown_reply(request)
            return verdicts("yes" if reply in LABELS else "no", "yes" if len(reply.split()) == 1 else "no")
        return model(request)

    task = {"function": replace(unlabelled(), metric=given(one_colour)), "judge": rated_task().without_targets()}[
        gives
    ]
    settings = Settings("sim", budget=Budget(calls=400), seed=1)
    run = make_run(tmp_path, Scripted(play), task=task, settings=settings)
    assert run.plan.optimizer_name == "reflect"
    result = asyncio.run(closing(run.execute()))
    assert result.improvement is not None
    assert result.improvement.judged is None
    assert result.proposals["accepted"] > 0
    assert run.state is not None
    demos = [demo for candidate in run.state.proposals for demo in candidate.prompt.demos]
    assert demos
    assert all(demo.output in LABELS for demo in demos)  # right answers of its own, never an empty one


def one_colour(reply: str, example: Example) -> float:
    """Score by the form."""
    return float(reply.strip() in LABELS)


def polite_enough(reply: str, example: Example) -> float:
    """Score by a word."""
    return float("please" in reply)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judge_model": "gpt-nonsense-9"}, "model 'gpt-nonsense-9' is unknown"),
        ({"judge_model": "openai/gpt-4o-mini"}, "'openai/gpt-4o-mini' .* needs a key: set OPENAI_API_KEY"),
        ({"judge_model": "local", "api_base": "http://127.0.0.1:9/v1"}, "no known price for model 'local'"),
        ({"judge_model": "sim:nonsense"}, "landscape 'nonsense' does not exist"),
        ({"judge_model": " "}, "--judge-model is empty"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=said):
        make_plan(unlabelled(), replace(SETTINGS, budget=Budget(usd=1), **settings))  # type: ignore[arg-type]


def test_the_judge_is_the_task_model_unless_named() -> None:
    assert make_plan(unlabelled(), SETTINGS).models["judge"].name == "sim"
    plan = make_plan(unlabelled(), replace(SETTINGS, judge_model="sim:null"))
    assert (plan.models["judge"].name, plan.models["judge"].temperature) == ("sim:null", 0.3)


def test_the_simulator_is_refused_where_it_knows_no_targets(tmp_path: Path) -> None:
    data = questions(tmp_path)
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"simulator \(sim\) cannot play .* data with targets and --metric none"):
        Run(plan_of(data, out=out))
    assert not out.exists()
    taught = Simulator(landscape("default"))
    taught.learn(replace(example, target="red") for example in plan_of(data).task.train)
    plan = plan_of(data, out=out)
    Run(plan, transports={"sim": SimulatorTransport(taught, plan.models["task"])})


def test_the_simulator_plays_where_it_alone_knows_the_targets(tmp_path: Path) -> None:
    plan, _ = prepare(SUPPORT, "support", replace(SETTINGS, out=tmp_path), metric="none")
    targets = {example.inputs["message"]: example.target for example in plan.task.train}
    result = asyncio.run(closing(Run(plan).execute()))
    assert result.status == "completed"
    assert result.task["metric"] == "none"
    assert result.initial.dev is None
    assert len(targets) == len(plan.task.train)


# Plan -----------------------------------------------------------------------------------------------


def test_no_hold_out_without_scores() -> None:
    settings = replace(SETTINGS, budget=Budget(calls=9000))
    assert make_plan(make_task(n_dev=120), settings).holdout
    assert make_plan(unlabelled(n_dev=120), settings).holdout == ()


@pytest.mark.parametrize("budget", [Budget(calls=100), Budget(calls=400), Budget(usd=1)])
def test_forecast_knows_the_judge(budget: Budget, tmp_path: Path) -> None:
    plan = make_plan(unlabelled(n_test=60), replace(SETTINGS, budget=budget, out=tmp_path))
    forecast = plan.forecast
    result = asyncio.run(closing(Run(plan, transports={"sim": Scripted(world)}).execute()))
    assert 0.7 <= forecast.calls / result.spend.calls <= 1.4
    assert forecast.worst_usd is not None
    assert forecast.expected_usd is not None
    assert 0 < forecast.expected_usd <= forecast.worst_usd <= plan.limit.usd
    dear = make_plan(unlabelled(n_test=60), replace(SETTINGS, budget=budget, price_in=50, price_out=50))
    assert dear.forecast.expected_usd is not None
    assert dear.forecast.expected_usd > forecast.expected_usd


@pytest.mark.parametrize("name", bundled.names())
def test_forecast_is_near_what_a_run_takes(name: str, tmp_path: Path) -> None:
    settings = Settings("sim", optimizer="spo", budget=Budget(calls=300), out=tmp_path)
    plan, _ = prepare(bundled.folder(name) / bundled.PROMPT, name, settings, metric="none")
    spend = asyncio.run(closing(Run(plan).execute())).spend
    assert plan.forecast.expected_usd is not None
    assert spend.cost_usd is not None
    assert 0.5 <= plan.forecast.expected_usd / spend.cost_usd <= 2
    assert 0.5 <= plan.forecast.calls / spend.calls <= 2


def test_a_task_model_of_known_price_does_not_hide_the_judges() -> None:
    def expected(judge: str | None) -> object:
        prices = {"price_in": 0.01, "price_out": 0.01}
        settings = replace(SETTINGS, judge_model=judge, **prices)  # type: ignore[arg-type]
        return make_plan(unlabelled(), settings).forecast.expected_usd

    assert expected("sim:null") > expected(None)  # type: ignore[operator]


# Screen and command line ----------------------------------------------------------------------------


def test_screen_says_what_the_judge_prefers(tmp_path: Path) -> None:
    run = make_run(tmp_path, Scripted(world), task=unlabelled(), settings=SETTINGS)
    err = io.StringIO()
    screen = Screen(out=io.StringIO(), err=err)
    screen.start(run)
    result = asyncio.run(closing(run.execute()))
    screen.end_watch(run)
    said = " ".join(err.getvalue().split())
    assert "the smallest win rate that 20 test inputs can prove is, at best, 65.0%" in said
    assert "3 prompts tried | 3 accepted" in said
    text = shown(run, result)
    assert result.improvement is not None
    n_won = len(result.improvement.fixed)
    assert f"Proven: the judge prefers the new prompt on {n_won} and yours on 0 of 20 unseen test inputs" in text
    assert f"with {20 - n_won} ties: win rate {100 * (n_won + 20) / 40:.1f}% (95% interval " in text
    assert "The judge is a model: its preference is no ground truth." in text
    assert f"{n_won} won, 0 lost, {20 - n_won} tied" in text
    assert "test examples where the judge prefers the new answer" in text
    assert "score" not in text.split("SIMULATED")[1].split("Everything")[0]
    assert "nan" not in text


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (lambda _: "<verdicts>1: A</verdicts>", "Not proven: the search found no better prompt than yours."),
        (
            lambda r: vote(r) if "number 1" in r.messages[-1].content else "?",
            "the smallest win rate that these inputs",
        ),
    ],
)
def test_screen_where_nothing_is_proven(tmp_path: Path, judge: object, said: str) -> None:
    transport = Scripted(lambda r: judge(r) if is_judge(r) else world(r))  # type: ignore[operator]
    run = make_run(tmp_path, transport, task=unlabelled(), settings=SETTINGS)
    assert said in shown(run, asyncio.run(closing(run.execute())))


def test_labelled_screens_and_results_stay_as_they_were(tmp_path: Path) -> None:
    settings = Settings("sim", optimizer="random", budget=Budget(calls=200))
    run = make_run(tmp_path, Scripted(model), settings=settings)
    result = asyncio.run(closing(run.execute()))
    assert result.improvement is not None
    assert result.improvement.delta is not None
    assert result.improvement.judged is None
    text = shown(run, result)
    assert "judge" not in text
    assert "test score" in text


def answer(body: dict[str, object]) -> Reply:
    messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])  # type: ignore[attr-defined]
    request = Request(str(body["model"]), messages, 10)
    if body["model"] == "judge":
        assert is_judge(request)
    return chat(world(request), model=str(body["model"]))


def test_the_whole_command_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompt.md").write_text("Name the colour.\n")
    server: Loopback
    with serve(answer) as server:
        command = [
            "promptopt",
            "optimize",
            "prompt.md",
            "--data",
            str(questions(tmp_path)),
            "--out",
            "here",
            "--json",
        ]
        command += ["--model", "local", "--judge-model", "judge", "--api-base", server.url, "--optimizer", CLIMB]
        monkeypatch.setattr(sys, "argv", [*command, "--budget-calls", "200"])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    result = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert result["models"]["judge"] == {"name": "judge", "is_simulated": False}
    assert result["improvement"]["verdict"] == "proven"
    temperatures = {(body["model"], body.get("temperature")) for body in server.bodies}
    assert ("judge", 0.3) in temperatures
    n_judged = sum(body["model"] == "judge" for body in server.bodies)
    assert n_judged == result["spend"]["by_role"]["judge"]["calls"]
