"""The journal: one SQLite file in write-ahead mode that holds everything that was paid for.

It is the single source for resume, replay and reports. One process writes, any number may read.
Rows are gathered and committed together once per turn of the event loop; `await committed()` returns
when all that was written before is in the file. A killed process loses nothing that was committed; a
power failure may lose the last moments, never the consistency (SQLite's `synchronous=NORMAL`).

Tables: `answers` are content-addressed and may serve several runs; `uses` says which run used which
answer (a run is charged once for each); `steps` are the calls identified by place (path, ordinal,
item); `attempts` are live tries, failed and lost ones included; `evaluations`, `candidates` and
`events` describe the search.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any

from promptopt.errors import JournalError
from promptopt.types import Candidate, Demo, Message, Phase, Prompt, Response, Role, Usage

SCHEMA_VERSION = 1
APPLICATION_ID = 0x50524F50  # "PROP": marks the file as ours

# Kinds of events that hold what a run was given, and how it was set up.
BRIEF, SETTINGS = "brief", "settings"
# Kind of the one event that says how far the run is now; it hangs on time, and no run acts upon it.
PROGRESS = "progress"

_SCHEMA = """
CREATE TABLE runs (run_id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, config TEXT NOT NULL);
CREATE TABLE sessions (session_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, started_at TEXT NOT NULL,
    elapsed_s REAL NOT NULL DEFAULT 0);
CREATE TABLE answers (answer_id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, model TEXT NOT NULL,
    text TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER, cached_tokens INTEGER,
    reasoning_tokens INTEGER, cost_usd TEXT, latency_s REAL NOT NULL, finish_reason TEXT NOT NULL,
    logprobs TEXT, request TEXT);
CREATE TABLE uses (run_id INTEGER NOT NULL, answer_id INTEGER NOT NULL, role TEXT NOT NULL,
    phase TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (run_id, answer_id)) WITHOUT ROWID;
CREATE TABLE steps (run_id INTEGER NOT NULL, path TEXT NOT NULL, ordinal INTEGER NOT NULL,
    item INTEGER NOT NULL, epoch INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (run_id, path, ordinal, item)) WITHOUT ROWID;
CREATE TABLE attempts (attempt_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, key BLOB NOT NULL,
    role TEXT NOT NULL, outcome TEXT, message TEXT);
CREATE INDEX attempts_by_outcome ON attempts (run_id, outcome);
CREATE TABLE candidates (run_id INTEGER NOT NULL, candidate_id TEXT NOT NULL, birth INTEGER NOT NULL,
    instruction TEXT NOT NULL, demos TEXT NOT NULL, parents TEXT NOT NULL, operator TEXT NOT NULL,
    note TEXT NOT NULL, PRIMARY KEY (run_id, candidate_id)) WITHOUT ROWID;
CREATE TABLE evaluations (run_id INTEGER NOT NULL, candidate_id TEXT NOT NULL, example_id TEXT NOT NULL,
    repeat INTEGER NOT NULL, value REAL, is_parsed INTEGER NOT NULL, feedback TEXT, cause TEXT,
    key BLOB, PRIMARY KEY (run_id, candidate_id, example_id, repeat)) WITHOUT ROWID;
CREATE TABLE events (run_id INTEGER NOT NULL, path TEXT NOT NULL, number INTEGER NOT NULL,
    kind TEXT NOT NULL, payload TEXT NOT NULL, PRIMARY KEY (run_id, path, number, kind)) WITHOUT ROWID;
"""

_INSERT_ANSWER = """INSERT INTO answers (key, model, text, input_tokens, output_tokens, cached_tokens,
    reasoning_tokens, cost_usd, latency_s, finish_reason, logprobs, request) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
    ON CONFLICT (key) DO NOTHING"""
_SELECT_ANSWERS = """SELECT text, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd,
    latency_s, finish_reason, logprobs, key FROM answers WHERE key IN ({})"""
# Keys that one statement looks up; SQLite takes 999 parameters at least.
_MOST_KEYS = 500
# SQLite takes a shorter file for a new one, and writes over it.
_LEAST_BYTES = 512


@dataclass(frozen=True)
class Step:
    """The place of a call that is identified by place: branch path, ordinal in it, item of the batch."""

    path: str
    ordinal: int
    item: int


class Journal:
    """One run's view of a journal file; use as a context manager.

    Args:
        path: the file; created if absent. None keeps the journal in memory (nothing survives).
        run: name of the run within the file.

    Raises:
        JournalError: the file is foreign, of another version, damaged, or cannot be written.
    """

    def __init__(self, path: Path | None, run: str = "run") -> None:
        self.path = path
        self._pending: list[tuple[str, Sequence[Any]]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._is_scheduled = False
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._broken(error) from error
        try:
            self._open_schema()
            self._db.execute("INSERT OR IGNORE INTO runs (name, config) VALUES (?, '{}')", (run,))
            row = self._db.execute("SELECT run_id FROM runs WHERE name = ?", (run,)).fetchone()
            self.run_id: int = row[0]
            self._epoch = self._count_events("budget raised")
        except sqlite3.Error as error:
            self._db.close()
            raise self._broken(error) from error
        except JournalError:
            self._db.close()
            raise

    def __enter__(self) -> Journal:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what is pending and close the file."""
        self.close()

    def close(self) -> None:
        """Commit what is pending and close the file."""
        try:
            self._flush()
        finally:
            self._db.close()

    # Writing ------------------------------------------------------------------------------------

    async def committed(self) -> None:
        """Return when everything written so far is in the file.

        Raises:
            JournalError: it could not be committed (disk full, file gone).
        """
        if not self._pending:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.append(future)
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._flush_for_waiters)
        await future

    def start_attempt(self, attempt_id: int, key: bytes, role: str) -> None:
        """Note that a live call is about to be sent; without an outcome it was lost in flight."""
        self._write(
            "INSERT INTO attempts (attempt_id, run_id, key, role) VALUES (?,?,?,?)",
            (attempt_id, self.run_id, key, role),
        )

    def end_attempt(self, attempt_id: int, outcome: str, message: str = "") -> None:
        """Note how a live call ended: "ok", or the error's class with its message."""
        self._write(
            "UPDATE attempts SET outcome = ?, message = ? WHERE attempt_id = ?",
            (outcome, message, attempt_id),
        )

    def add_answer(self, key: bytes, model: str, response: Response, request: str | None) -> None:
        """Store an answer under its key; `request` is kept where a reader could not rebuild it."""
        usage = response.usage
        tokens = (
            (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
            if usage
            else (None,) * 4
        )
        cost = None if response.cost_usd is None else str(response.cost_usd)
        logprobs = None if response.logprobs is None else json.dumps(response.logprobs)
        ending = (cost, response.latency_s, response.finish_reason, logprobs, request)
        self._write(_INSERT_ANSWER, (key, model, response.text, *tokens, *ending))

    def add_use(self, key: bytes, role: str, phase: str, path: str) -> None:
        """Note that this run used the answer of `key`."""
        self._write(
            "INSERT OR IGNORE INTO uses SELECT ?, answer_id, ?, ?, ? FROM answers WHERE key = ?",
            (self.run_id, role, phase, path, key),
        )

    def add_step(self, step: Step, digest: str) -> None:
        """Note which request stands at a place of the run."""
        place = (self.run_id, step.path, step.ordinal, step.item)
        self._write("INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?,?)", (*place, self._epoch, digest))

    def add_candidate(self, candidate: Candidate, birth: int) -> None:
        """Store a candidate; the first mention of a prompt is its origin."""
        demos = json.dumps([[d.inputs, d.output] for d in candidate.prompt.demos], ensure_ascii=False)
        self._write(
            "INSERT OR IGNORE INTO candidates VALUES (?,?,?,?,?,?,?,?)",
            (
                *(self.run_id, candidate.id, birth, candidate.prompt.instruction, demos),
                *(json.dumps(candidate.parents), candidate.operator, candidate.note),
            ),
        )

    def add_evaluation(
        self,
        candidate_id: str,
        example_id: str,
        repeat: int,
        *,
        value: float | None,
        is_parsed: bool,
        feedback: str | None,
        cause: str | None,
        key: bytes | None,
    ) -> None:
        """Store one cell; `value` None = no score; `cause` says why its own candidate spoiled a request."""
        cell = (self.run_id, candidate_id, example_id, repeat, value, is_parsed, feedback, cause, key)
        self._write("INSERT OR IGNORE INTO evaluations VALUES (?,?,?,?,?,?,?,?,?)", cell)

    def add_event(self, kind: str, path: str, number: int, payload: Mapping[str, Any]) -> None:
        """Store an event of the search; the same event told again by a resumed run is ignored."""
        text = json.dumps(payload, ensure_ascii=False, default=str)
        self._write("INSERT OR IGNORE INTO events VALUES (?,?,?,?,?)", (self.run_id, path, number, kind, text))

    def set_progress(self, payload: Mapping[str, Any]) -> None:
        """Note how far the run is, for whoever watches it; only the latest note is kept."""
        row = (self.run_id, "", 0, PROGRESS, json.dumps(payload, ensure_ascii=False))
        self._write("INSERT OR REPLACE INTO events VALUES (?,?,?,?,?)", row)

    def forget_events(self, kind: str, paths: Sequence[str]) -> None:
        """Remove events at some places: an attempt that failed there is made anew."""
        for path in paths:
            self._write("DELETE FROM events WHERE run_id = ? AND path = ? AND kind = ?", (self.run_id, path, kind))

    def forget_search(self) -> None:
        """Leave out all that the run decided; for one that was never answered, so that nothing is lost."""
        for table in ("steps", "candidates", "evaluations"):
            self._write(f"DELETE FROM {table} WHERE run_id = ?", (self.run_id,))
        kept = ("size", "budget raised", BRIEF, SETTINGS)
        self._write("DELETE FROM events WHERE run_id = ? AND kind NOT IN (?,?,?,?)", (self.run_id, *kept))

    def start_session(self, started_at: str) -> int:
        """Begin a session of the run and return its id; attempts without an outcome become lost."""
        try:
            self._db.execute(
                "UPDATE attempts SET outcome = 'lost' WHERE run_id = ? AND outcome IS NULL", (self.run_id,)
            )
            cursor = self._db.execute(
                "INSERT INTO sessions (run_id, started_at) VALUES (?, ?)", (self.run_id, started_at)
            )
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return int(cursor.lastrowid or 0)

    def set_elapsed(self, session_id: int, elapsed_s: float) -> None:
        """Note how long a session has lasted, in seconds."""
        self._write("UPDATE sessions SET elapsed_s = ? WHERE session_id = ?", (elapsed_s, session_id))

    def set_config(self, config: Mapping[str, Any]) -> None:
        """Store the run's configuration; raising a budget later starts a new epoch."""
        text = json.dumps(config, ensure_ascii=False, sort_keys=True)
        self._write("UPDATE runs SET config = ? WHERE run_id = ?", (text, self.run_id))
        self._flush()

    def keep_brief(self, brief: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Store what the run was given, once, and its settings, anew after each raise of the budget."""
        self.add_event(BRIEF, "", 0, brief)
        self.add_event(SETTINGS, "", self._epoch, settings)

    def raise_budget(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Journal that the budget was raised; places of earlier epochs may then be asked anew."""
        number = self._epoch
        last = self._select("SELECT COALESCE(MAX(answer_id), 0) FROM answers")[0][0]
        payload = {"before": dict(before), "after": dict(after), "answers": last}
        self.add_event("budget raised", "", number, payload)
        self._flush()
        self._epoch = number + 1

    # Reading ------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return the stored configuration; empty for a new run."""
        return self._object(self._select("SELECT config FROM runs WHERE run_id = ?", self.run_id)[0][0])

    def configs(self) -> dict[str, dict[str, Any]]:
        """Return the configurations of all runs in the file that have begun, by name."""
        rows = self._select("SELECT name, config FROM runs WHERE config <> '{}' ORDER BY run_id")
        return {name: self._object(text) for name, text in rows}

    def answer(self, key: bytes) -> Response | None:
        """Return the journaled answer of `key`; None if there is none."""
        return self.answers((key,)).get(key)

    def answers(self, keys: Sequence[bytes]) -> dict[bytes, Response]:
        """Return those answers of `keys` that are journaled."""
        found = {}
        for start in range(0, len(keys), _MOST_KEYS):
            some = keys[start : start + _MOST_KEYS]
            marks = ",".join("?" * len(some))
            for *row, key in self._select(_SELECT_ANSWERS.format(marks), *some):
                try:
                    found[key] = _response(*row)
                except (TypeError, ValueError, ArithmeticError) as error:  # a damaged row
                    raise self._broken(error) from error
        return found

    def request(self, key: bytes) -> tuple[Message, ...] | None:
        """Return the messages that the answer of `key` answers; None = they are not kept, or there is none."""
        rows = self._select("SELECT request FROM answers WHERE key = ? AND request IS NOT NULL", key)
        return tuple(Message(*said) for said in json.loads(rows[0][0])) if rows else None

    def step_digest(self, step: Step) -> str | None:
        """Return the digest of the request at a place; None if the place is new in this epoch."""
        rows = self._select(
            "SELECT digest FROM steps WHERE run_id = ? AND path = ? AND ordinal = ? AND item = ? AND epoch = ?",
            *(self.run_id, step.path, step.ordinal, step.item, self._epoch),
        )
        return rows[0][0] if rows else None

    def next_attempt_id(self) -> int:
        """Return the id that the next attempt gets."""
        return int(self._select("SELECT COALESCE(MAX(attempt_id), 0) + 1 FROM attempts")[0][0])

    def elapsed_s(self) -> float:
        """Return the seconds that all earlier sessions of the run lasted."""
        sql = "SELECT COALESCE(SUM(elapsed_s), 0) FROM sessions WHERE run_id = ?"
        return float(self._select(sql, self.run_id)[0][0])

    def attempt_counts(self) -> dict[str, int]:
        """Return how many live attempts ended in each way ("ok", "lost", an error's class)."""
        sql = "SELECT COALESCE(outcome, 'in flight'), COUNT(*) FROM attempts WHERE run_id = ? GROUP BY 1"
        return dict(self._select(sql, self.run_id))

    def candidates(self) -> Iterator[Candidate]:
        """Yield the run's candidates in the order of their birth."""
        rows = self._select(
            "SELECT instruction, demos, parents, operator, note FROM candidates WHERE run_id = ? ORDER BY birth",
            self.run_id,
        )
        for instruction, demos, parents, operator, note in rows:
            shown = tuple(
                Demo(tuple((column, text) for column, text in inputs), output)
                for inputs, output in json.loads(demos)
            )
            yield Candidate(Prompt(instruction, shown), tuple(json.loads(parents)), operator, note)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all events of a kind, in path order."""
        sql = "SELECT payload FROM events WHERE run_id = ? AND kind = ? ORDER BY path, number"
        return [self._object(text) for (text,) in self._select(sql, self.run_id, kind)]

    def earlier_uses(self) -> Iterator[tuple[bytes, Role, Phase, Response]]:
        """Yield key, role, phase and answer of all that the run used before its budget was last raised."""
        if self._epoch == 0:
            return
        last = self.events("budget raised")[-1]["answers"]
        rows = self._select(
            "SELECT key, role, phase FROM uses JOIN answers USING (answer_id) WHERE run_id = ? AND answer_id <= ? "
            "ORDER BY answer_id",
            *(self.run_id, last),
        )
        for key, role, phase in rows:
            response = self.answer(key)
            assert response is not None
            yield key, role, phase, response

    def evaluated(self) -> set[tuple[str, str]]:
        """Return the ids of candidate and example of every cell that the run has evaluated."""
        sql = "SELECT candidate_id, example_id FROM evaluations WHERE run_id = ?"
        return set(self._select(sql, self.run_id))

    def scores(self, candidate_id: str) -> dict[str, float]:
        """Return the scores of a candidate that the run has seen, by example; cells without one are left out."""
        sql = (
            "SELECT example_id, value FROM evaluations "
            "WHERE run_id = ? AND candidate_id = ? AND repeat = 0 AND value IS NOT NULL"
        )
        return dict(self._select(sql, self.run_id, candidate_id))

    def paid(self) -> Iterator[tuple[int | None, int | None, Decimal | None]]:
        """Yield input tokens, output tokens and dollars of each answer that came live in this run; None = unknown.

        Answers that were there already, of another run in the file, are none of them.
        """
        sql = (
            "SELECT DISTINCT answer_id, input_tokens, output_tokens, cost_usd "
            "FROM attempts JOIN answers USING (key) WHERE run_id = ? AND outcome = 'ok' ORDER BY answer_id"
        )
        for _, n_in, n_out, cost in self._select(sql, self.run_id):
            try:
                yield n_in, n_out, None if cost is None else Decimal(cost)
            except ArithmeticError as error:  # a damaged row
                raise self._broken(error) from error

    def event(self, kind: str, path: str) -> dict[str, Any]:
        """Return the payload of the first event of a kind at a place; empty if there is none."""
        sql = "SELECT payload FROM events WHERE run_id = ? AND path = ? AND number = 0 AND kind = ?"
        rows = self._select(sql, self.run_id, path, kind)
        return self._object(rows[0][0]) if rows else {}

    # Inside -------------------------------------------------------------------------------------

    def _open_schema(self) -> None:
        db = self._db
        n_tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if n_tables == 0 and self.path is not None and 0 < self.path.stat().st_size < _LEAST_BYTES:
            raise JournalError(f"{self.path} is cut short, or no journal at all; choose another --out folder")
        if n_tables == 0:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
                f"{_SCHEMA} COMMIT;"
            )
        check_schema(db, self.path)
        _check_length(db, self.path)
        db.execute("PRAGMA synchronous = NORMAL")

    def _write(self, sql: str, values: Sequence[Any]) -> None:
        self._pending.append((sql, [storable(v) if isinstance(v, str) else v for v in values]))

    def _flush_for_waiters(self) -> None:
        self._is_scheduled = False
        waiters, self._waiters = self._waiters, []
        try:
            self._flush()
        except JournalError as error:
            for future in waiters:
                if not future.done():
                    future.set_exception(error)
            return
        for future in waiters:
            if not future.done():
                future.set_result(None)

    def _flush(self) -> None:
        if not self._pending:
            return
        rows, self._pending = self._pending, []
        try:
            self._db.execute("BEGIN")
            for sql, alike in itertools.groupby(rows, key=itemgetter(0)):
                self._db.executemany(sql, map(itemgetter(1), alike))
            self._db.execute("COMMIT")
        except (sqlite3.Error, ValueError, OverflowError) as error:  # the latter: a value that SQLite cannot hold
            with suppress(sqlite3.Error):  # closed, or rolled back already
                self._db.execute("ROLLBACK")
            raise self._broken(error) from error

    def _count_events(self, kind: str) -> int:
        sql = "SELECT COUNT(*) FROM events WHERE run_id = ? AND kind = ?"
        return int(self._select(sql, self.run_id, kind)[0][0])

    def _select(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Raises:
            JournalError: the file is damaged, or gone.
        """
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _object(self, text: Any) -> dict[str, Any]:
        """Return what stands in a column of JSON objects."""
        try:
            found: dict[str, Any] = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._broken(error) from error
        return found

    def _broken(self, error: Exception) -> JournalError:
        return JournalError(
            f"{self.path}: {error}; check the disk and that the file is a journal of promptopt, "
            "or choose another --out folder"
        )


def _check_length(db: sqlite3.Connection, path: Path | None) -> None:
    """Raise JournalError if a file without a write-ahead log is shorter than it says: its end was cut off."""
    if path is None:
        return
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        return
    n_bytes = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    if path.stat().st_size < n_bytes:
        raise JournalError(
            f"{path} has {path.stat().st_size} bytes instead of {n_bytes}: its end was cut off; put the whole "
            "file back, or choose another --out folder"
        )


def check_schema(db: sqlite3.Connection, path: Path | None) -> None:
    """Raise JournalError unless a database is a journal of this version; sqlite3.Error if it is none at all."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(f"{path} is a database of another program; choose another --out folder")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"{path} has journal version {version}, this program reads {SCHEMA_VERSION}; "
            "use the version that wrote it, or another --out folder"
        )


def _response(
    text: str,
    n_in: int | None,
    n_out: int,
    cached: int,
    reasoning: int,
    cost: str | None,
    latency_s: float,
    finish_reason: str,
    logprobs: str | None,
) -> Response:
    """Return the answer that a row of the table holds."""
    return Response(
        text=text,
        usage=None if n_in is None else Usage(n_in, n_out, cached, reasoning),
        cost_usd=None if cost is None else Decimal(cost),
        latency_s=latency_s,
        finish_reason=finish_reason,
        logprobs=None if logprobs is None else tuple((token, value) for token, value in json.loads(logprobs)),
    )


def storable(text: str) -> str:
    """Return `text` with halves of surrogate pairs replaced by `?`: UTF-8, and so SQLite, cannot hold them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
