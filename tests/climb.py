"""A strategy without labels for tests, and a world in which a judge can tell better answers from worse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from scripted import Scripted, make_task, noise

from promptopt.study import Study
from promptopt.task import Task
from promptopt.tasks.metrics import Unscored
from promptopt.types import Candidate, Request, Role

CLIMB = f"{__file__}:Climb"
WRITE = "Improve this:\n{instruction}\nPut it between <prompt> and </prompt>."

_SHOWN = re.compile(
    r"Question (\d+):\n(.*?)\n\nAnswer A to question \1:\n(.*?)\n\nAnswer B to question \1:\n(.*?)(?=\n\n)",
    re.DOTALL,
)
_POLITE = ("please", "thanks", "kindly", "gladly")


@dataclass(frozen=True)
class Climb:
    """Keeps a new prompt if a judge prefers its answers.

    Args:
        rounds: prompts that are tried.
        n_questions: dev inputs that the judge sees answers to.
    """

    rounds: int = 3
    n_questions: int = 3

    source: ClassVar[str] = "tests"
    requires: ClassVar[frozenset[str]] = frozenset({"optimizer model", "judge"})
    when: ClassVar[str] = "in tests"
    usual_calls: ClassVar[str] = "about 20"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: one round."""
        return 2 * self.n_questions + 3

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role."""
        return {"optimizer": self.rounds, "task": self.n_questions * (self.rounds + 1), "judge": 2 * self.rounds}

    async def optimize(self, study: Study) -> Candidate:
        """Return the last prompt that won."""
        best, questions = study.initial, study.task.dev[: self.n_questions]
        study.propose(best)
        for _ in range(self.rounds):
            text = await study.write(WRITE, "prompt", instruction=best.prompt.instruction)
            child = study.candidate(text, parents=[best], operator="climb") if text else None
            if child is None:
                continue
            verdict = await study.judge(child, best, questions, n_votes=2)
            if verdict.is_won:
                best = child
                study.propose(best)
        return best


def unlabelled(n_train: int = 6, n_dev: int = 12, n_test: int = 20) -> Task:
    """Return a task without targets."""
    return replace(make_task(n_train, n_dev, n_test).without_targets(), metric=Unscored())


def is_judge(request: Request) -> bool:
    return "<verdicts>" in request.messages[-1].content


def shown(request: Request) -> list[tuple[str, str, str]]:
    """Return (question, answer A, answer B) of each question that a judge is shown."""
    return [found[1:] for found in _SHOWN.findall(request.messages[-1].content)]


def vote(request: Request) -> str:
    """Prefer the answer with more polite words; a tie if both have as many."""
    lines = []
    for i, (_, a, b) in enumerate(shown(request), 1):
        lead = sum(word in a for word in _POLITE) - sum(word in b for word in _POLITE)
        lines.append(f"{i}: {'A' if lead > 0 else 'B' if lead < 0 else 'tie'}")
    return "<verdicts>\n" + "\n".join(lines) + "\n</verdicts>"


def world(request: Request) -> str:
    """Answer as politely as the prompt speaks; write a prompt with one polite word more; judge politeness."""
    system = "".join(m.content for m in request.messages[:-1])
    last = request.messages[-1].content
    if is_judge(request):
        return vote(request)
    if "</prompt>" in last:
        used = [word for word in _POLITE if word in last]
        return f"<prompt>Name the colour, {' '.join(_POLITE[: len(used) + 1])}.</prompt>"
    said = [word for word in _POLITE if word in system and noise("said", word, system, last) < 0.8]
    return " ".join(["red", *said])


def transport(latency_seed: int | None = None) -> Scripted:
    return Scripted(world, latency_seed=latency_seed)
