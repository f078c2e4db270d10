"""A rubric, a task that a judge scores by it, and a judge that a test can see through."""

from __future__ import annotations

import re
from dataclasses import replace

from scripted import LABELS, Scripted, make_task, model

from promptopt.task import Task
from promptopt.tasks.rubric import Rubric, parse
from promptopt.types import Request

RUBRIC = """# Colours

Answers are read by machines.

- The reply names the right colour.
- The reply is one word.
"""

_REPLY = re.compile(r"\nReply:\n(?P<mark>=====\w+=====)\n(?P<text>.*)\n(?P=mark)\n", re.DOTALL)


def rubric(text: str = RUBRIC) -> Rubric:
    principles, context = parse(text)
    return Rubric("judge:rubric.md", principles, context, "digest")


def rated_task(n_train: int = 12, n_dev: int = 20, n_test: int = 20) -> Task:
    """Return the task of colours, whose replies a judge scores."""
    return replace(make_task(n_train, n_dev, n_test), metric=rubric())


def is_rating(request: Request) -> bool:
    return "<verdicts>" in request.messages[0].content


def shown_reply(request: Request) -> str:
    """Return the reply that a judge is shown."""
    found = _REPLY.search(request.messages[0].content)
    assert found is not None
    return found["text"]


def verdicts(*words: str) -> str:
    return "<verdicts>\n" + "\n".join(f"{i}: {word}" for i, word in enumerate(words, 1)) + "\n</verdicts>"


def judge(request: Request) -> str:
    """Judge by the colour of the item, and by the number of words."""
    reply = shown_reply(request)
    item = int(re.findall(r"item number (\d+)", request.messages[0].content)[0])
    is_short = len(reply.split()) == 1
    return verdicts("yes" if LABELS[item % 3] in reply else "no, wrong colour", "yes" if is_short else "partly")


def world(request: Request) -> str:
    """Play every role."""
    return judge(request) if is_rating(request) else model(request)


def ratings(transport: Scripted) -> list[Request]:
    return [request for request in transport.requests if is_rating(request)]
