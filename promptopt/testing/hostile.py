"""What models may say that were asked for a prompt or a verdict: the worst that a run must survive."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from promptopt.simulator.ask import contract
from promptopt.testing.double import Habit
from promptopt.types import Request

MARKER = "zyzzyva"
"""A word that no honest reply has: where it turns up, garbage was taken."""

_LOST = "I am not sure what you want from me, zyzzyva; could you tell me more about it?"
_LONG = "zyzzyva and so on; " * 550  # beyond what the gate lets pass, yet three of them fit into a reply


def wrapped(request: Request, text: str) -> str:
    """Return `text` in the form that a request asks for, such as tags; as it is if it names none."""
    whole = "\n\n".join(message.content for message in request.messages)
    form = contract(request.messages[-1].content, whole)
    parts = "\n".join(f"{opening}{text}{closing}" for _, opening, closing in form.blocks)
    return parts + form.ending if parts else text


def _echo(request: Request) -> str:
    return request.messages[-1].content


WRITERS: Mapping[str, Habit] = MappingProxyType(
    {
        "says nothing": lambda request: "",
        "chats without the form that was asked for": lambda request: _LOST,
        "leaves the form empty": lambda request: wrapped(request, "\n"),
        "never closes the form": lambda request: wrapped(request, "\x00").partition("\x00")[0] + _LOST,
        "echoes the request": _echo,
        "writes without end": lambda request: wrapped(request, _LONG),
        "writes control characters": lambda request: wrapped(request, f"Name\x07 it\x1b[2J, {MARKER}."),
    }
)
"""By what they do, optimizer models that write nothing that may be used."""

JUDGES: Mapping[str, Habit] = MappingProxyType(
    {
        "says nothing": lambda request: "",
        "chats without the form that was asked for": lambda request: _LOST,
        "echoes the request": _echo,
        "writes without end": lambda request: wrapped(request, _LONG),
        "always says A": lambda request: wrapped(request, "\n".join(f"{i}: A" for i in range(1, 100))),
        "contradicts itself": lambda request: wrapped(request, "1: A\n1: B\n2: B\n2: A"),
        "judges what is not there": lambda request: wrapped(request, "0: A\n777: B\n-1: A"),
    }
)
"""By what they do, judges on whose word nothing may be promoted."""


def poisonous(instruction: str) -> Habit:
    """Return the habit of an optimizer model that writes prompts which the gate accepts and `poisoned` spoils."""

    def write(request: Request) -> str:
        return wrapped(request, f"{instruction}\n{MARKER} {request.digest[:8]}")

    return write


def poisoned(request: Request) -> str | None:
    """Return no answer to a prompt that holds the marker, and the honest one to any other."""
    return "no idea" if any(MARKER in message.content for message in request.messages) else None
