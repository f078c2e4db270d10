"""A model whose skill hangs on marker words in the prompt: what tests of pruning search over."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from scripted import LABELS, Scripted, make_study, make_task

from promptopt.asking import RunState
from promptopt.study import Study
from promptopt.task import Task
from promptopt.types import Prompt, Request, Response

R = TypeVar("R")

TEXT = "Please name the GOOD colour now, in a FINE way, of what the FINE item GOOD shows here."
N_MARKERS = 4
_MARKER = re.compile("GOOD|FINE")


def drive(work: Coroutine[Any, Any, R]) -> R:
    return asyncio.run(work)


def liking(text: str) -> float:
    """Return how good a prompt is, in [-1, 1]: a fifth for each marker, less a little for its length."""
    return 0.2 * len(_MARKER.findall(text)) - 0.01 * len(re.findall(r"\w+", text))


@dataclass
class Marked(Scripted):
    """Answers with a probability of the right label that a function of the prompt gives.

    Args:
        liked: returns the gap between right and wrong label for a prompt, in [-1, 1].
    """

    reply: Callable[[Request], str] = lambda request: ""
    liked: Callable[[str], float] = liking

    def respond(self, request: Request) -> Response:
        gap = self.liked(prompt_of(request))
        n = item_of(request)
        right, wrong, third = (LABELS[(n + k) % 3] for k in range(3))
        p = max(1e-6, min(1 - 1e-6, (1 + gap) / 2))
        pairs = sorted([(right, p), (wrong, 1 - p), (third, 1e-9)], key=lambda pair: -pair[1])
        if request.top_logprobs:
            logprobs = tuple((label, math.log(p)) for label, p in pairs)
            return Response(pairs[0][0], self.usage, self.cost_usd, logprobs=logprobs)
        # Sure of the right label, the model is right on all items; in doubt, on a share of them.
        said = right if (n * 0.618) % 1 < (1 + gap) / 2 else "no idea"
        return Response(said, self.usage, self.cost_usd)

    @property
    def prompts(self) -> list[str]:
        """The prompts that were asked about, in order, each once."""
        return list(dict.fromkeys(prompt_of(request) for request in self.requests))


def prompt_of(request: Request) -> str:
    return "\n".join(message.content for message in request.messages[:-1])


def item_of(request: Request) -> int:
    return int(request.messages[-1].content.split()[-1])


def marked_task(text: str = TEXT, n_dev: int = 40, n_train: int = 12) -> Task:
    return replace(make_task(n_train=n_train, n_dev=n_dev), initial=Prompt(text))


def study_of(
    transport: Scripted, task: Task, *, has_logprobs: bool = True, n_calls: int = 10**6, seed: int = 0
) -> tuple[Study, RunState]:
    """Return a study whose task model gives log-probabilities, or none."""
    study, state = make_study(transport, task=task, n_calls=n_calls, seed=seed)
    spec = replace(state.models["task"], top_logprobs=20 if has_logprobs else 0)
    state.models = {**state.models, "task": spec}
    return study, state
