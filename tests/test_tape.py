"""A tape plays what it holds; the rest is refused, or asked once and taped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import Scripted, make_run, model

from promptopt import tape
from promptopt.config import Settings
from promptopt.errors import CallRefused, ContextTooLong, ReplayDiverged
from promptopt.tape import Mode, Recorded, Tape, insert, inserted
from promptopt.types import Budget, Message, Request, Response

ASKED = Request("m", (Message("system", "Sort it.\nBe brief."), Message("user", "a red thing")), 10)
LIVE = Response("live", None, None)


def ask(tape: Tape, request: Request = ASKED, n: int = 1) -> tuple[list[str], int]:
    """Return the answers to `n` equal requests, and how many of them were live."""
    n_live = 0

    async def live() -> Response:
        nonlocal n_live
        n_live += 1
        return LIVE

    async def run() -> list[str]:
        return [(await tape.answer(request, live)).text for _ in range(n)]

    return asyncio.run(run()), n_live


@pytest.mark.parametrize(
    ("mode", "is_known", "expected"),
    [
        ("none", True, (["old", "old"], 0)),
        ("new", True, (["old", "old"], 0)),
        ("new", False, (["live", "live"], 1)),
        ("all", True, (["live", "live"], 1)),
        ("all", False, (["live", "live"], 1)),
    ],
)
def test_plays_or_asks_once(mode: Mode, is_known: bool, expected: tuple[list[str], int]) -> None:
    known = {ASKED.digest: Recorded("m", Response("old", None, None))} if is_known else {}
    made = Tape(mode, known)
    assert ask(made, n=2) == expected
    assert bool(made.taped) == (expected[1] == 1)


def test_a_closed_tape_tells_how_a_request_differs_from_the_nearest_one() -> None:
    far = (Message("user", "Write a better prompt."),)
    near = (Message("system", "Sort it.\nBe brief."), Message("user", "a blue thing"))
    made = Tape("none", {str(i): Recorded("m", LIVE, messages=said) for i, said in enumerate((far, near))})
    with pytest.raises(ReplayDiverged, match="has no answer to a call of m") as caught:
        ask(made)
    assert caught.value.difference.splitlines()[:2] == ["--- recorded", "+++ now"]
    assert "-a blue thing" in caught.value.difference
    assert "+a red thing" in caught.value.difference
    assert "better prompt" not in caught.value.difference


def test_a_long_difference_is_cut() -> None:
    long = replace(ASKED, messages=(Message("user", "\n".join(f"{i} {'x' * 900}" for i in range(500))),))
    made = Tape("none", {"0": Recorded("m", LIVE, messages=ASKED.messages)})
    with pytest.raises(ReplayDiverged) as caught:
        ask(made, long)
    assert len(caught.value.difference) < 10_000
    assert "more lines]" in caught.value.difference


def test_a_refusal_is_taped_and_played() -> None:
    async def refuse() -> Response:
        raise ContextTooLong("too long for it")

    made = Tape("new")
    with pytest.raises(ContextTooLong):
        asyncio.run(made.answer(ASKED, refuse))
    closed = Tape("none", made.taped)
    with pytest.raises(CallRefused, match="too long for it") as caught:
        ask(closed)
    assert isinstance(caught.value, ContextTooLong)


def test_the_innermost_tape_is_played_and_none_stays() -> None:
    outer, inner = Tape(), Tape()
    with insert(outer):
        with insert(inner):
            assert inserted() is inner
        assert inserted() is outer
        with pytest.raises(KeyError), insert(inner):
            raise KeyError
        assert inserted() is outer
    assert inserted() is None


def test_a_whole_run_is_taped_and_played_without_a_model(tmp_path: Path) -> None:
    settings = Settings(model="sim", budget=Budget(calls=160), optimizer="capo", seed=3)
    live = Scripted(model)
    with tape.insert(Tape("all")) as made:
        first = asyncio.run(make_run(tmp_path / "a", live, settings=settings).execute())
    assert len(made.taped) == len(live.requests) == first.spend.calls
    silent = Scripted(model)
    with tape.insert(Tape("none", made.taped)):
        second = asyncio.run(make_run(tmp_path / "b", silent, settings=settings).execute())
    assert silent.requests == []
    assert second.best == first.best
    assert second.spend == first.spend
