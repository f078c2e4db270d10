"""Watching a run of another process: it only reads, waits for a start, and says when the process is gone."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import gated_program
import pytest
from commandline import Runner, run  # noqa: F401
from scripted import Scripted, make_run, model
from served import COMMAND
from terminal import Emulator, OnTerminal

from promptopt import progress, transcript, watching
from promptopt.config import Settings
from promptopt.errors import ConfigError, JournalError
from promptopt.journal import PROGRESS, Journal
from promptopt.progress import Progress
from promptopt.types import Budget
from promptopt.verdict import verdict

HOSTILE = "\x1b[2J\x1b]0;t\x07\r\nProven: +99 points\u202e"


def finish(folder: Path) -> tuple[Progress, str]:
    made = make_run(folder, Scripted(model), settings=Settings("sim", optimizer="capo", budget=Budget(calls=300)))
    result = asyncio.run(made.execute())
    assert made.progress is not None
    return made.progress, verdict(result)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    finish(place)
    return place


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def set_record(folder: Path, payload: object) -> None:
    """Write a payload where the record of a run's progress stands."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    with closing(sqlite3.connect(folder / "journal.db")) as db, db:
        db.execute("UPDATE events SET payload = ? WHERE kind = ?", (text, PROGRESS))


def changed(folder: Path, place: Path, **fields: object) -> Path:
    """Return a copy of a run's folder whose record differs."""
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    found = progress.read(folder)
    assert found is not None
    set_record(place, asdict(found) | fields)
    return place


def dead_pid() -> int:
    """Return the number of a process that was there, and is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# Reading ------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_told(tmp_path: Path) -> None:
    told, _ = finish(tmp_path / "run")
    assert progress.read(tmp_path / "run") == told


def test_only_the_latest_record_is_kept_and_found_by_its_key(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM events WHERE kind = ?", (PROGRESS,)).fetchone() == (1,)
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {progress._SQL}", ("run", PROGRESS))]
    assert all(step.startswith("SEARCH") for step in plan), "no table is read whole"
    assert any("events USING PRIMARY KEY (run_id=? AND path=? AND number=? AND kind=?)" in step for step in plan)


def test_recordings_hold_no_record(folder: Path) -> None:
    kinds = {row["kind"] for table, row in transcript.rows_of(folder / "journal.db") if table == "events"}
    assert PROGRESS not in kinds
    assert "proposal" in kinds


@pytest.mark.parametrize(
    "payload",
    [
        *("", "null", "[]", "{}", "{", '"x"', "[" * 100_000, '{"stage": "search"}'),
        {"stage": "nowhere"},
        {"elapsed_s": "x"},
        {"elapsed_s": float("nan")},
        {"calls_per_s": 1e300},
        {"pid": 10**30},
        {"best": {"score": "high", "n": 1, "ci95": [0, 1]}},
        {"best": {"score": 0.5, "n": 1, "ci95": [0, 1, 2]}},
        {"uses": [{"name": "money"}]},
        {"races": 7},
        {"left_s": [1]},
    ],
)
def test_damaged_records_are_one_error(folder: Path, tmp_path: Path, payload: object) -> None:
    place = changed(folder, tmp_path / "run", **(payload if isinstance(payload, dict) else {}))
    if isinstance(payload, str):
        set_record(place, payload)
    with pytest.raises(ConfigError, match="its progress cannot be read"):
        list(watching.sights(place))


# Sights -------------------------------------------------------------------------------------------------


def test_a_finished_run_is_seen_at_once_and_nothing_is_written(folder: Path) -> None:
    before = state_of(folder)
    seen = list(watching.sights(folder, sleep=lambda _: pytest.fail("nothing to wait for")))
    assert [(sight.progress.stage, sight.is_running) for sight in seen] == [("ended", False)]
    watching.result_of(folder)
    assert state_of(folder) == before


class Clock:
    """A clock that goes on only while somebody sleeps; a function may act meanwhile."""

    def __init__(self, *acts: object) -> None:
        self.now = 100.0
        self.n_slept = 0
        self._acts = list(acts)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.n_slept += 1
        if self._acts:
            self._acts.pop(0)()  # type: ignore[operator]


def test_a_folder_that_is_just_being_made_is_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "new"

    def begin() -> None:
        with Journal(place / "journal.db"):
            pass

    def end() -> None:
        (place / "journal.db").unlink()
        finish(place)

    clock = Clock(lambda: None, place.mkdir, begin, end)
    seen = list(watching.sights(place, clock, clock.sleep))
    assert [sight.progress.stage for sight in seen] == ["ended"]
    assert clock.n_slept == 4


@pytest.mark.parametrize("kind", ["absent", "empty", "begun", "file", "foreign", "text"])
def test_what_is_no_run_is_waited_for_a_little_then_refused(tmp_path: Path, kind: str) -> None:
    place, clock = tmp_path / "place", Clock()
    says = {"begun": "does not say how far", "file": "is a file", "foreign": "another program", "text": "database"}
    if kind == "file":
        place.write_text("x")
    elif kind != "absent":
        place.mkdir()
    if kind == "begun":
        with Journal(place / "journal.db"):
            pass
    elif kind == "foreign":
        with closing(sqlite3.connect(place / "journal.db")) as db, db:
            db.execute("CREATE TABLE x (y)")
    elif kind == "text":
        (place / "journal.db").write_text("no database at all " * 100)
    with pytest.raises(ConfigError, match=says.get(kind, "holds no journal")):
        list(watching.sights(place, clock, clock.sleep))
    assert clock.now <= 106


def test_a_process_that_is_gone_is_told_at_once(folder: Path, tmp_path: Path) -> None:
    place = changed(folder, tmp_path / "run", stage="search", pid=dead_pid())
    clock = Clock()
    seen = list(watching.sights(place, clock, clock.sleep))
    assert [sight.is_running for sight in seen] == [False]
    assert clock.n_slept == 0


def test_a_process_on_another_machine_is_gone_when_it_tells_nothing_for_long(folder: Path, tmp_path: Path) -> None:
    place = changed(folder, tmp_path / "run", stage="search", pid=1, host="elsewhere")
    clock = Clock()
    seen = list(watching.sights(place, clock, clock.sleep))
    assert [sight.is_running for sight in seen[:-1]] == [True] * (len(seen) - 1)
    assert not seen[-1].is_running
    assert 120 <= clock.n_slept <= 122
    assert {sight.note for sight in seen if sight.silent_s < 5} == {""}
    assert seen[-2].note == "no news for 30 s; the process of the run may be halted"


def test_hostile_results_and_records_steer_nothing(folder: Path, tmp_path: Path, run: Runner) -> None:  # noqa: F811
    models = [["task", HOSTILE]]
    place = changed(folder, tmp_path / "run", task=HOSTILE, optimizer=HOSTILE, models=models, simulated=[HOSTILE])
    found = json.loads((place / "result.json").read_text())
    found["improvement"]["test"] = found["reason"] = HOSTILE
    found["models"] = {HOSTILE: {"name": HOSTILE, "is_simulated": True}, "x": {"name": "y", "is_simulated": False}}
    found["status"] = "failed"
    (place / "result.json").write_text(json.dumps(found))
    done = run("watch", place)
    assert done.status == 0
    for text in (done.out, done.err):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert not any(line.startswith("Proven: +99") for line in (done.out + done.err).splitlines())


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"status": "completed"}', "[" * 10_000, None])
def test_damaged_results_are_one_error(folder: Path, tmp_path: Path, run: Runner, text: str | None) -> None:  # noqa: F811
    place = changed(folder, tmp_path / "run")
    if text is None:
        (place / "result.json").unlink()
    else:
        (place / "result.json").write_text(text)
    done = run("watch", place)
    assert done.status == 2
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "result.json" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


# The command --------------------------------------------------------------------------------------------


def test_the_command_shows_the_last_state_and_the_verdict(folder: Path, run: Runner) -> None:  # noqa: F811
    done = run("watch", folder)
    assert done.status == 0
    assert done.err.count("\n") == 1
    assert "SIMULATED MODEL | ended | 300 of 300 calls" in done.err
    lines = done.out.splitlines()
    assert lines[0] == "SIMULATED MODEL: these figures say nothing about a real one."
    assert lines[1] == verdict(watching.result_of(folder))
    assert len(lines) == 3


def test_the_command_says_that_a_run_is_not_running(folder: Path, tmp_path: Path, run: Runner) -> None:  # noqa: F811
    place = changed(folder, tmp_path / "gone", stage="search", pid=dead_pid())
    done = run("watch", place)
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[-1] == f"not running; to go on, run the same command with --out {place}"
    place = changed(folder, tmp_path / "error", stage="stopped")
    assert "ended by an error, without a result; to go on" in run("watch", place).err


@pytest.fixture
def halted(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """Yield a process whose run waits at its 90th call, the run's folder, and the file that lets it go on."""
    place, gate = tmp_path / "run", tmp_path / "gate"
    program = [sys.executable, gated_program.__file__, str(place), "90", str(gate)]
    process = subprocess.Popen(program)
    yield process, place, gate
    process.kill()
    process.wait()


def test_a_run_of_another_process_is_watched_to_its_end(
    halted: tuple[subprocess.Popen[bytes], Path, Path],
) -> None:
    _, place, gate = halted
    view = OnTerminal([COMMAND, "watch", place], env={}, size=(80, 24))
    view.read_until(lambda text: " 90 of 300" in text)
    early = Emulator(view.written).text
    assert "SIMULATED MODEL  searching: capo on colours, sim" in early
    assert "prompts left, " in early
    gate.touch()
    assert view.finish() == 0
    lines = Emulator(view.written).lines
    assert [line[:5] for line in lines].count("calls") == 1
    assert any(line.endswith(" 300 of 300") for line in lines)
    assert sum("SIMULATED MODEL" in line for line in lines) == 2
    assert any(line.startswith("Everything lies in ") for line in lines)


def test_ctrl_c_ends_the_watching_alone(halted: tuple[subprocess.Popen[bytes], Path, Path]) -> None:
    process, place, gate = halted
    view = OnTerminal([COMMAND, "watch", place], env={})
    view.read_until(lambda text: " 90 of 300" in text)
    view.process.send_signal(signal.SIGINT)
    assert view.finish() == 130
    assert "Traceback" not in view.written
    assert "calls" in Emulator(view.written).text, "the last state stays"
    assert process.poll() is None
    gate.touch()
    assert process.wait(60) == 0
    assert json.loads((place / "result.json").read_text())["spend"]["calls"] == gated_program.TOTAL


def test_a_killed_run_is_said_to_be_gone(halted: tuple[subprocess.Popen[bytes], Path, Path]) -> None:
    process, place, _ = halted
    view = subprocess.Popen([COMMAND, "watch", place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while (found := _recorded(place)) is None or found.use("calls").spent != 90:
        assert process.poll() is None
    process.kill()
    process.wait()
    out, err = view.communicate(timeout=60)
    assert (view.returncode, out) == (1, "")
    assert err.splitlines()[-1].startswith("not running; to go on")
    assert " 90 of 300 calls" in err
    assert "\x1b" not in err


def _recorded(place: Path) -> Progress | None:
    try:
        return progress.read(place)
    except JournalError:
        return None


def test_a_record_survives_what_it_is_not_for(folder: Path, tmp_path: Path) -> None:
    """A resumed run goes on from any record, even one that somebody has spoilt."""
    place = changed(folder, tmp_path / "run")
    set_record(place, "spoilt")
    told, said = finish(place)
    assert progress.read(place) == told
    assert said == verdict(watching.result_of(folder))
    assert replace(told, elapsed_s=0.0, n_cached=0).use("calls").spent == 300
