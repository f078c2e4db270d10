"""How far a run is: one record that its process makes twice a second, journals, and that both live views show.

Whoever watches from another process reads the latest record alone, which takes the same time however long the
journal is. The connection is closed after each look: an open one would keep the run from tidying up at its end.
"""

from __future__ import annotations

import json
import math
import platform
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from promptopt import transcript
from promptopt.errors import ConfigError, JournalError
from promptopt.journal import PROGRESS
from promptopt.types import digest

Stage = Literal["search", "choice", "proof", "ended", "stopped"]
Limited = Literal["calls", "tokens", "usd", "seconds"]

_MOST = 1e15  # numbers beyond it are none that a run could have counted
_SQL = (
    "SELECT payload FROM events JOIN runs USING (run_id) WHERE name = ? AND path = '' AND number = 0 AND kind = ?"
)


@dataclass(frozen=True)
class Standing:
    """A prompt's mean dev score, in [0, 1], over `n` examples, with Wilson's 95% interval.

    For graded scores that interval is too wide rather than too narrow; the result's own takes more time.
    """

    score: float
    n: int
    ci95: tuple[float, float]


@dataclass(frozen=True)
class RaceNow:
    """A race that is going on: prompts left `alive` of `n_arms`, of which it keeps `keep`; examples seen."""

    alive: int
    n_arms: int
    keep: int
    n_seen: int
    n_items: int


@dataclass(frozen=True)
class Use:
    """What a run has taken of one thing that a budget may limit.

    Args:
        spent: so far; None = unknown, for want of a price.
        limit: of the whole run; None = none.
        projected: what will be spent when the search ends (in later stages: the run); None = unknown.
    """

    name: Limited
    spent: float | None
    limit: float | None
    projected: float | None


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        stage: search, choice among finalists, proof; `ended` with a result, or `stopped` by an error without one.
        models: (role, name) of each.
        simulated: the roles whose model is the built-in stand-in.
        pid: number of the run's process on its machine.
        host: tells that machine from others; not its name.
        is_scored: False = there are no scores, a judge compares.
        best: the best prompt so far; None = nothing evaluated yet.
        initial: the user's prompt, on those of the same examples that it was evaluated on.
        is_initial_best: whether the best prompt so far is the user's own.
        n_cached: answers that were there already.
        n_failed: attempts that failed, of this session.
        n_missing: answers that decisions went on without.
        calls_per_s: live answers a second over the last 30 seconds; None = unknown so far.
        left_s: shortest and longest time that the run is reckoned to take from here on; None = unknown.
        is_stopping: whether calls in flight are awaited before an early end.
    """

    stage: Stage
    task: str
    optimizer: str
    models: tuple[tuple[str, str], ...]
    simulated: tuple[str, ...]
    pid: int
    host: str
    elapsed_s: float
    is_scored: bool
    best: Standing | None
    initial: Standing | None
    is_initial_best: bool
    n_tried: int
    n_accepted: int
    uses: tuple[Use, ...]
    n_cached: int
    n_failed: int
    last_failure: str
    n_missing: int
    calls_per_s: float | None
    races: tuple[RaceNow, ...]
    left_s: tuple[float, float] | None
    is_stopping: bool

    @property
    def is_over(self) -> bool:
        """Whether the run's process will do nothing more for it."""
        return self.stage in ("ended", "stopped")

    def use(self, name: Limited) -> Use:
        """Return what was taken of one thing."""
        return next((use for use in self.uses if use.name == name), Use(name, None, None, None))


def this_host() -> str:
    """Return what tells this machine from others without naming it."""
    return digest(platform.node())[:8]


def read(folder: Path, run: str = "run") -> Progress | None:
    """Return how far the run in a folder is, writing nothing; None = its journal does not say so (yet).

    Raises:
        JournalError: there is no journal, it is none of ours, or damaged.
        ConfigError: what it says is damaged, or of another version.
    """
    path = folder / "journal.db"
    try:
        with closing(transcript.opened(path)) as db:
            row = db.execute(_SQL, (run, PROGRESS)).fetchone()
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}; is it the journal of a run?") from error
    try:
        return None if row is None else _parsed(row[0])
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's error is a ValueError
        raise ConfigError(
            f"{path}: its progress cannot be read ({first_line(error)}); it is damaged, or of another version"
        ) from error


def _parsed(text: Any) -> Progress:
    found: Progress = _reader().validate_python(sound_json(text))
    return found


@cache
def _reader() -> Any:
    """Return what checks a record; making it takes longer than all it is then used for."""
    from pydantic import TypeAdapter

    return TypeAdapter(Progress)


def sound_json(text: Any) -> Any:
    """Return what a text of JSON holds; raise ValueError if it is none, or a number in it is beyond all bounds."""
    return json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_number)


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value) or abs(value) > _MOST:
        raise ValueError(f"the number {text[:40]} is out of range")
    return value if any(c in text for c in ".eE") else int(text)


def first_line(error: Exception) -> str:
    """Return what an error says, in short."""
    return " ".join(str(error).split())[:200]
