"""A run's journal as plain rows, and back: what recordings are made of.

Rows are read without writing to the journal, also while another process writes it. On the way back every value is
checked, since a recording may come from anybody.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, get_args

from promptopt import errors
from promptopt.errors import ConfigError, JournalError
from promptopt.journal import PROGRESS, Journal, check_schema
from promptopt.types import Phase, Role

Row = dict[str, Any]

_MOST = 2**53  # whole numbers that every reader of JSON can hold
_WRONG = "it is damaged, or was not written by promptopt record"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_key(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


def _is_dollars(value: object) -> bool:
    try:
        return isinstance(value, str) and Decimal(value).is_finite()
    except InvalidOperation:
        return False


def _is_logprobs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and _is_text(pair[0]) and isinstance(pair[1], int | float)
        for pair in value
    )


def _is_demos(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(demo, list)
        and len(demo) == 2
        and _is_text(demo[1])
        and isinstance(demo[0], list)
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair)) for pair in demo[0])
        for demo in value
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(_is_texts(message) and len(message) == 2 for message in value)


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _one_of(*names: str) -> Callable[[object], bool]:
    return lambda value: value in names


# Columns that are JSON in the journal, and the value itself in a row.
AS_JSON = frozenset({"logprobs", "request", "demos", "parents", "payload"})
# By table: the columns that a recording holds, in their order, with what each must be.
_COLUMNS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "answers": {
        "answer_id": _is_count,
        "key": _is_key,
        "model": _is_text,
        "text": _is_text,
        "input_tokens": _or_none(_is_count),
        "output_tokens": _or_none(_is_count),
        "cached_tokens": _or_none(_is_count),
        "reasoning_tokens": _or_none(_is_count),
        "cost_usd": _or_none(_is_dollars),
        "latency_s": _is_seconds,
        "finish_reason": _is_text,
        "logprobs": _or_none(_is_logprobs),
        "request": _or_none(_is_messages),
    },
    "uses": {
        "answer_id": _is_count,
        "role": _one_of(*get_args(Role)),
        "phase": _one_of(*get_args(Phase)),
        "path": _is_text,
    },
    "steps": {"path": _is_text, "ordinal": _is_count, "item": _is_count, "epoch": _is_count, "digest": _is_key},
    "candidates": {
        "candidate_id": _is_text,
        "birth": _is_count,
        "instruction": _is_text,
        "demos": _is_demos,
        "parents": _is_texts,
        "operator": _is_text,
        "note": _is_text,
    },
    "events": {
        "path": _is_text,
        "number": _is_count,
        "kind": _is_text,
        "payload": lambda value: isinstance(value, dict),
    },
    "sessions": {"started_at": _is_text, "elapsed_s": _is_seconds},
}
TABLES = tuple(_COLUMNS)
_WHERE: Mapping[str, str] = {
    "answers": "WHERE answer_id IN (SELECT answer_id FROM uses WHERE run_id = ?)",
    "events": f"WHERE run_id = ? AND kind != '{PROGRESS}'",  # which hangs on time
}


def rows_of(path: Path, run: str = "run") -> Iterator[tuple[str, Row]]:
    """Yield (table, row) of all that a run's journal needs to be gone through again, in a fixed order.

    Raises:
        JournalError: the file is none of ours, or damaged.
    """
    try:
        with closing(opened(path)) as db:
            found = db.execute("SELECT run_id FROM runs WHERE name = ?", (run,)).fetchone()
            if found is None:
                raise JournalError(f"{path} holds no run; name the folder of a finished `promptopt optimize`")
            for table, columns in _COLUMNS.items():
                where = _WHERE.get(table, "WHERE run_id = ?")
                sql = f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY 1, 2, 3"
                if table == "sessions":
                    sql = f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY session_id"
                for values in db.execute(sql, found):
                    yield table, {name: _read(name, value) for name, value in zip(columns, values, strict=True)}
    except (sqlite3.Error, ValueError) as error:
        raise JournalError(f"{path}: {error}; is it the journal of a run?") from error


def pairs_of(path: Path, run: str = "run") -> dict[str, tuple[str, str]]:
    """Return which candidate on which example each answer of the task model is of, by the answer's key.

    Raises:
        JournalError: the file is none of ours, or damaged.
    """
    sql = (
        "SELECT key, candidate_id, example_id FROM evaluations JOIN runs USING (run_id) "
        "WHERE name = ? AND key IS NOT NULL"
    )
    try:
        with closing(opened(path)) as db:
            return {key.hex(): (candidate, example) for key, candidate, example in db.execute(sql, (run,))}
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}; is it the journal of a run?") from error


def restore(path: Path, rows: Iterable[tuple[str, Row]]) -> None:
    """Write a new journal that holds `rows`.

    Raises:
        ConfigError: a row is none that a journal can have.
    """
    with Journal(path) as journal:
        run_id = journal.run_id
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        for table, row in rows:
            check(table, row)
            columns = list(_COLUMNS[table])
            values = [_written(name, row[name]) for name in columns]
            if table != "answers":
                columns, values = ["run_id", *columns], [run_id, *values]
            marks = ",".join("?" * len(columns))
            try:
                db.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)
            except (sqlite3.Error, UnicodeEncodeError) as error:
                raise ConfigError(f"the recording's {table} cannot be taken ({error}); {_WRONG}") from error
        db.execute("COMMIT")


def check(table: str, row: Mapping[str, Any]) -> None:
    """Raise ConfigError unless `row` is one that a table of a journal can have."""
    columns = _COLUMNS.get(table)
    if columns is None:
        raise ConfigError(f"the recording has rows of {table!r:.40}, which this version does not know; {_WRONG}")
    if set(row) != set(columns):
        raise ConfigError(f"the recording's {table} have other fields than {', '.join(columns)}; {_WRONG}")
    for name, is_right in columns.items():
        if not is_right(row[name]):
            raise ConfigError(f"the recording's {table} hold the {name} {row[name]!r:.60}; {_WRONG}")
    if table == "events":
        _check_event(row["kind"], row["payload"])


def _check_event(kind: str, payload: Mapping[str, Any]) -> None:
    """Raise ConfigError if an event that a run acts upon says what it cannot."""
    is_right = True
    if kind == "gaps":
        is_right = all(_is_key(key) and _is_failure(gap) for key, gap in payload.items())
    elif kind == "size":
        counts = [payload.get("n_calls"), payload.get("held_out"), payload.get("most_calls") or 0]
        is_right = all(map(_is_count, counts))
    elif kind == "budget raised":
        is_right = _is_count(payload.get("answers"))
    if not is_right:
        raise ConfigError(f"the recording's events of kind {kind!r} cannot be read; {_WRONG}")


def _is_failure(gap: Any) -> bool:
    """Return whether a gap is the class and the message of an error that leaves one."""
    if not _is_texts(gap) or len(gap) != 2:
        return False
    found = getattr(errors, gap[0], None)
    return isinstance(found, type) and issubclass(found, errors.ProviderError)


def opened(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot write to a journal."""
    if not path.is_file():
        raise JournalError(f"{path.parent} holds no journal; name the folder of a finished `promptopt optimize`")
    is_at_rest = not path.with_name(f"{path.name}-wal").exists()  # else somebody writes, or was killed
    how = (
        "immutable=1" if is_at_rest else "mode=ro"
    )  # which leaves no file behind, and needs no leave to write one
    db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)
    try:
        check_schema(db, path)
    except (sqlite3.Error, JournalError):
        db.close()
        raise
    return db


def _read(name: str, value: Any) -> Any:
    """Return the value of a journal's column as it stands in a row."""
    if isinstance(value, bytes):
        return value.hex()
    return json.loads(value) if name in AS_JSON and value is not None else value


def _written(name: str, value: Any) -> Any:
    """Return the value of a row as it stands in a journal's column."""
    if name == "key":
        return bytes.fromhex(value)
    return json.dumps(value, ensure_ascii=False) if name in AS_JSON and value is not None else value
