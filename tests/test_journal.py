"""The journal gives back what was written, commits in groups, and fails loudly."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from promptopt.errors import JournalError
from promptopt.journal import APPLICATION_ID, SCHEMA_VERSION, Journal, Step
from promptopt.types import Candidate, Demo, Prompt, Response, Usage

ODD_TEXT = "naïve 🙂 \x00 \r\n 'quoted' \u2028 end"


def commit(journal: Journal) -> None:
    async def run() -> None:
        async with asyncio.timeout(5):
            await journal.committed()

    asyncio.run(run())


def fetch(path: Path, sql: str, *values: Any) -> list[Any]:
    """Read through a second connection: sees what is committed only."""
    db = sqlite3.connect(path)
    try:
        return db.execute(sql, values).fetchall()
    finally:
        db.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


# Round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        Response("red", Usage(10, 5, 3, 2), Decimal("0.00012345678901234567"), 0.25, "length"),
        Response(ODD_TEXT, Usage(0, 0), Decimal(0)),
        Response("", None, None, logprobs=(("red", -0.1), (" blue", -2.5))),
        Response("known tokens, unknown price", Usage(1, 2), None, logprobs=()),
    ],
    ids=["all", "odd text, free", "nothing known", "no price"],
)
def test_answer_comes_back_as_it_was(path: Path, response: Response) -> None:
    with Journal(path) as journal:
        journal.add_answer(b"key", "m", response, None)
        commit(journal)
        assert journal.answer(b"key") == response
        assert journal.answer(b"other") is None
    with Journal(path) as again:
        assert again.answer(b"key") == response


def test_unknown_is_none_and_never_zero(path: Path) -> None:
    with Journal(path) as journal:
        journal.add_answer(b"unknown", "m", Response("a", None, None), None)
        journal.add_answer(b"free", "m", Response("a", Usage(0, 0), Decimal(0)), None)
        commit(journal)
        unknown, free = journal.answer(b"unknown"), journal.answer(b"free")
    assert unknown is not None
    assert (unknown.usage, unknown.cost_usd) == (None, None)
    assert free is not None
    assert (free.usage, free.cost_usd) == (Usage(0, 0), Decimal(0))


def test_the_first_answer_of_a_key_stays(path: Path) -> None:
    with Journal(path) as journal:
        for text in ("first", "second"):
            journal.add_answer(b"key", "m", Response(text, None, None), None)
        commit(journal)
        answer = journal.answer(b"key")
    assert answer is not None
    assert answer.text == "first"


def test_candidates_come_back_in_the_order_of_birth(path: Path) -> None:
    prompt = Prompt(ODD_TEXT, (Demo((("input", "{x}"), ("more", "é")), "out"), Demo((), "")))
    first = Candidate(prompt, ("a", "b"), "crossover", "a note")
    second = Candidate(Prompt("second"))
    with Journal(path) as journal:
        journal.add_candidate(second, 1)
        journal.add_candidate(first, 0)
        journal.add_candidate(Candidate(prompt, ("other",), "mutation"), 7)
        commit(journal)
        assert list(journal.candidates()) == [first, second]
        assert [candidate.id for candidate in journal.candidates()] == [first.id, second.id]


def test_steps_hold_the_request_of_a_place(path: Path) -> None:
    step = Step("0/1", 2, 3)
    with Journal(path) as journal:
        assert journal.step_digest(step) is None
        journal.add_step(step, "abc")
        commit(journal)
        assert journal.step_digest(step) == "abc"
        for other in (Step("0/2", 2, 3), Step("0/1", 1, 3), Step("0/1", 2, 4)):
            assert journal.step_digest(other) is None


def test_events_come_back_in_path_order_and_are_told_once(path: Path) -> None:
    with Journal(path) as journal:
        journal.add_event("proposal", "1", 0, {"n": 2, "cost": Decimal("0.5"), "text": ODD_TEXT})
        journal.add_event("proposal", "0", 1, {"n": 1})
        journal.add_event("proposal", "0", 0, {"n": 0})
        journal.add_event("other", "0", 0, {"n": 9})
        journal.add_event("proposal", "0", 0, {"n": "told again"})
        commit(journal)
        events = journal.events("proposal")
    assert [event["n"] for event in events] == [0, 1, 2]
    assert events[2]["text"] == ODD_TEXT


def test_evaluations_uses_and_sessions_are_stored(path: Path) -> None:
    with Journal(path) as journal:
        journal.add_answer(b"key", "m", Response("a", None, None), "the request")
        for _ in range(2):
            journal.add_use(b"key", "task", "search", "0/1")
        journal.add_evaluation(*("c", "e", 0), value=0.5, is_parsed=True, feedback="why", cause=None, key=b"key")
        commit(journal)
    assert fetch(path, "SELECT role, phase, path FROM uses") == [("task", "search", "0/1")]
    assert fetch(path, "SELECT request FROM answers") == [("the request",)]
    row = fetch(
        path, "SELECT candidate_id, example_id, repeat, value, is_parsed, feedback, cause FROM evaluations"
    )
    assert row == [("c", "e", 0, 0.5, 1, "why", None)]


def test_elapsed_time_adds_up_over_sessions(path: Path) -> None:
    for seconds in (1.5, 2.25):
        with Journal(path) as journal:
            journal.set_elapsed(journal.start_session("2026-01-01T00:00:00+00:00"), seconds)
    with Journal(path) as journal:
        assert journal.elapsed_s() == 3.75


def test_configuration_is_kept(path: Path) -> None:
    config = {"b": [1, None, "é"], "a": {"x": True}}
    with Journal(path) as journal:
        assert journal.config() == {}
        journal.set_config(config)
    with Journal(path) as journal:
        assert journal.config() == config


def test_attempts_without_an_outcome_become_lost(path: Path) -> None:
    with Journal(path) as journal:
        journal.start_session("then")
        assert journal.next_attempt_id() == 1
        for i in (1, 2, 3):
            journal.start_attempt(i, b"key", "task")
        journal.end_attempt(1, "ok")
        journal.end_attempt(2, "RateLimited", "slow down")
        commit(journal)
        assert journal.attempt_counts() == {"ok": 1, "RateLimited": 1, "in flight": 1}
    with Journal(path) as journal:
        journal.start_session("now")
        assert journal.attempt_counts() == {"ok": 1, "RateLimited": 1, "lost": 1}
        assert journal.next_attempt_id() == 4


def test_a_raised_budget_starts_an_epoch_with_new_places(path: Path) -> None:
    step = Step("", 0, 0)
    with Journal(path) as journal:
        journal.add_step(step, "before")
        commit(journal)
        journal.raise_budget({"calls": 1}, {"calls": 2})
        assert journal.step_digest(step) is None
        journal.add_step(step, "after")
        commit(journal)
    with Journal(path) as journal:
        assert journal.step_digest(step) == "after"
        assert journal.events("budget raised") == [{"before": {"calls": 1}, "after": {"calls": 2}, "answers": 0}]
        journal.raise_budget({"calls": 2}, {"calls": 3})
    with Journal(path) as journal:
        assert len(journal.events("budget raised")) == 2
        assert journal.step_digest(step) is None


def test_two_runs_in_one_file_share_answers_only(path: Path) -> None:
    with Journal(path, "one") as one:
        one.add_answer(b"key", "m", Response("a", None, None), None)
        one.add_event("proposal", "", 0, {})
        one.set_config({"n": 1})
    with Journal(path, "two") as two:
        assert two.answer(b"key") is not None
        assert two.events("proposal") == []
        assert two.config() == {}


def test_memory_journal_needs_no_file() -> None:
    with Journal(None) as journal:
        journal.add_answer(b"key", "m", Response("a", None, None), None)
        commit(journal)
        assert journal.answer(b"key") is not None


@pytest.mark.parametrize("text", ["half \ud83d a pair", "\udcff"])
def test_text_that_utf8_cannot_hold_is_stored_with_a_mark(path: Path, text: str) -> None:
    with Journal(path) as journal:
        journal.add_answer(b"key", "m", Response(text, None, None), None)
        journal.add_event("candidate refused", "", 0, {"instruction": text})
        commit(journal)
        answer = journal.answer(b"key")
        assert answer is not None
        assert answer.text == text.encode("utf-8", "replace").decode()
        assert len(journal.events("candidate refused")) == 1


# Files that are no journal ------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(JournalError) as caught:
        Journal(path)
    assert "another --out folder" in str(caught.value)
    return str(caught.value)


def test_foreign_database_is_refused_and_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE runs (name TEXT)")
    db.close()
    before = path.read_bytes()
    assert "another program" in refused(path)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*-wal"))


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
def test_other_version_is_refused(path: Path, version: int) -> None:
    Journal(path).close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
    assert f"version {version}, this program reads {SCHEMA_VERSION}" in refused(path)


def test_text_file_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("this is no database " * 100)
    assert "not a database" in refused(path)
    assert path.read_text() == "this is no database " * 100


def test_torn_database_is_refused(path: Path) -> None:
    with Journal(path) as journal:
        journal.set_config({"a": 1})
    path.write_bytes(path.read_bytes()[:3000])
    refused(path)


def test_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    refused(path)


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid():
        tmp_path.chmod(0o500)
        refused(tmp_path / "journal.db")
        tmp_path.chmod(0o700)
    refused(Path("/proc/journal.db") if Path("/proc").is_dir() else tmp_path / "absent" / "journal.db")
    refused(tmp_path / "absent" / "journal.db")


# Commits -----------------------------------------------------------------------------------------


def test_many_writers_share_one_commit(path: Path) -> None:
    statements: list[str] = []

    async def write(journal: Journal, i: int) -> None:
        journal.add_answer(b"%d" % i, "m", Response(str(i), None, None), None)
        await journal.committed()
        assert fetch(path, "SELECT text FROM answers WHERE key = ?", b"%d" % i) == [(str(i),)]

    async def run() -> None:
        with Journal(path) as journal:
            journal._db.set_trace_callback(statements.append)
            async with asyncio.timeout(10):
                await asyncio.gather(*(write(journal, i) for i in range(100)))
            assert statements.count("COMMIT") == 1
            await journal.committed()
            assert statements.count("COMMIT") == 1, "nothing was pending"
            await write(journal, 100)
            assert statements.count("COMMIT") == 2

    asyncio.run(run())


def test_nothing_is_in_the_file_before_the_commit_and_closing_commits(path: Path) -> None:
    with Journal(path) as journal:
        journal.add_event("proposal", "", 0, {})
        assert fetch(path, "SELECT COUNT(*) FROM events") == [(0,)]
    assert fetch(path, "SELECT COUNT(*) FROM events") == [(1,)]


def test_readers_see_data_while_the_run_goes_on(path: Path) -> None:
    with Journal(path) as journal:
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        for i in range(5):
            journal.add_answer(b"%d" % i, "m", Response("a", None, None), None)
            commit(journal)
            assert reader.execute("SELECT COUNT(*) FROM answers").fetchone() == (i + 1,)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM answers").fetchone()  # a reader that dawdles stops no writer
        journal.add_answer(b"more", "m", Response("a", None, None), None)
        commit(journal)
        reader.close()


# Failures ----------------------------------------------------------------------------------------


def fill_disk(journal: Journal) -> None:
    n_pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {n_pages}")


def test_full_disk_reaches_every_waiter_and_leaves_nothing_half_written(path: Path) -> None:
    async def write(journal: Journal, i: int) -> None:
        journal.add_event("proposal", "", i, {})
        journal.add_answer(b"%d" % i, "m", Response("x" * 20_000, None, None), None)
        await journal.committed()

    async def run() -> None:
        with Journal(path) as journal:
            await write(journal, 0)
            fill_disk(journal)
            async with asyncio.timeout(5):
                outcomes = await asyncio.gather(*(write(journal, i) for i in range(1, 9)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [JournalError] * 8
            assert "full" in str(outcomes[0])
            assert "another --out folder" in str(outcomes[0])
            assert [journal.answer(b"%d" % i) is None for i in range(9)] == [False] + [True] * 8
            journal._db.execute("PRAGMA max_page_count = 1000000")
            await write(journal, 9)

    asyncio.run(run())
    assert fetch(path, "SELECT COUNT(*) FROM answers") == [(2,)]
    assert fetch(path, "SELECT number FROM events ORDER BY number") == [(0,), (9,)]
    assert fetch(path, "PRAGMA integrity_check") == [("ok",)]


def test_value_that_cannot_be_stored_reaches_the_waiters(path: Path) -> None:
    async def run() -> None:
        with Journal(path) as journal:
            journal.add_answer(b"a", "m", Response("a", Usage(2**70, 1), None), None)
            async with asyncio.timeout(5):
                with pytest.raises(JournalError):
                    await journal.committed()
                journal.add_answer(b"b", "m", Response("b", None, None), None)
                await journal.committed()
            assert journal.answer(b"b") is not None

    asyncio.run(run())


def test_writing_to_a_closed_journal_is_an_error(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    journal.add_event("proposal", "", 0, {})
    with pytest.raises(JournalError):
        commit(journal)
    with pytest.raises(JournalError):
        journal.answer(b"key")
