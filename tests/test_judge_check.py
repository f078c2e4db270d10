"""`promptopt judge-check`: figures of a judge that the test knows, budgets, resuming, and wrong input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback import Reply, chat, serve
from rated import shown_reply, verdicts
from scripted import Scripted
from test_settings_file import on_terminal

from promptopt import cli
from promptopt.config import Settings
from promptopt.errors import ConfigError, Interrupted, ServerFailed, TooManyMissing
from promptopt.gateway import RetryPolicy
from promptopt.judge_check import Report, lines, make_check
from promptopt.providers import closing
from promptopt.types import Budget, Request

RUBRIC = "- It is right.\n- It is short.\n"
# (reply, label, what the judge says at first): label and rating agree on all but the last two
ROWS = (
    ("aa", 1, ("yes", "yes")),
    ("bb", 1, ("yes", "yes")),
    ("cc", 0, ("no", "no")),
    ("dd", 0, ("no", "no")),
    ("ee", 0.5, ("no", "no")),
    ("ff", 0, ("yes", "yes")),
)
SAID = {reply: words for reply, _, words in ROWS}


def write(folder: Path, rows: list[Mapping[str, Any]] | None = None) -> Path:
    (folder / "rubric.md").write_text(RUBRIC)
    default = [
        {"id": reply, "question": f"Say {reply}!", "reply": reply, "score": label} for reply, label, _ in ROWS
    ]
    path = folder / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, default if rows is None else rows)))
    return path


def steady(request: Request) -> str:
    return verdicts(*SAID[shown_reply(request)])


def check(
    folder: Path, reply: Callable[[Request], str] = steady, *, repeats: int = 3, **settings: Any
) -> tuple[Report, Scripted]:
    path = folder / "labelled.jsonl"
    given = Settings("sim", out=folder / "out", **({"budget": Budget(calls=100)} | settings))
    made = make_check(str(folder / "rubric.md"), path if path.exists() else write(folder), given, repeats=repeats)
    transport = Scripted(reply)
    return asyncio.run(closing(made.execute({"sim": transport}, RetryPolicy(n_attempts=1)))), transport


@pytest.fixture(autouse=True)
def known_to_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripted models take the simulator's name, though the rows have no targets."""
    monkeypatch.setattr("promptopt.providers.ModelSpec.is_simulated", property(lambda spec: False))


def test_figures(tmp_path: Path) -> None:
    report, transport = check(tmp_path)
    assert len(transport.requests) == report.spend.calls == 18
    assert {request.temperature for request in transport.requests} == {0.0}
    assert (report.rows, report.rated, report.missing, report.reason) == (6, 6, 0, "")
    assert report.agreement.difference.value == pytest.approx(1.5 / 6)
    # x = 1 1 0 0 .5 0, y = 1 1 0 0 0 1: sums of products 0.75, of squares 1.2083 and 1.5
    assert report.agreement.pearson is not None
    assert report.agreement.pearson.value == pytest.approx(0.75 / (29 / 24 * 1.5) ** 0.5)
    assert report.agreement.accuracy is None
    assert report.noise is not None
    assert (report.noise.n, report.noise.changed.value, report.noise.sd) == (6, 0, 0)
    assert [(gap.id, gap.label, gap.rating) for gap in report.differences] == [("ff", 0, 1), ("ee", 0.5, 0)]


def test_labels_of_yes_and_no_get_accuracy_and_kappa(tmp_path: Path) -> None:
    words = {1: "yes", 0: "No", 0.5: "false"}
    write(tmp_path, [{"q": r, "reply": r, "score": words[label]} for r, label, _ in ROWS])
    report, _ = check(tmp_path)
    assert report.agreement.accuracy is not None
    assert report.agreement.accuracy.value == pytest.approx(5 / 6)
    assert report.agreement.kappa is not None
    assert report.agreement.kappa.value == pytest.approx((5 / 6 - 1 / 2) / (1 / 2))


def test_repeat_noise(tmp_path: Path) -> None:
    def moody(request: Request) -> str:
        is_changed = shown_reply(request) in ("aa", "cc") and "repeat 2" in request.sample
        return verdicts("no", "no") if is_changed else steady(request)

    report, transport = check(tmp_path, moody)
    assert len({request.digest for request in transport.requests}) == 18
    assert report.noise is not None
    assert report.noise.changed.value == pytest.approx(1 / 6)  # cc was no already
    assert report.noise.sd == pytest.approx((2 / 3 / 12) ** 0.5)
    assert report.agreement == check(tmp_path, moody)[0].agreement


def test_nothing_is_paid_twice_and_more_repeats_go_on(tmp_path: Path) -> None:
    first, _ = check(tmp_path)
    again, transport = check(tmp_path)
    assert not transport.requests
    assert (again.agreement, again.spend.calls) == (first.agreement, 18)
    assert len(check(tmp_path, repeats=4)[1].requests) == 6
    (tmp_path / "rubric.md").write_text("- Another.\n")
    with pytest.raises(ConfigError, match="metric file: its content differs"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("calls", "n_rated", "n_repeated"), [(2, 1, 0), (5, 4, 0), (7, 6, 0), (10, 6, 3), (100, 6, 6)]
)
def test_a_budget_of_calls_holds(tmp_path: Path, calls: int, n_rated: int, n_repeated: int) -> None:
    """A rating is begun where it fits with its repair; so the last call of a budget may stay unused."""
    report, transport = check(tmp_path, repeats=2, budget=Budget(calls=calls))
    assert len(transport.requests) <= calls
    assert report.rated == n_rated
    assert (report.noise.n if report.noise else 0) == n_repeated
    assert ("budget exhausted" in report.reason) == (calls < 100)


def test_a_budget_of_dollars_holds(tmp_path: Path) -> None:
    report, transport = check(tmp_path, budget=Budget(usd=Decimal("0.05")), price_in=1, price_out=20)
    assert 0 < len(transport.requests) < 18
    assert report.spend.cost_usd is not None
    assert report.spend.cost_usd <= Decimal("0.05")
    assert "budget exhausted" in report.reason


def test_what_cannot_be_rated_is_missing(tmp_path: Path) -> None:
    report, _ = check(tmp_path, lambda r: "well" if shown_reply(r) == "ff" else steady(r), repeats=1)
    assert (report.rated, report.missing, report.spend.calls) == (5, 1, 7)
    assert "1 rating(s) are missing (RatingUnread: the judge rated a reply to example 'ff' twice" in report.reason
    assert report.agreement.difference.value == pytest.approx(0.1)
    assert report.noise is None
    (tmp_path / "mute").mkdir()
    with pytest.raises(TooManyMissing, match=r"not one reply could be rated \(RatingUnread"):
        check(tmp_path / "mute", lambda r: "well")


def test_a_judge_that_fails_is_asked_again_and_then_missing(tmp_path: Path) -> None:
    def fail(request: Request) -> None:
        if shown_reply(request) == "aa":
            raise ServerFailed("down")

    write(tmp_path)
    made = make_check(
        str(tmp_path / "rubric.md"), tmp_path / "labelled.jsonl", Settings("sim", out=tmp_path / "out"), repeats=1
    )
    transport = Scripted(steady, on_request=fail)
    report = asyncio.run(closing(made.execute({"sim": transport}, RetryPolicy(n_attempts=1))))
    assert (report.rated, report.missing, len(transport.requests)) == (5, 1, 5 + 3)
    assert "ServerFailed: down" in report.reason


def test_a_blank_reply_costs_nothing(tmp_path: Path) -> None:
    write(
        tmp_path, [{"q": "1", "reply": "", "score": 0}, *({"q": r, "reply": r, "score": 1} for r in ("aa", "cc"))]
    )
    report, transport = check(tmp_path, repeats=1)
    assert (report.rated, len(transport.requests)) == (3, 2)


def test_the_target_is_a_reference_and_the_label_is_hidden(tmp_path: Path) -> None:
    write(tmp_path, [{"q": f"Q{r}", "reply": r, "score": 0.125, "target": f"T{r}"} for r in ("aa", "bb", "cc")])
    _, transport = check(tmp_path, repeats=1)
    for request in transport.requests:
        text, reply = request.messages[0].content, shown_reply(request)
        assert f"\nT{reply}\n" in text
        assert f"\nQ{reply}\n" in text
        assert "0.125" not in text


def test_words_and_json_say_the_same(tmp_path: Path) -> None:
    report, _ = check(tmp_path)
    text = "\n".join(lines(report))
    assert "6 of 6 labelled replies rated, at temperature 0" in text
    assert "mean absolute difference  0.250" in text
    assert "ff: label 0, judge 1" in text
    loaded = json.loads(report.to_json())
    assert loaded["agreement"]["difference"]["value"] == 0.25
    assert loaded["spend"]["calls"] == 18
    assert "no interval" not in text
    assert "own temperature" in next(iter(lines(replace(report, temperature=None))))


@pytest.mark.parametrize(
    ("budget", "price", "calls", "worst_calls"),
    [
        (Budget(calls=100), 1, 18, 36),
        (Budget(calls=10), 1, 10, 10),
        (Budget(calls=30), 1, 18, 30),
        (Budget(usd=Decimal("0.01")), 1, 18, None),
        (Budget(calls=100), 0, 18, 36),
    ],
)
def test_the_estimate_counts_ratings_and_at_worst_a_repair_of_each(
    tmp_path: Path, budget: Budget, price: int, calls: int, worst_calls: int | None
) -> None:
    settings = Settings("sim", budget=budget, price_in=price, price_out=price)
    made = make_check(str(tmp_path / "rubric.md"), write(tmp_path), settings)
    found, (worst, *others) = made.estimate, map(made._worst, made.rows)
    assert {other.tokens for other in others} == {worst.tokens}
    assert found.calls == calls
    assert found.expected_tokens < found.worst_tokens
    if worst_calls is None:
        assert found.worst_usd == Decimal("0.01")
    else:
        assert found.worst_tokens == worst_calls * worst.tokens
        assert found.worst_usd == worst_calls * worst.usd


@pytest.mark.parametrize(("n_before", "n_rated"), [(3, 0), (9, 6)])
def test_a_check_that_is_asked_to_stop_waits_for_what_is_in_flight(
    tmp_path: Path, n_before: int, n_rated: int
) -> None:
    """A batch is six ratings, two of them in flight; those that have left when it is asked to stop are kept."""
    settings = Settings("sim", budget=Budget(calls=100), concurrency=2, out=tmp_path / "out")
    made = make_check(str(tmp_path / "rubric.md"), write(tmp_path), settings)

    def ask(request: Request) -> None:
        if len(transport.requests) >= n_before:
            made.stop.set()

    transport = Scripted(steady, on_request=ask)
    work = closing(made.execute({"sim": transport}, RetryPolicy(n_attempts=1)))
    if n_rated:
        report = asyncio.run(work)
        assert (report.status, report.rated) == ("interrupted", n_rated)
        assert report.reason == "interrupted; what was in flight has been kept; 0 of 6 replies have 2 rating(s)"
    else:
        with pytest.raises(Interrupted, match=r"interrupted; .*go on, run the same command with --out .*out"):
            asyncio.run(work)
    n_paid = len(transport.requests)
    assert n_before <= n_paid <= n_before + 1
    again, rest = check(tmp_path)
    assert (again.status, len(rest.requests)) == ("completed", 18 - n_paid)


# The command ----------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: object) -> int:
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["promptopt", "judge-check", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


GOOD = ("--rubric", "rubric.md", "--data", "labelled.jsonl", "--model", "sim", "--out", "run")


def good_but(*words: object) -> list[object]:
    """Return the good words with some instead or besides."""
    return [*(word for i in range(0, len(GOOD), 2) if GOOD[i] not in words for word in GOOD[i : i + 2]), *words]


def test_the_command_with_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()  # it is the simulator here
    rows = [
        {"question": f"Where is parcel {i}, please?", "target": "delivery", "score": "yes" if i % 2 else "no"}
        | {"reply": "delivery" if i % 2 else "refund"}
        for i in range(30)
    ]
    write(tmp_path, rows)
    assert command(monkeypatch, tmp_path, *GOOD, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_simulated"]
    assert report["agreement"]["accuracy"]["value"] > 0.7
    assert report["spend"]["by_role"]["judge"]["calls"] == report["spend"]["calls"] == 90
    assert command(monkeypatch, tmp_path, *GOOD) == 0
    said = capsys.readouterr()
    assert said.out.startswith("SIMULATED MODEL")
    assert "no budget given: at most 1,000 calls" in said.err


def judge_words(url: str, *more: object) -> list[object]:
    return good_but("--model", "judge", "--api-base", url, *more)


def test_an_incomplete_check_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, row())
    with serve(lambda body: chat(verdicts("yes", "yes"))) as server:
        assert command(monkeypatch, tmp_path, *judge_words(server.url, "--budget-calls", 7)) == 1
        assert "not complete: budget exhausted" in capsys.readouterr().out
        assert command(monkeypatch, tmp_path, *judge_words(server.url, "--budget-calls", 20)) == 0


def test_a_dry_run_spends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, row())
    with serve(lambda body: chat(verdicts("yes", "yes"))) as server:
        words = judge_words(server.url, "--price-in", 1, "--price-out", 1, "--dry-run")
        assert command(monkeypatch, tmp_path, *words) == 0
    assert re.match(r"forecast: 15 calls, about [\d,]+ tokens and \$[\d.]+; at worst", capsys.readouterr().out)
    assert not server.bodies
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("says", "status"), [("y", 0), ("n", 2)])
def test_a_person_is_asked_before_much_may_be_spent(tmp_path: Path, says: str, status: int) -> None:
    write(tmp_path, row())
    with serve(lambda body: chat(verdicts("yes", "yes"))) as server:
        words = judge_words(server.url, "--price-in", 1000, "--price-out", 1000)
        found, shown = on_terminal(tmp_path, "judge-check", *words, says=says)
    assert b"this may cost up to $" in shown
    assert found == status
    assert bool(server.bodies) == (tmp_path / "run").exists() == (status == 0)


def test_options_of_the_judge_are_sent_and_belong_to_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, row())
    with serve(lambda body: chat(verdicts("yes", "yes"))) as server:
        words = judge_words(server.url, "--repeats", 1)
        assert command(monkeypatch, tmp_path, *words, "--set-model", "judge.top_p=0.5") == 0
        assert {body["top_p"] for body in server.bodies} == {0.5}
        assert command(monkeypatch, tmp_path, *words) == 2
        assert "judge options" in capsys.readouterr().err
        assert command(monkeypatch, tmp_path, *words, "--set-model", "task.top_p=0.5") == 2
        assert "this run has no task model (it has judge)" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_in_flight(tmp_path: Path) -> None:
    write(tmp_path, row())
    is_asked = threading.Event()

    def answer(body: dict[str, Any]) -> Reply:
        is_asked.set()
        return replace(chat(verdicts("yes", "yes")), hangs_s=1.0)

    with serve(answer) as server:
        words = ["judge-check", *judge_words(server.url, "--concurrency", 4)]
        process = subprocess.Popen(
            [Path(sys.executable).parent / "promptopt", *map(str, words)],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert is_asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopping: waiting for the calls in flight" in said
    assert "to go on, run the same command with --out run" in said
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "journal.db")) as journal:
        outcomes = [outcome for (outcome,) in journal.execute("select outcome from attempts")]
    assert outcomes == ["ok"] * len(server.bodies)


def row(**more: object) -> list[dict[str, object]]:
    good = [{"q": f"q{i}", "reply": f"r{i}", "score": 1, "target": "t"} for i in range(4)]
    bad = {"id": "bad", "q": "q9", "reply": "r9", "score": 1, "target": "t"} | more
    return [*good, {key: value for key, value in bad.items() if value != "-"}]  # type: ignore[list-item]


WRONG: dict[str, tuple[list[dict[str, object]], tuple[object, ...], str]] = {
    "a score above 1": (
        row(score=2),
        (),
        r"labelled.jsonl: row 'bad' has the score '2'; write a",
    ),
    "a score that is a word": (row(score="good"), (), r"row 'bad' has the score 'good'"),
    "a score that is no number": (row(score="nan"), (), r"row 'bad' has the score 'nan'"),
    "a score that is a list": (row(score=[1]), (), r"row 'bad' has the score '\[1\]'"),
    "an empty score": (row(score=None), (), "score"),
    "a missing score": (row(score="-"), (), "score"),
    "no score column": ([{"q": str(i), "reply": "r"} for i in range(4)], (), "no target column 'score'"),
    "no reply column": ([{"q": str(i), "score": 1} for i in range(4)], (), "'reply'"),
    "no rows": ([], (), "holds no rows"),
    "no such data": (row(), ("--data", "gone.jsonl"), "gone.jsonl: no such file"),
    "no such rubric": (row(), ("--rubric", "gone.md"), "cannot read gone.md"),
    "no repeats": (row(), ("--repeats", "0"), "--repeats is 0"),
    "no calls": (row(), ("--budget-calls", "0"), "--budget-calls is 0; it must be above 0"),
    "too few calls": (row(), ("--budget-calls", "1"), "affords not one rating with its repair: 2 calls needed"),
    "dollars that are none": (row(), ("--budget-usd", "lots"), "--budget-usd is 'lots'"),
    "an unknown model": (row(), ("--model", "gpt-nonsense-9"), "model 'gpt-nonsense-9' is unknown"),
    "a model without a key": (row(), ("--model", "openai/gpt-4o-mini"), "set OPENAI_API_KEY"),
    "a model without a price": (
        row(),
        ("--model", "local", "--api-base", "http://127.0.0.1:9/v1", "--budget-usd", "1"),
        "no known price for model 'local'",
    ),
    "an unknown landscape": (row(), ("--model", "sim:nonsense"), "landscape 'nonsense' does not exist"),
    "a simulator without targets": (row(target=None), (), "simulator rates by the targets .* row 'bad' has none"),
    "a folder of something else": (row(), ("--out", "."), "is not empty"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_refused_with_nothing_spent(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    rows, words, said = WRONG[what]
    write(tmp_path, rows)
    assert command(monkeypatch, tmp_path, *good_but(*words)) == 2
    errors = capsys.readouterr().err
    assert errors.count("error:") == 1
    assert re.search(said, errors), errors
    assert not (tmp_path / "run").exists()


def test_over_http_the_judge_is_its_own_model_at_temperature_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Reply:
        bodies.append(body)
        text = body["messages"][-1]["content"]
        if body["model"] == "judge":
            return chat(verdicts("no, it is short", "yes"))
        return chat("<prompt>Name the colour, please.</prompt>" if "</prompt>" in text else "red")

    write(tmp_path, row())
    with serve(answer) as server:
        words = ("--model", "judge", "--api-base", server.url, "--repeats", "2", "--json")
        assert command(monkeypatch, tmp_path, *good_but(*words)) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["spend"]["calls"], report["spend"]["cost_usd"], report["temperature"]) == (10, None, 0)
        assert {body["temperature"] for body in bodies} == {0}
        assert report["differences"][0]["feedback"] == "It is right: no, it is short"
        bodies.clear()
        (tmp_path / "prompt.md").write_text("Name the colour.\n")
        (tmp_path / "data.jsonl").write_text(
            "\n".join(json.dumps({"q": f"item {i}", "target": "red"}) for i in range(40))
        )
        line = [
            "promptopt",
            "optimize",
            "prompt.md",
            "--data",
            "data.jsonl",
            "--metric",
            "judge:rubric.md",
            "--json",
        ]
        line += ["--model", "local", "--judge-model", "judge", "--api-base", server.url, "--optimizer", "random"]
        monkeypatch.setattr(sys, "argv", [*line, "--budget-calls", "200", "--out", "there"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    result = json.loads(capsys.readouterr().out)
    n_rated = sum(body["model"] == "judge" for body in bodies)
    assert result["models"]["judge"]["name"] == "judge"
    assert result["spend"]["by_role"]["judge"]["calls"] == n_rated > 0
    assert result["initial"]["test"]["score"] == 0.5
