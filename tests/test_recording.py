"""Recordings hold what they were made of, nothing that can run, and refuse what was made by others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from commandline import Runner, run  # noqa: F401  # a fixture
from scripted import Scripted, make_run, model

from promptopt import recording
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.facts import Facts
from promptopt.recording import Recording
from promptopt.replaying import Replaying
from promptopt.tape import Recorded, Tape
from promptopt.types import Budget, Message, Response, Usage

Line = dict[str, Any]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """Return the lines of a recording of a run."""
    folder = tmp_path_factory.mktemp("recorded")
    settings = Settings(model="sim", budget=Budget(calls=160), optimizer="capo", seed=3)
    asyncio.run(make_run(folder / "run", Scripted(model), settings=settings).execute())
    recording.write(recording.of_run(folder / "run"), folder / "it.jsonl")
    return [json.loads(line) for line in (folder / "it.jsonl").read_text(encoding="utf-8").splitlines()]


def written(folder: Path, lines: list[Line]) -> Path:
    path = folder / "it.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_holds_what_every_answer_answers(lines: list[Line]) -> None:
    answers = [line["answers"] for line in lines if "answers" in line]
    assert len(answers) == next(line["result"] for line in lines if "result" in line)["spend"]["calls"]
    assert all(row["request"] for row in answers)
    asked = {row["request"][-1][1] for row in answers}
    assert "item number 100" in asked


def test_what_a_tape_heard_is_read_back(tmp_path: Path) -> None:
    answer = Response("red\ud800", Usage(3, 2, 1, 1), Decimal("0.0000015"), 1.23456, "length", (("red", -0.1),))
    said = (Message("system", "a"), Message("user", 'b "\n\x00'))
    calls = {
        "a" * 32: Recorded("m", answer, messages=said),
        "b" * 32: Recorded("m", None, ("ContextTooLong", "too long"), said),
        "c" * 32: Recorded("n", Response("", None, None)),
    }
    facts = {"q": Facts(Decimal("1e-6"), Decimal("2e-6"), sees_images=None)}
    tape = Tape("new", facts=facts, taped=calls)
    recording.write(recording.of_tape(tape, "it", keeps_all=True), tmp_path / "it.jsonl")
    found = recording.read(tmp_path / "it.jsonl")
    assert found.facts == facts
    kept = found.calls()
    assert kept["b" * 32] == calls["b" * 32]
    assert kept["c" * 32] == calls["c" * 32]
    first = kept["a" * 32].answer
    assert first is not None
    assert (first.text, first.usage, first.cost_usd) == ("red?", answer.usage, answer.cost_usd)
    assert (first.finish_reason, first.logprobs) == ("length", (("red", -0.1),))


def test_the_same_calls_give_the_same_file_whatever_their_order(tmp_path: Path) -> None:
    rows = [(f"{i:032x}", Recorded("m", Response(f"answer {i}", None, None))) for i in range(9)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        tape = Tape("all", taped=dict(order))
        recording.write(recording.of_tape(tape, "it", keeps_all=False), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def change(lines: list[Line], kind: str, **fields: Any) -> list[Line]:
    """Return the lines with fields of the first line of a kind changed."""
    i = next(i for i, line in enumerate(lines) if kind in line)
    return [*lines[:i], {kind: {**lines[i][kind], **fields}}, *lines[i + 1 :]]


def change_event(lines: list[Line], kind: str, **fields: Any) -> list[Line]:
    """Return the lines with fields of the payload of an event changed."""
    i = next(i for i, line in enumerate(lines) if line.get("events", {}).get("kind") == kind)
    event = lines[i]["events"]
    return [*lines[:i], {"events": {**event, "payload": {**event["payload"], **fields}}}, *lines[i + 1 :]]


def add_event(lines: list[Line], kind: str, payload: Any, path: str = "x") -> list[Line]:
    return [*lines, {"events": {"path": path, "number": 0, "kind": kind, "payload": payload}}]


HOSTILE: dict[str, tuple[Callable[[list[Line]], list[Line]], str]] = {
    "no header": (lambda lines: lines[1:], "no recording"),
    "another form": (lambda lines: [{"promptopt_recording": 2}, *lines[1:]], "form 2, this version reads 1"),
    "no lines": (lambda lines: [], "is empty"),
    "a header alone": (lambda lines: lines[:1], "is empty"),
    "an unknown kind": (lambda lines: [*lines, {"code": "import os"}], "'code'"),
    "two things in a line": (lambda lines: [*lines, {"answers": {}, "uses": {}}], "several things"),
    "a field too many": (lambda lines: change(lines, "answers", shell="rm"), "other fields"),
    "a key that is none": (lambda lines: change(lines, "answers", key="../../x"), "key '../../x'"),
    "a cost that is no number": (lambda lines: change(lines, "answers", cost_usd="NaN"), "cost_usd"),
    "tokens below nothing": (lambda lines: change(lines, "answers", input_tokens=-5), "input_tokens"),
    "tokens beyond all bounds": (lambda lines: change(lines, "answers", input_tokens=10**30), "input_tokens"),
    "a text that is a list": (lambda lines: change(lines, "answers", text=["x"]), "text"),
    "a request of numbers": (lambda lines: change(lines, "answers", request=[[1, 2]]), "request"),
    "an unknown role": (lambda lines: change(lines, "uses", role="admin"), "role 'admin'"),
    "demonstrations of another form": (lambda lines: change(lines, "candidates", demos=[[1]]), "demos"),
    "an answer that stands twice": (
        lambda lines: [*lines, next(line for line in lines if "answers" in line)],
        "cannot be taken",
    ),
    "a gap that names a function": (
        lambda lines: add_event(lines, "gaps", {"a" * 32: ["nearest", "x"]}),
        "kind 'gaps'",
    ),
    "a gap that names no key": (
        lambda lines: add_event(lines, "gaps", {"x": ["CallRefused", "x"]}),
        "kind 'gaps'",
    ),
    "a size that is a text": (lambda lines: change_event(lines, "size", n_calls="many"), "kind 'size'"),
    "a raise without a number": (lambda lines: add_event(lines, "budget raised", {}), "kind 'budget raised'"),
    "a refusal that does not exist": (
        lambda lines: [
            *lines,
            {"refusal": {"key": "a", "model": "m", "error": ["SystemExit", "x"], "request": None}},
        ],
        "'SystemExit'",
    ),
    "facts that are none": (lambda lines: [*lines, {"facts": {"q": {"price_in": "free"}}}], "facts"),
    "a result that is a list": (lambda lines: [*lines, {"result": []}], "result"),
    "no brief": (
        lambda lines: [line for line in lines if line.get("events", {}).get("kind") != "brief"],
        "does not say what a run was given",
    ),
    "no settings": (
        lambda lines: [line for line in lines if line.get("events", {}).get("kind") != "settings"],
        "which settings",
    ),
    "rows that are texts": (
        lambda lines: change_event(lines, "brief", rows={"train": ["x"], "dev": [], "test": []}),
        "rows is str",
    ),
    "no rows": (lambda lines: change_event(lines, "brief", rows={}), "train is NoneType"),
    "an unknown setting": (lambda lines: change_event(lines, "settings", shell="sh"), "'shell'"),
    "a budget that is a text": (lambda lines: change_event(lines, "settings", budget="all"), "settings"),
    "a concurrency of a million": (
        lambda lines: change_event(lines, "settings", concurrency=10**6),
        "concurrency",
    ),
    "a strategy of a file": (
        lambda lines: change_event(lines, "settings", optimizer="evil.py:Evil"),
        "code is never taken from a recording",
    ),
    "a strategy of a module": (
        lambda lines: change_event(lines, "settings", optimizer="evil:Evil"),
        "code is never taken from a recording",
    ),
    "a metric of a file": (
        lambda lines: change_event(lines, "brief", metric="evil.py:Evil"),
        "code is never taken from a recording",
    ),
    "a metric of a module": (
        lambda lines: change_event(lines, "brief", metric="evil:Evil"),
        "code is never taken from a recording",
    ),
    "a rubric of another place": (
        lambda lines: change_event(lines, "brief", metric="judge:/etc/passwd", metric_text=""),
        "no principle",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_what_no_run_wrote(
    tmp_path: Path,
    lines: list[Line],
    name: str,
    run: Runner,  # noqa: F811
) -> None:
    spoil, says = HOSTILE[name]
    for file in ("evil.py",):
        (tmp_path / file).write_text("from pathlib import Path\nPath('ran').touch()\nclass Evil: ...\n")
    path = written(tmp_path, spoil(lines))
    before = sorted(tmp_path.iterdir())
    done = run("replay", path)
    assert (done.status, done.out) == (2, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert sorted(tmp_path.iterdir()) == before, "nothing ran, nothing was written"


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'{"promptopt_recording": 1}\n{"answers": NaN}\n', b"\x00" * 1000],
    ids=["empty", "no UTF-8", "cut", "deep", "NaN", "NUL"],
)
def test_refuses_what_is_no_json(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "it.jsonl"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"it\.jsonl"):
        recording.read(path)


def test_cut_anywhere_it_is_refused_or_ends_as_it_should(tmp_path: Path, lines: list[Line]) -> None:
    whole = written(tmp_path, lines).read_bytes()
    for n in range(0, len(whole), len(whole) // 40):
        (tmp_path / "it.jsonl").write_bytes(whole[:n])
        with pytest.raises(ConfigError):
            asyncio.run(Replaying(tmp_path / "it.jsonl").execute())


def test_a_recording_that_cannot_be_written_leaves_nothing(tmp_path: Path, run: Runner) -> None:  # noqa: F811
    asyncio.run(
        make_run(
            tmp_path / "run", Scripted(model), settings=Settings(model="sim", budget=Budget(calls=160))
        ).execute()
    )
    (tmp_path / "taken").write_text("x")
    done = run("record", "run", "--out", "taken/it.jsonl")
    assert done.status == 1
    assert "cannot be written" in done.err
    assert (tmp_path / "taken").read_text() == "x"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no journal"):
        recording.of_run(tmp_path)
    assert Recording("x").calls() == {}
