"""A scripted author: a model that writes prompts whose quality a test decides, and what PromptAgent made of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripted import LABELS, Scripted, make_study, make_task, noise

from promptopt.evaluation import RunState
from promptopt.optimizers.prompt_agent import PromptAgent
from promptopt.task import Task
from promptopt.types import Candidate, Request

PAPER: dict[str, Any] = dict(PromptAgent.presets["paper"])
N_DEV = 20
N_TRAIN = 30
Skill = Callable[[int, float], float]
"""The skill of a new prompt by its depth and a random number in [0, 1)."""


def kind(request: Request) -> str:
    text = request.messages[0].content
    if not text.startswith("You are improving"):
        return "task"
    return "rewrite" if "</feedback>" in text else "feedback"


def item(text: str) -> int:
    return int(text.split()[-1])


def rank(i: int) -> float:
    """Return how hard item `i` is: for 20 items in a row, each multiple of .05 in [0, 1) once."""
    return 7 * i % N_DEV / N_DEV


def skill_of(prompt: str) -> float:
    """Return the share of dev that a prompt gets right."""
    found = re.search(r"skill (\d\.\d+)", prompt)
    return float(found.group(1)) if found else 0.3


@dataclass
class Author:
    """Answers with the skill that a prompt names; writes prompts with skills that a test decides."""

    skill: Skill = lambda depth, u: round(0.4 + 0.05 * depth + 0.2 * u, 2)
    feedback: str = "The prompt leaves gaps."

    def __call__(self, request: Request) -> str:
        text = request.messages[0].content
        if kind(request) == "task":
            i = item(request.messages[-1].content)
            return LABELS[i % 3] if rank(i) < skill_of(text) - 1e-9 else "no idea"
        u = noise(request.sample)
        if kind(request) == "feedback":
            return f"{self.feedback} {u:.6f}"
        return f"<prompt>A colour, skill {self.skill(text.count('<version_'), u):.2f}, draft {u:.6f}.</prompt>"


@dataclass
class Grown:
    """What a search left behind."""

    best: Candidate
    requests: list[Request]
    nodes: list[dict[str, Any]]
    paths: list[list[str]]
    state: RunState

    def asked(self, name: str) -> list[str]:
        return [request.messages[0].content for request in self.requests if kind(request) == name]

    @property
    def texts(self) -> dict[str, str]:
        return {c.id: c.prompt.instruction for c in self.state.journal.candidates()}

    @property
    def reward(self) -> dict[str, float]:
        return {node["candidate"]: node["reward"] for node in self.nodes}

    @property
    def parent(self) -> dict[str, str | None]:
        return {node["candidate"]: node["parent"] for node in self.nodes}

    @property
    def expanded(self) -> set[str]:
        return {node["parent"] for node in self.nodes} - {None}


def grow(
    author: Callable[[Request], str],
    *,
    task: Task | None = None,
    n_calls: int = 10**6,
    seed: int = 0,
    **options: Any,
) -> Grown:
    transport = Scripted(author)
    study, state = make_study(transport, task=task or make_task(n_train=N_TRAIN), n_calls=n_calls, seed=seed)
    agent = PromptAgent(**{**PAPER, "n_iterations": 3, **options})

    async def run() -> Candidate:
        best = await agent.optimize(study)
        await state.journal.committed()
        return best

    best = asyncio.run(run())
    paths = [event["nodes"] for event in state.journal.events("path")]
    return Grown(best, transport.requests, state.journal.events("node"), paths, state)
