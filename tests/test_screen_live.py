"""The live view: lines that fit, figures with their sample sizes, the label of stand-ins, no code but its own."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from commandline import SUPPORT
from served import COMMAND
from terminal import Emulator, OnTerminal, Terminal

from promptopt.progress import Progress, RaceNow, Standing, Use
from promptopt.screen_live import LiveView, frame_of, in_words, left_in_words, line_of
from promptopt.wording import console_of

HOSTILE = "\x1b[2J\x1b]0;title\x07\r\n\u202e[bold]x"
PROGRESS = Progress(
    stage="search",
    task="support",
    optimizer="capo",
    models=(("task", "openai/gpt-5-mini"), ("optimizer", "sim")),
    simulated=("optimizer",),
    pid=1,
    host="x",
    elapsed_s=75.4,
    is_scored=True,
    best=Standing(0.714, 98, (0.621, 0.79)),
    initial=Standing(0.55, 60, (0.42, 0.67)),
    is_initial_best=False,
    n_tried=14,
    n_accepted=3,
    uses=(
        Use("calls", 412, 1000, 700),
        Use("tokens", 1_200_000, 5_000_000, 2_000_000),
        Use("usd", 0.1234, 2.0, 0.3),
        Use("seconds", 75.4, None, 130.0),
    ),
    n_cached=24,
    n_failed=3,
    last_failure="RateLimited: slow down",
    n_missing=1,
    calls_per_s=12.34,
    races=(RaceNow(4, 12, 1, 30, 98),),
    left_s=(80.0, 190.0),
    is_stopping=False,
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def text_of(progress: Progress, width: int = 100, **more: object) -> str:
    return "\n".join(line.plain for line in frame_of(progress, width, **more))  # type: ignore[arg-type]


def test_everything_is_shown_with_its_unit_and_sample_size() -> None:
    rows = [" ".join(row.split()) for row in text_of(PROGRESS, 110).splitlines()]
    assert rows == [
        "SIMULATED: optimizer searching: capo on support, openai/gpt-5-mini, sim",
        "best 71.4% (95%: 62.1-79.0, n=98 dev examples)",
        "yours 55.0% (95%: 42.0-67.0, n=60 of the same)",
        "prompts 14 tried, 3 accepted",
        "race 4 of 12 prompts left, 1 wanted, 30 of 98 examples",
        "calls ██████████▒▒▒▒▒▒▒░░░░░░░ 412 of 1,000, projected 700 (search)",
        "tokens ██████▒▒▒▒░░░░░░░░░░░░░░ 1,200,000 of 5,000,000, projected 2,000,000 (search)",
        "dollars █▒▒▒░░░░░░░░░░░░░░░░░░░░ $0.1234 of $2.00, projected $0.3000 (search)",
        "speed 12.3 calls/s (last 30 s)",
        "answers 24 cached, 1 missing; 3 attempts failed",
        "time 75 s; left: 80 s to 3 min (projected)",
        "failure the last one: RateLimited: slow down",
    ]


def test_the_line_says_the_same() -> None:
    assert line_of(PROGRESS) == (
        "SIMULATED: optimizer | search | 412 of 1,000 calls | $0.1234 of $2.00 | 14 prompts tried | 3 accepted | "
        "best 71.4% (95%: 62.1-79.0, n=98 dev examples) | yours 55.0% (95%: 42.0-67.0, n=60 of the same) | "
        "race 4 of 12 prompts left, 1 wanted, 30 of 98 examples | "
        "3 attempts failed, last: RateLimited: slow down | 12.3 calls/s | 75 s | 80 s to 3 min left (projected)"
    )


def test_what_is_unknown_is_said_to_be() -> None:
    unknown = replace(PROGRESS, best=None, initial=None, calls_per_s=None, left_s=None, races=())
    text = text_of(replace(unknown, uses=(Use("calls", 0, None, None), Use("usd", None, None, None))))
    for said in ("nothing evaluated yet", "none at the moment", "unknown yet", "left: unknown", "unknown cost"):
        assert said in text
    assert "projected" not in text
    assert "no scores here" in text_of(replace(unknown, is_scored=False))
    assert "(your prompt)" in text_of(replace(PROGRESS, is_initial_best=True))
    assert "yours" not in text_of(replace(PROGRESS, is_initial_best=True))
    assert "not evaluated on these" in text_of(replace(PROGRESS, initial=None))


def test_an_ended_run_projects_nothing() -> None:
    ended = replace(PROGRESS, stage="ended")
    for text in (text_of(ended), line_of(ended)):
        assert "projected" not in text
        assert "left:" not in text
        assert "calls/s" not in text
    assert "stopping, waits for calls in flight" in text_of(replace(PROGRESS, is_stopping=True))
    assert "stopped without a result" in text_of(replace(PROGRESS, stage="stopped", is_stopping=True))


@pytest.mark.parametrize("simulated", [("task", "optimizer"), ("task",), ()])
def test_stand_ins_are_labelled_on_both(simulated: tuple[str, ...]) -> None:
    progress = replace(PROGRESS, simulated=simulated)
    label = {2: "SIMULATED MODEL", 1: "SIMULATED: task", 0: ""}[len(simulated)]
    for text in (text_of(progress, 20), line_of(progress)):
        assert text.startswith(label)
        assert ("SIMULATED" in text) == bool(simulated)


@pytest.mark.parametrize("width", [1, 5, 20, 45, 59, 79, 99, 300])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_lines_fit_and_hold_no_control(width: int, is_ascii: bool) -> None:
    nasty = replace(PROGRESS, task=HOSTILE, optimizer=HOSTILE, models=(("task", HOSTILE),), last_failure=HOSTILE)
    for progress in (PROGRESS, nasty, replace(nasty, stage="proof", races=())):
        lines = [line.plain for line in frame_of(progress, width, is_ascii, note=HOSTILE)]
        assert max(map(len, lines)) <= width
        assert all(line.isprintable() for line in lines)
    assert all(line.isascii() for line in text_of(PROGRESS, width, is_ascii=is_ascii).splitlines() if is_ascii)
    if width == 59:
        assert "projected $0.3000 (search)" in text_of(PROGRESS, width)


def test_silly_numbers_break_nothing() -> None:
    for n in (-5.0, 0.0, 1e15):
        uses = (Use("calls", n, 0.0, -n), Use("usd", 1e15, 1e-9, n), Use("seconds", n, n, n))
        progress = replace(PROGRESS, uses=uses, left_s=(n, n), elapsed_s=n, calls_per_s=n)
        assert max(len(line.plain) for line in frame_of(progress, 80)) <= 80
        assert line_of(progress)


@pytest.mark.parametrize(
    ("left_s", "words"),
    [
        ((0.0, 9.9), "under 10 s"),
        ((49.0, 77.0), "49 to 77 s"),
        ((30.2, 30.4), "about 30 s"),
        ((40.0, 300.0), "40 s to 5 min"),
        ((600.0, 900.0), "10 to 15 min"),
        ((7200.0, 9000.0), "2 h 0 min to 2 h 30 min"),
        ((3600.0, 1e9), "1 h 0 min to over 30 days"),
        ((1e9, 1e10), "over 30 days"),
    ],
)
def test_times_left_in_words(left_s: tuple[float, float], words: str) -> None:
    assert left_in_words(left_s) == words
    assert in_words(-3) == "0 s"


def test_a_terminal_shows_one_frame_that_is_renewed() -> None:
    err = Terminal()
    view = LiveView(console_of(err))
    for n in range(1, 6):
        view.show(replace(PROGRESS, n_tried=n, last_failure="" if n < 3 else "x"))
        n_written = len(err.getvalue())
        view.show(replace(PROGRESS, n_tried=n, last_failure="" if n < 3 else "x"))
        assert len(err.getvalue()) == n_written, "what is the same is not written again"
    view.end(replace(PROGRESS, n_tried=9, stage="ended"))
    view.end(replace(PROGRESS, n_tried=10))
    screen = Emulator(err.getvalue())
    assert [line[:7] for line in screen.lines].count("prompts") == 1
    assert "prompts  9 tried, 3 accepted" in screen.text
    assert screen.lines[-1] == "", "the cursor stands below the last line"
    assert "\x1b[33m" in err.getvalue()


def test_a_note_above_leaves_the_frame_whole() -> None:
    err = Terminal()
    console = console_of(err)
    view = LiveView(console)
    view.show(PROGRESS)
    console.print("stopping: waiting")
    view.show(replace(PROGRESS, n_tried=15))
    view.end(None)
    lines = Emulator(err.getvalue()).lines
    assert lines[0] == "stopping: waiting"
    assert [line.split()[0] for line in lines[1:-1]].count("prompts") == 1
    assert "prompts  15 tried, 3 accepted" in lines


def test_colours_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    err = Terminal()
    view = LiveView(console_of(err))
    view.show(PROGRESS)
    view.end(PROGRESS)
    assert "\x1b[33m" not in err.getvalue()
    assert "14 tried" in Emulator(err.getvalue()).text


@pytest.mark.parametrize("how", ["dumb", "forced", "pipe", "not interactive"])
def test_what_is_no_terminal_gets_lines(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif how == "forced":
        monkeypatch.setenv("FORCE_COLOR", "1")
    elif how == "not interactive":
        monkeypatch.setenv("TTY_INTERACTIVE", "0")
    err = Terminal() if how in ("dumb", "not interactive") else io.StringIO()
    view = LiveView(console_of(err))
    for n in range(50):
        view.show(replace(PROGRESS, n_tried=n))
    view.end(replace(PROGRESS, stage="ended", n_tried=51))
    assert err.getvalue().count("\n") == 1, "so soon after the start only the end is told"
    assert "51 prompts tried" in err.getvalue()
    assert "\x1b" not in err.getvalue()
    assert "\r" not in err.getvalue()


def test_lines_come_less_often_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("promptopt.screen_live.time.monotonic", lambda: now)
    err = io.StringIO()
    view = LiveView(console_of(err))
    for tick in range(4 * 3600):
        now = tick / 4
        view.show(replace(PROGRESS, elapsed_s=now))
    assert 25 <= err.getvalue().count("\n") <= 90
    view.show(replace(PROGRESS, elapsed_s=now), note="no news for 9 s")
    now += 60
    view.show(replace(PROGRESS, elapsed_s=now), note="no news for 70 s")
    assert err.getvalue().endswith("no news for 70 s\n")


# On a real terminal -----------------------------------------------------------------------------------


def optimize_words(folder: Path, *more: object) -> list[object]:
    words = ["--data", "support", "--model", "sim", "--optimizer", "capo", "--budget-calls", 200, "--out", folder]
    return [COMMAND, "optimize", SUPPORT, *words, *more]


def test_optimize_on_a_terminal_ends_with_one_frame(tmp_path: Path) -> None:
    done = OnTerminal(optimize_words(tmp_path / "run"), env={}, size=(60, 30))
    assert done.finish() == 0
    screen = Emulator(done.written)
    starts = [line.split(" ")[0] for line in screen.lines]
    assert screen.text.count("SIMULATED MODEL  ended: capo on support, sim") == 1
    assert starts.count("calls") == starts.count("answers") == 1
    assert starts.index("answers") < screen.lines.index(
        "SIMULATED MODEL: these figures say nothing about a real one."
    )


def test_stderr_in_a_pipe_gets_lines_though_stdout_is_a_terminal(tmp_path: Path) -> None:
    done = OnTerminal(optimize_words(tmp_path / "run"), env={}, stderr=subprocess.PIPE)
    assert done.process.stderr is not None
    with done.process.stderr:
        said = done.process.stderr.read().decode()
    assert done.finish() == 0
    assert "\x1b" not in said
    assert "\r" not in said
    assert "SIMULATED MODEL | ended | " in said.splitlines()[-1]
    assert "SIMULATED MODEL" in done.written


def test_json_shows_no_progress(tmp_path: Path) -> None:
    done = OnTerminal(optimize_words(tmp_path / "run", "--json"), env={})
    assert done.finish() == 0
    assert json.loads(done.written)["models"]["task"]["is_simulated"] is True
