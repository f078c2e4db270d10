"""What the events of a run tell of its search: races, trees, rounds, refusals; odd events are skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from promptopt.report.record import Arm, Heat, Round, Twig
from promptopt.report.rows import Event

_MOST_REASON = 160


def heats(events: Sequence[Event], numbers: Mapping[str, int]) -> tuple[Heat, ...]:
    """Return the races that got through a block, in the order of their places."""
    blocks: dict[str, list[Event]] = {}
    causes: dict[tuple[str, int], Mapping[str, Any]] = {}
    for event in events:
        if event.kind == "block":
            blocks.setdefault(event.path, []).append(event)
        elif event.kind == "elimination":
            candidate = event.payload.get("candidate")
            causes[str(candidate), _count(event.payload.get("n")) or 0] = event.payload
    found = [
        _heat(event.payload, blocks.get(event.path, []), causes, numbers)
        for event in sorted((event for event in events if event.kind == "race"), key=lambda e: _place(e.path))
    ]
    return tuple(heat for heat in found if heat is not None and heat.looks)


def _heat(
    payload: Mapping[str, Any],
    blocks: Sequence[Event],
    causes: Mapping[tuple[str, int], Mapping[str, Any]],
    numbers: Mapping[str, int],
) -> Heat | None:
    arms = _ids(payload.get("candidates"), numbers)
    sizes = payload.get("blocks")
    if not arms or not isinstance(sizes, list):
        return None
    looks: list[int] = []
    left: dict[str, int] = {}
    for block in sorted(blocks, key=lambda event: event.number):
        n = _count(block.payload.get("n"))
        if n is None:
            continue
        looks.append(n)
        left |= {name: n for name in _ids(block.payload.get("gone"), numbers) if name not in left}
    n_last = looks[-1] if looks else 0
    found = []
    for name in arms:
        cause = causes.get((name, left[name]), {}) if name in left else {}
        killer, reason = cause.get("killer"), cause.get("reason")
        found.append(
            Arm(
                number=numbers[name],
                n_seen=left.get(name, n_last),
                is_out=name in left,
                killer=numbers.get(killer) if isinstance(killer, str) else None,
                reason=reason[:_MOST_REASON] if isinstance(reason, str) else "",
            )
        )
    n_pool = sum(_count(size) or 0 for size in sizes)
    return Heat(tuple(found), tuple(looks), n_pool, _count(payload.get("keep")) or 1)


def twigs(events: Sequence[Event], numbers: Mapping[str, int]) -> tuple[Twig, ...]:
    """Return the nodes of a search tree; () = the search grew none."""
    found: dict[int, Twig] = {}
    for event in events:
        if event.kind != "node":
            continue
        payload = event.payload
        number, depth, reward = (
            numbers.get(str(payload.get("candidate"))),
            payload.get("depth"),
            payload.get("reward"),
        )
        parent = numbers.get(str(payload.get("parent")))
        is_read = number is not None and _count(depth) is not None and isinstance(reward, int | float)
        if number is not None and is_read and isfinite(reward):  # type: ignore[arg-type]
            found.setdefault(number, Twig(number, parent, int(depth), float(reward)))  # type: ignore[arg-type]
    return tuple(found.values())


def rounds(events: Sequence[Event], numbers: Mapping[str, int]) -> tuple[Round, ...]:
    """Return the rounds of a search by verdicts; () = there were none."""
    found = []
    for event in events:
        if event.kind == "round":
            said = event.payload
            wins, losses, ties = (_count(said.get(name)) for name in ("wins", "losses", "ties"))
            number = numbers.get(str(said.get("candidate")))
            found.append(
                Round(_count(said.get("round")) or 0, number, wins, losses, ties, said.get("is_accepted") is True)
            )
    return tuple(sorted(found, key=lambda row: row.i_round))


def refused(events: Sequence[Event]) -> dict[str, int]:
    """Return how many candidates were refused before they cost anything, by reason."""
    said = [event.payload.get("reason") for event in events if event.kind == "candidate refused"]
    return dict(Counter(reason[:_MOST_REASON] for reason in said if isinstance(reason, str)).most_common(20))


def _ids(value: object, numbers: Mapping[str, int]) -> list[str]:
    """Return those of a list of ids that are candidates of the run, each once."""
    rows = value if isinstance(value, list) else []
    return list(dict.fromkeys(name for name in rows if isinstance(name, str) and name in numbers))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _place(path: str) -> tuple[int, ...]:
    """Return a place such as `3/0:2` as numbers, so that 10 comes after 9."""
    parts = path.replace(":", "/").split("/")
    return tuple(int(part) for part in parts if part.isascii() and part.isdigit())
