"""The prompts that are worth a look: none is both shorter and better. And which may be compared at all."""

from __future__ import annotations

from collections.abc import Sequence

from promptopt.report.record import Entry
from promptopt.stats import SAME


def comparable(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the candidates that were scored on at least half as many dev examples as the one with the most.

    A prompt that left after a few examples may have been lucky on them; the initial prompt always counts.
    """
    most = max((entry.n_dev for entry in entries), default=0)
    return tuple(e for e in entries if e.dev is not None and (2 * e.n_dev >= most or e.number == 0))


def pareto_front(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return those of the comparable candidates that no shorter or equally long one equals, shortest first."""
    found: list[Entry] = []
    for entry in sorted(comparable(entries), key=lambda e: (e.tokens, -(e.dev or 0), e.number)):
        if not found or (entry.dev or 0) > (found[-1].dev or 0) + SAME:
            found.append(entry)
    return tuple(found)
