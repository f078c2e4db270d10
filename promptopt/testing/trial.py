"""One finished run of a strategy on doubles, and what is compared between such runs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptopt.asking import RunState
from promptopt.journal import Journal
from promptopt.plan import Plan
from promptopt.result import Result, lasting
from promptopt.run import Run
from promptopt.testing.double import Double
from promptopt.types import Candidate, Phase, Request

TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Trial:
    """A run that has ended.

    Args:
        double: what played the models, with all that it was asked.
        printed: what the run wrote to the standard streams.
    """

    run: Run
    result: Result
    double: Double
    printed: str

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    @property
    def state(self) -> RunState:
        """What the run knew when it ended."""
        assert self.run.state is not None
        return self.run.state

    @property
    def best(self) -> Candidate:
        """The candidate that the run returned."""
        assert self.run.best is not None
        return self.run.best

    @property
    def digests(self) -> list[str]:
        """Digests of all requests, sorted."""
        return sorted(request.digest for request in self.double.requests)

    def candidates(self) -> tuple[Candidate, ...]:
        """Return all candidates that the run met: evaluated, raced or proposed."""
        with Journal(self.folder / "journal.db") as journal:
            return tuple(journal.candidates())

    def searched(self) -> list[Request]:
        """Return the requests that were made before the proof."""
        phases = _phases(self.folder)
        return [r for r in self.double.requests if phases.get(r.digest, "search") == "search"]


def execute(
    plan: Plan,
    folder: Path,
    double: Double,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    announce: Callable[[Run], None] | None = None,
) -> Trial:
    """Run `plan` in `folder`, or go on with the run that stands there, with `double` as every model.

    Raises:
        AssertionError: it does not end in time.
    """
    plan = replace(plan, settings=replace(plan.settings, out=folder))
    run = Run(plan, transports={spec.name: double for spec in plan.models.values()}, announce=announce)
    stream = io.StringIO()
    with time_limit(time_limit_s), contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        result = asyncio.run(run.execute())
    return Trial(run, result, double, stream.getvalue())


def outcome(folder: Path) -> dict[str, Any]:
    """Return a result without what may differ between sessions: times, and what was live or not."""
    return lasting(json.loads((folder / "result.json").read_text(encoding="utf-8")))


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Return the first field of two outcomes that differs, in words; "" if none does."""
    for key in (*expected, *found):
        if expected.get(key) != found.get(key):
            return f"{key} is {expected.get(key)!r} in one and {found.get(key)!r} in the other"
    return ""


def answered(folder: Path) -> set[str]:
    """Return the digests of all requests whose answers the journal in `folder` holds."""
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        return {key.hex() for (key,) in db.execute("SELECT key FROM answers")}


def _phases(folder: Path) -> dict[str, Phase]:
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        rows = db.execute("SELECT key, phase FROM uses JOIN answers USING (answer_id)")
        return {key.hex(): phase for key, phase in rows}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise AssertionError inside the block after so long, also in a loop that never awaits.

    Not outside the main thread, nor where there are no interval timers (Windows).
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: object) -> None:
        raise AssertionError(f"the run did not end within {seconds:g} s; a search must end without new prompts")

    handler = signal.signal(signal.SIGALRM, expire)
    before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)
