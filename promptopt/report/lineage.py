"""How the best prompt came about: its ancestors, and what the optimizer model was asked and said at each step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from promptopt.gate import normal_form
from promptopt.report.record import Entry, Said, Step
from promptopt.report.rows import Answer, Event, Rows, Written

_MOST_STEPS = 60
_MOST_SAID = 8  # of a step: the last ones


def lineage_of(
    rows: Rows, entries: Sequence[Entry], best: int, answers: Sequence[Answer], events: Sequence[Event]
) -> tuple[tuple[Step, ...], int]:
    """Return the nearest ancestors of the best prompt and that itself, oldest first, and how many there are."""
    numbers = _ancestors(entries, best)
    nearest = sorted(numbers[:_MOST_STEPS])
    feedback = {
        event.payload.get("candidate"): said
        for event in events
        if event.kind == "node" and isinstance(said := event.payload.get("feedback"), str)
    }
    writing = _Writing(rows, answers)
    steps = []
    for number in nearest:
        entry = entries[number]
        own = entry.candidate.prompt.instruction
        is_new = number > 0 and all(entries[p].candidate.prompt.instruction != own for p in entry.parents)
        said = writing.behind(own) if is_new else ()
        steps.append(Step(entry, feedback.get(entry.candidate.id, ""), said))
    return tuple(steps), len(numbers)


def _ancestors(entries: Sequence[Entry], best: int) -> list[int]:
    """Return a candidate and all that it descends from, nearest first."""
    found, queue = {best: None}, [best]
    for number in queue:
        new = [parent for parent in entries[number].parents if parent not in found]
        found.update(dict.fromkeys(new))
        queue.extend(new)
    return queue


class _Writing:
    """The calls of the models that write, by the branch that made them."""

    def __init__(self, rows: Rows, answers: Sequence[Answer]) -> None:
        self._rows = rows
        wrote = {answer.key for answer in answers if answer.role == "optimizer"}
        calls = [call for call in rows.written() if call.key in wrote]
        self._branches = {path: list(group) for path, group in groupby(calls, key=lambda call: call.path)}
        self._replies = rows.replies(list({call.key for call in calls}))
        self._plain = {key: _squeezed(text) for key, text in self._replies.items()}

    def behind(self, instruction: str) -> tuple[Said, ...]:
        """Return the calls of the branch that wrote an instruction, up to the one that did; () = none did.

        At the root of a run the calls before belong to other prompts, so that one stands alone.
        """
        wanted = _squeezed(normal_form(instruction))
        for calls in self._branches.values():
            for i, call in enumerate(calls):
                if wanted and wanted in self._plain.get(call.key, ""):
                    start = max(0, i + 1 - _MOST_SAID) if call.path else i
                    return self._said(calls[start : i + 1])
        return ()

    def _said(self, calls: Sequence[Written]) -> tuple[Said, ...]:
        keys = list(dict.fromkeys(call.key for call in calls))
        requests = self._rows.requests(keys)
        return tuple(
            Said("\n\n".join(message.content for message in requests.get(key, ())), self._replies[key])
            for key in keys
        )


def _squeezed(text: str) -> str:
    return " ".join(text.split())
