"""A tape of recorded answers between a program and its models: what it holds is played, the rest taped or refused.

While a tape is inserted, every call of every gateway of this process goes to it instead of the models. A tape that
records nothing is *closed*: it makes a live call impossible, so no key is needed either.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from promptopt import errors
from promptopt.errors import CallRefused, ConfigError, ReplayDiverged
from promptopt.types import Message, Request, Response

if TYPE_CHECKING:
    from promptopt.facts import Facts

Mode = Literal["none", "new", "all"]

CHANGED = "the prompt, the data, the settings or the code changed since it was made"
_CONTEXT = 2  # equal lines shown around a difference
_MOST_COMPARED = 500  # recorded requests that the nearest one is sought among
_MOST_LINES = 40
_LONGEST_LINE = 200


@dataclass(frozen=True)
class Recorded:
    """A call on a tape: its answer, or why it was refused.

    Args:
        answer: None = the call was refused.
        refusal: class and message of the error; () = it was answered.
        messages: what was asked; None = the recording does not say.
    """

    model: str
    answer: Response | None
    refusal: tuple[str, ...] = ()
    messages: tuple[Message, ...] | None = None


@dataclass(eq=False)
class Tape:
    """Recorded calls by the digest of their request, and what becomes of others.

    Args:
        mode: none = nothing is live; new = calls that are not recorded are made and taped; all = every call is
            made anew, once, and taped.
        facts: what is known of models, by question (see `ModelSpec.question`).
        name: what the recording is called in messages.
        why: why it may lack a call, and what to do then.
    """

    mode: Mode = "none"
    calls: dict[str, Recorded] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    name: str = "the recording"
    why: str = f"{CHANGED}; put them back, or make it anew"
    taped: dict[str, Recorded] = field(default_factory=dict)
    played: set[str] = field(default_factory=set)

    @property
    def is_closed(self) -> bool:
        """Whether no call can be live."""
        return self.mode == "none"

    async def answer(self, request: Request, ask: Callable[[], Awaitable[Response]]) -> Response:
        """Return the recorded answer to `request`, or that of `ask`, which is then taped.

        Raises:
            ReplayDiverged: it is not recorded, and nothing may be live.
            CallRefused: it was refused when it was recorded.
        """
        known = self.taped.get(request.digest) or (None if self.mode == "all" else self.calls.get(request.digest))
        if known is not None:
            self.played.add(request.digest)
            return _replayed(known)
        if self.is_closed:
            raise self._unknown(request)
        try:
            response = await ask()
        except CallRefused as error:
            refusal = (type(error).__name__, str(error))
            self.taped[request.digest] = Recorded(request.model, None, refusal, request.messages)
            raise
        self.taped[request.digest] = Recorded(request.model, response, messages=request.messages)
        return response

    def _unknown(self, request: Request) -> ReplayDiverged:
        """Return the error that a request which nobody recorded is, with how it differs from the nearest one."""
        said = [call.messages for call in self.calls.values() if call.messages is not None]
        return ReplayDiverged(
            f"{self.name} has no answer to a call of {request.model}: {self.why}",
            difference=nearest_difference(request.messages, said),
        )


def _replayed(known: Recorded) -> Response:
    """Return a recorded answer, or raise the recorded refusal."""
    if known.answer is not None:
        return known.answer
    kind, message = known.refusal
    raise refusal_class(kind)(message)


def refusal_class(name: str) -> type[CallRefused]:
    """Return the error of that name.

    Raises:
        ConfigError: there is none that a recording can hold.
    """
    found = getattr(errors, name, None)
    if not isinstance(found, type) or not issubclass(found, CallRefused):
        raise ConfigError(
            f"the recording has a refusal {name!r:.40}, which does not exist; was it changed by hand?"
        )
    return found


def nearest_difference(asked: tuple[Message, ...], recorded: list[tuple[Message, ...]]) -> str:
    """Return how a request differs from the most similar recorded one, line by line; "" = there is none."""
    new = lines_of(asked)
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(new)

    def likeness(old: list[str]) -> float:
        matcher.set_seq1(old)
        return matcher.ratio()

    olds = [lines_of(messages) for messages in recorded[:_MOST_COMPARED]]
    if not olds:
        return ""
    return difference(max(olds, key=likeness), new)


def difference(recorded: list[str], now: list[str]) -> str:
    """Return how lines differ, in the form of a unified diff, cut where it is long."""
    rows = list(difflib.unified_diff(recorded, now, "recorded", "now", lineterm="", n=_CONTEXT))
    rows = [row if len(row) <= _LONGEST_LINE else f"{row[:_LONGEST_LINE]} [...]" for row in rows]
    more = [f"[{len(rows) - _MOST_LINES} more lines]"] if len(rows) > _MOST_LINES else []
    return "\n".join([*rows[:_MOST_LINES], *more])


def lines_of(messages: tuple[Message, ...]) -> list[str]:
    """Return messages as lines, each message below its role."""
    return [line for m in messages for line in (f"{m.role}:", *m.content.split("\n"))]


# The tape of this process -----------------------------------------------------------------------------

# One for the process, not for a context: a pipeline under test may call from threads of its own.
_lock = threading.Lock()
_inserted: list[Tape] = []


def inserted() -> Tape | None:
    """Return the tape that calls go to; None = they go to the models."""
    return _inserted[-1] if _inserted else None


@contextmanager
def insert(tape: Tape) -> Iterator[Tape]:
    """Let every call of this process go to `tape` within the block; a tape within it takes its place."""
    with _lock:
        _inserted.append(tape)
    try:
        yield tape
    finally:
        with _lock:
            _inserted.remove(tape)


def known_facts(known: Mapping[str, Facts]) -> dict[str, Facts]:
    """Return facts of models, with those of the inserted tape."""
    tape = inserted()
    return {**known, **tape.facts} if tape is not None else dict(known)


def keep_facts(found: Mapping[str, Facts]) -> None:
    """Let the inserted tape, if there is one, hold what is known of models."""
    tape = inserted()
    if tape is not None:
        tape.facts.update(found)
