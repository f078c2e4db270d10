"""Reads a run's journal for a report: without writing to it, also while the run goes on, trusting no value."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from promptopt import transcript
from promptopt.errors import ConfigError, JournalError
from promptopt.types import Candidate, Demo, Message, Prompt

_MOST_KEYS = 500


@dataclass(frozen=True, slots=True)
class Cell:
    """A candidate on an example: the score (None = none), why its request was spoiled, the key of the answer."""

    candidate_id: str
    example_id: str
    value: float | None
    cause: str | None
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that the run used, in the order of use; None = unknown."""

    key: bytes
    role: str
    phase: str
    input_tokens: int | None
    output_tokens: int | None
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the search at a place of the run."""

    path: str
    number: int
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A call at a place of the run, not yet read: `key` leads to its answer."""

    path: str
    ordinal: int
    item: int
    key: bytes


class Rows:
    """A journal opened for reading; use as a context manager.

    Args:
        run: name of the run in it.

    Raises:
        JournalError: it is none of ours, holds no run, or is damaged.
    """

    def __init__(self, path: Path, run: str = "run") -> None:
        self._path = path
        try:
            self._db = transcript.opened(path)
        except sqlite3.Error as error:
            raise self._broken(error) from error
        try:
            found = self._select("SELECT run_id, config FROM runs WHERE name = ?", run)
            if not found:
                raise JournalError(f"{path} holds no run; name the folder of `promptopt optimize`")
            self._run_id = found[0][0]
            self.config = self._object(found[0][1])
        except JournalError:
            self._db.close()
            raise

    def __enter__(self) -> Rows:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._db.close()

    def candidates(self) -> list[tuple[str, Candidate]]:
        """Return id and candidate in the order of birth."""
        columns = ("candidate_id", "birth", "instruction", "demos", "parents", "operator", "note")
        found = []
        for row in self._checked("candidates", columns, "birth"):
            demos = tuple(Demo(tuple((c, t) for c, t in inputs), output) for inputs, output in row["demos"])
            prompt = Prompt(row["instruction"], demos)
            candidate = Candidate(prompt, tuple(row["parents"]), row["operator"], row["note"])
            found.append((row["candidate_id"], candidate))
        return found

    def events(self) -> list[Event]:
        """Return all events in the order of their places."""
        rows = self._checked("events", ("path", "number", "kind", "payload"), "path, number")
        return [Event(row["path"], row["number"], row["kind"], row["payload"]) for row in rows]

    def written(self) -> list[Written]:
        """Return all calls that are identified by their place, in the order of their places."""
        columns = ("path", "ordinal", "item", "epoch", "digest")
        rows = self._checked("steps", columns, "path, epoch, ordinal, item")
        return [Written(row["path"], row["ordinal"], row["item"], bytes.fromhex(row["digest"])) for row in rows]

    def cells(self) -> Iterator[Cell]:
        """Yield every evaluated cell."""
        sql = "SELECT candidate_id, example_id, value, cause, key FROM evaluations WHERE run_id = ? AND repeat = 0"
        for candidate, example, value, cause, key in self._select(sql, self._run_id):
            score = None if value is None else self._number(value)
            if score is not None and not 0 <= score <= 1:
                raise self._broken(ValueError(f"a score of {score}"))
            spoiled = None if cause is None else self._text(cause)
            known = key if isinstance(key, bytes) else None
            yield Cell(self._text(candidate), self._text(example), score, spoiled, known)

    def answers(self) -> list[Answer]:
        """Return the answers that the run used, in the order in which they came."""
        sql = (
            "SELECT key, role, phase, input_tokens, output_tokens, cost_usd "
            "FROM uses JOIN answers USING (answer_id) WHERE run_id = ? ORDER BY answer_id"
        )
        found = []
        for key, role, phase, n_in, n_out, cost in self._select(sql, self._run_id):
            taken, given = (None if n is None else int(self._number(n)) for n in (n_in, n_out))
            if not isinstance(key, bytes):
                raise self._broken(ValueError("an answer without a key"))
            found.append(Answer(key, self._text(role), self._text(phase), taken, given, self._dollars(cost)))
        return found

    def replies(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return the texts of those of the answers that are there."""
        return {key: self._text(text) for key, text in self._of_answers("text", keys)}

    def requests(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Message, ...]]:
        """Return what those of the answers answer whose request is kept."""
        found = {}
        for key, text in self._of_answers("request", keys):
            said = None if text is None else self._json(text)
            if said is None:
                continue
            try:
                found[key] = tuple(Message(self._text(role), self._text(content)) for role, content in said)
            except (TypeError, ValueError) as error:
                raise self._broken(error) from error
        return found

    def attempts(self) -> dict[str, int]:
        """Return how many live calls ended in each way."""
        sql = (
            "SELECT COALESCE(outcome, 'in flight'), COUNT(*) FROM attempts WHERE run_id = ? GROUP BY 1 ORDER BY 1"
        )
        return {self._text(outcome): n for outcome, n in self._select(sql, self._run_id)}

    def sessions(self) -> tuple[str, float]:
        """Return when the run began, and the seconds that all its sessions lasted."""
        sql = "SELECT started_at, elapsed_s FROM sessions WHERE run_id = ? ORDER BY session_id"
        rows = self._select(sql, self._run_id)
        began = self._text(rows[0][0]) if rows else ""
        return began, sum(self._number(seconds) for _, seconds in rows)

    # Inside -----------------------------------------------------------------------------------------

    def _of_answers(self, column: str, keys: Sequence[bytes]) -> Iterator[tuple[bytes, Any]]:
        for start in range(0, len(keys), _MOST_KEYS):
            some = keys[start : start + _MOST_KEYS]
            marks = ",".join("?" * len(some))
            yield from self._select(f"SELECT key, {column} FROM answers WHERE key IN ({marks})", *some)

    def _checked(self, table: str, columns: Sequence[str], order: str) -> Iterator[transcript.Row]:
        """Yield the rows of a table that recordings hold too, every value checked."""
        sql = f"SELECT {', '.join(columns)} FROM {table} WHERE run_id = ? ORDER BY {order}"
        for values in self._select(sql, self._run_id):
            row = {
                name: self._json(value) if name in transcript.AS_JSON else value
                for name, value in zip(columns, values, strict=True)
            }
            try:
                transcript.check(table, row)
            except ConfigError as error:
                raise self._broken(error) from error
            yield row

    def _select(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _json(self, text: Any) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._broken(error) from error

    def _object(self, text: Any) -> dict[str, Any]:
        found = self._json(text)
        if not isinstance(found, dict):
            raise self._broken(ValueError("its configuration is no object"))
        return found

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._broken(ValueError(f"{type(value).__name__} where a text belongs"))
        return value

    def _number(self, value: Any) -> float:
        if not isinstance(value, int | float):
            raise self._broken(ValueError(f"{type(value).__name__} where a number belongs"))
        return value

    def _dollars(self, value: Any) -> Decimal | None:
        try:
            amount = None if value is None else Decimal(self._text(value))
        except InvalidOperation as error:
            raise self._broken(error) from error
        if amount is not None and not amount.is_finite():
            raise self._broken(ValueError(f"a cost of {amount}"))
        return amount

    def _broken(self, error: Exception) -> JournalError:
        return JournalError(f"{self._path}: {error}; is it the journal of a run?")
