"""Test doubles at the real seam: transports that note what they are asked, and a model for each role."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from promptopt.plan import Plan
from promptopt.simulator import LANDSCAPES, PRICE_IN, PRICE_OUT, Landscape, Simulator, count_tokens
from promptopt.task import Task
from promptopt.types import Request, Response, Role, Usage

_MOST_TURNS = 6
_TOKEN_CHARS = 4

Habit = Callable[[Request], str | None]
"""Return what a model says to a request; None = the honest reply."""


@dataclass
class Recorder:
    """A transport that notes requests and answers, and answers after a seeded number of turns.

    Args:
        latency_seed: decides how many turns of the event loop each answer takes; None = all come at once.
        requests: all that was asked, in order of asking.
        answers: requests that were answered with their answers, in order of answering.
        on_request: called with each request before it is answered; may raise an error below ProviderError.
    """

    latency_seed: int | None = field(default=None, kw_only=True)
    requests: list[Request] = field(default_factory=list, kw_only=True)
    answers: list[tuple[Request, Response]] = field(default_factory=list, kw_only=True)
    on_request: Callable[[Request], None] | None = field(default=None, kw_only=True)

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the answer to `request`; see promptopt.providers.Transport."""
        self.requests.append(request)
        if self.on_request is not None:
            self.on_request(request)
        if self.latency_seed is not None:
            for _ in range(random.Random(f"{self.latency_seed}{request.digest}").randrange(_MOST_TURNS)):
                await asyncio.sleep(0)
        response = self.respond(request)
        self.answers.append((request, response))
        return response

    def respond(self, request: Request) -> Response:
        """Return the answer to `request`."""
        raise NotImplementedError


@dataclass
class Double(Recorder):
    """The built-in simulator in every role; single roles may have habits.

    Args:
        task: whose examples it knows, test included.
        habits: by role, what is said instead of the honest reply.
        landscape: how the simulator responds to prompts.
    """

    task: Task
    habits: Mapping[Role, Habit] = field(default_factory=dict)
    landscape: Landscape = LANDSCAPES["default"]

    def __post_init__(self) -> None:
        """Make the simulator."""
        self._simulator = Simulator(self.landscape)
        self._simulator.learn((*self.task.train, *self.task.dev, *self.task.test))

    def respond(self, request: Request) -> Response:
        """Return what the role's habit says, cut at `max_tokens`, or else the simulator's answer."""
        habit = next((habit for role, habit in self.habits.items() if role == role_of(request)), None)
        said = None if habit is None else habit(request)
        if said is None:
            return self._simulator.complete(request)
        text = said[: request.max_tokens * _TOKEN_CHARS]
        n_in = sum(count_tokens(message.content) for message in request.messages)
        n_out = count_tokens(text)
        return Response(text, Usage(n_in, n_out), n_in * PRICE_IN + n_out * PRICE_OUT)


def by_role(plan: Plan) -> Plan:
    """Return `plan` with models named for their roles, so that a transport can tell who is asked."""
    models = {role: replace(spec, name=f"sim:{role}") for role, spec in plan.models.items()}
    return replace(plan, models=models)


def role_of(request: Request) -> str:
    """Return the role that is asked, for a plan of `by_role`."""
    return request.model.partition(":")[2]
