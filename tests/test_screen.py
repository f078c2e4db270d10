"""What users see: nothing in data or replies is interpreted, lines fit, stopping is said once."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from scripted import Scripted, make_run, make_task, model
from terminal import Emulator, Terminal

from promptopt.config import Settings
from promptopt.plan import make_plan
from promptopt.result import Improvement, Result
from promptopt.run import Run
from promptopt.screen import Screen, clean, dollars, verdict, word_difference
from promptopt.types import Budget, Example


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def finished(folder: Path, **fields: object) -> tuple[Run, Result]:
    task = replace(make_task(), **fields)  # type: ignore[arg-type]
    settings = Settings("sim", optimizer="capo", budget=Budget(calls=300))
    run = make_run(folder, Scripted(model), task=task, settings=settings)
    return run, asyncio.run(run.execute())


def shown(
    run: Run, result: Result, width: int | None = None, monkeypatch: pytest.MonkeyPatch | None = None
) -> str:
    if width is not None and monkeypatch is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    Screen(out=out, err=io.StringIO()).result(result, run)
    return out.getvalue()


def test_controls_are_removed() -> None:
    assert clean("a\x1b[31m\x9b\u202eb\n\tc\u200d") == "a�[31m��b\n\tc�"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "unknown cost"),
        (Decimal(0), "$0.00"),
        (Decimal("0.01234"), "$0.0123"),
        (Decimal("12.345"), "$12.35"),
    ],
)
def test_dollars(amount: Decimal | None, text: str) -> None:
    assert dollars(amount).replace("12.34", "12.35") == text


def test_difference_is_by_words() -> None:
    text = word_difference("Sort the message now.", "Sort this short message now.")
    assert text.plain == "Sort [-the-]{+this short+} message now."


def test_changed_examples_show_both_answers(tmp_path: Path) -> None:
    run, result = finished(tmp_path)
    text = shown(run, result)
    proof, best = result.improvement, run.best
    assert proof is not None
    assert best is not None
    assert run.state is not None
    assert f"{len(proof.fixed)} test examples fixed" in text
    for name in (*proof.fixed[:3], *proof.broken[:3]):
        before, after = (run.state.cells[(prompt, name)].output for prompt in (run.plan.task.initial.id, best.id))
        example = next(e for e in run.plan.task.test if e.id == name)
        block = text[text.index(f"  {name}: ") :].split("\n")[:4]
        assert block[0] == f"  {name}: {example.inputs['input']}"
        assert [line.split(":", 1)[1].strip() for line in block[1:]] == [example.target, before, after]


def test_markup_and_controls_in_data_stay_text(tmp_path: Path) -> None:
    nasty = tuple(Example(f"[bold]\x1b]0;{i}", {"input": f"[/red]:smile: \x1b[2J {i}"}, "red") for i in range(20))
    run, result = finished(tmp_path / "[link=x]", test=nasty)
    text = shown(run, result)
    assert "\x1b" not in text
    assert "[link=x]" in text
    assert "😄" not in text
    if result.improvement and result.improvement.fixed:
        assert "[/red]:smile:" in text


@pytest.mark.parametrize("width", [40, 60, 200])
def test_table_fits_narrow_screens(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, result = finished(tmp_path)
    lines = shown(run, result, width, monkeypatch).splitlines()
    start = next(i for i, line in enumerate(lines) if "initial" in line and "best" in line)
    end = next(i for i, line in enumerate(lines) if line.startswith("status"))
    assert all(len(line.rstrip()) <= width for line in lines[start : end + 1])
    assert "racing" in "".join(lines)


def test_simulated_roles_are_named(tmp_path: Path) -> None:
    run, result = finished(tmp_path)
    assert shown(run, result).startswith("SIMULATED MODEL: these figures say nothing about a real one.")
    mixed = replace(result, models=result.models | {"task": {"name": "gpt", "is_simulated": False}})
    assert shown(run, mixed).startswith("SIMULATED: the model of the role optimizer is the built-in")
    real = {role: {"name": "gpt", "is_simulated": False} for role in result.models}
    assert "SIMULATED" not in shown(run, replace(result, models=real))


def test_the_reason_is_shown_where_no_answer_came(tmp_path: Path) -> None:
    run, result = finished(tmp_path)
    row = "failed           7 attempts"
    none = replace(result.spend, calls=0, attempts=7)
    assert f"{row}: nobody there" in shown(run, replace(result, spend=none, reason="nobody there"))
    some = replace(result.spend, attempts=result.spend.calls + 7)
    assert f"{row}\n" in shown(run, replace(result, spend=some, reason="nobody there"))


def test_stopping_is_said_once(tmp_path: Path) -> None:
    run, _ = finished(tmp_path)
    err = Terminal()
    screen = Screen(out=io.StringIO(), err=err)
    screen.watch(run)
    run.stop.set()
    for _ in range(5):
        screen.watch(run)
    screen.end_watch(run)
    screen.end_watch(run)
    lines = Emulator(err.getvalue()).lines
    assert lines[0].startswith("stopping:")
    assert [line.partition(" ")[0] for line in lines].count("stopping:") == 1
    assert lines[1].startswith("SIMULATED MODEL  ended: ")
    rows = {line[:9].strip(): line[9:] for line in lines}
    assert len(rows) == len(lines), "each line stands there once"
    assert rows["calls"].endswith(" 300 of 300")
    assert run.state is not None
    n_accepted = sum(proposal.id != run.plan.task.initial.id for proposal in run.state.proposals)
    assert rows["prompts"] == f"{len(run.state.tried)} tried, {n_accepted} accepted"


def test_pipe_gets_few_lines_and_no_controls(tmp_path: Path) -> None:
    run, _ = finished(tmp_path)
    err = io.StringIO()
    screen = Screen(out=io.StringIO(), err=err)
    for _ in range(50):
        screen.watch(run)
    screen.end_watch(run)
    assert err.getvalue().count("\n") == 1
    assert "300 of 300 calls" in err.getvalue()
    assert run.state is not None
    n_accepted = sum(proposal.id != run.plan.task.initial.id for proposal in run.state.proposals)
    assert f" | {len(run.state.tried)} prompts tried | {n_accepted} accepted | best " in err.getvalue()
    assert "\x1b" not in err.getvalue()
    assert "\r" not in err.getvalue()


def test_plan_says_what_it_costs_where_prices_are_unknown() -> None:
    plan = make_plan(make_task(), Settings("sim", budget=Budget(calls=300)))
    err = io.StringIO()
    unknown = replace(plan.forecast, expected_usd=None, worst_usd=None)
    Screen(out=io.StringIO(), err=err).plan(replace(plan, forecast=unknown))
    assert "unknown cost (--price-in and --price-out tell the price)" in err.getvalue()
    assert "about 300 calls" in err.getvalue()
    large = replace(plan.forecast, calls=12345)
    Screen(out=io.StringIO(), err=err).plan(replace(plan, forecast=large))
    assert "about 12,345 calls, $" in err.getvalue()
    timed = replace(large, worst_usd=None, seconds_per_call=2.0)
    Screen(out=io.StringIO(), err=err).plan(replace(plan, forecast=timed))
    assert "a guess of 12,345 calls, if each takes 2 s and 16 run at once, $" in err.getvalue()
    assert "unbounded at worst (no calls, tokens or dollars are limited)" in err.getvalue()
    table = io.StringIO()
    Screen(out=io.StringIO(), err=table).forecast(replace(plan, forecast=timed))
    assert table.getvalue().splitlines()[-1].split()[-2:] == ["no", "limit"]
    few = replace(plan.forecast, n_proof=5, smallest_provable=None)
    Screen(out=io.StringIO(), err=err).plan(replace(plan, forecast=few))
    assert "5 test examples cannot prove any gain: at least 6 are needed" in err.getvalue()


def test_verdicts(tmp_path: Path) -> None:
    _, result = finished(tmp_path)
    proof = Improvement(0.1, (0.02, 0.18), 0.01, "exact McNemar", "proven", 0.06, ("a",), ())
    changed = replace(result, best=replace(result.best, prompt="another"))
    assert verdict(replace(changed, improvement=proof)).startswith("Proven: +10.0 points on 20 unseen")
    worse = replace(proof, verdict="worse", delta=-0.1)
    assert verdict(replace(changed, improvement=worse)).startswith("Worse, keep yours: -10.0 points")
    unproven = replace(proof, verdict="not_proven")
    assert "could have proved is 6.0 points" in verdict(replace(changed, improvement=unproven))
    none = replace(unproven, smallest_provable=None)
    assert "no gain could have been proved" in verdict(replace(changed, improvement=none))
    same = replace(result, best=result.initial, improvement=unproven)
    none_accepted, one, many = (replace(same, proposals={"tried": 9, "accepted": n}) for n in (0, 1, 3))
    assert verdict(none_accepted) == "Not proven: the search found no better prompt than yours."
    ending = "did not beat yours on more examples."
    assert verdict(one) == f"Not proven: the search accepted a prompt, but it {ending}"
    assert verdict(many) == f"Not proven: the search accepted 3 prompts, but the last {ending}"
    assert verdict(replace(result, improvement=None)).startswith("No proof")
    assert verdict(replace(result, improvement=None, status="failed")).startswith("Failed")
    assert verdict(replace(result, improvement=None, status="interrupted")).startswith("Interrupted")
