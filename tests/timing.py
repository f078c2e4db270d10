"""Models whose answers arrive in an order that a test chooses: the last first, say, or one after all others.

A call waits here until nothing else can happen in the event loop; then one of those that wait is answered. So any
order of arrival can be had that calls in flight allow, without a clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from promptopt.errors import ContentRefused
from promptopt.testing import Double
from promptopt.types import Request, Response

# Turns of the event loop without a new call after which one counts as the last; a commit takes three.
_QUIET_TURNS = 12

Order = Callable[[random.Random, Sequence[str]], int]
"""Return which of the waiting calls, told by their digests in the order of asking, is answered next."""


def first(draw: random.Random, waiting: Sequence[str]) -> int:
    """Answer in the order of asking."""
    return 0


def last(draw: random.Random, waiting: Sequence[str]) -> int:
    """Answer what was asked last, so that whole batches arrive in reverse."""
    return len(waiting) - 1


def anyone(draw: random.Random, waiting: Sequence[str]) -> int:
    """Answer in a random order."""
    return draw.randrange(len(waiting))


def heavy_tailed(draw: random.Random, waiting: Sequence[str]) -> int:
    """Answer most calls soon, and some after hundreds of others."""
    return min(len(waiting) - 1, int(draw.paretovariate(0.5)) - 1)


def all_but_one(draw: random.Random, waiting: Sequence[str]) -> int:
    """Let one call wait until no other is left, then choose another such one."""
    starved = min(range(len(waiting)), key=lambda i: waiting[i])
    others = [i for i in range(len(waiting)) if i != starved]
    return draw.choice(others) if others else starved


def bursts(draw: random.Random, waiting: Sequence[str]) -> int:
    """Answer some in the order of asking, then some in reverse, and so on."""
    return 0 if draw.random() < 0.5 else len(waiting) - 1


ORDERS: tuple[Order, ...] = (anyone, last, heavy_tailed, all_but_one, bursts, first)


@dataclass
class Ordered(Double):
    """The double of promptopt.testing, whose answers arrive in the order that a seed draws.

    Args:
        seed: draws; every seventh lets answers come at once after a few turns, several in one.
        refuses: share of requests that are refused for good, by what they ask, whenever they come.
    """

    seed: int = 0
    refuses: float = 0.0
    _waiting: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    _n_asked: int = 0
    _releasing: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        """Choose the order."""
        super().__post_init__()
        self._draw = random.Random(self.seed)
        n = len(ORDERS) + 1
        self.order = None if self.seed % n == len(ORDERS) else ORDERS[self.seed % n]
        self.latency_seed = self.seed if self.order is None else None

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the answer when its turn has come."""
        if self.order is None:
            response = await super().send(request, timeout_s)
            self._refuse(request)
            return response
        self.requests.append(request)
        if self.on_request is not None:
            self.on_request(request)
        self._n_asked += 1
        self._waiting[request.digest] = turn = asyncio.get_running_loop().create_future()
        if self._releasing is None or self._releasing.done():
            self._releasing = asyncio.create_task(self._release())
        await turn
        self._refuse(request)
        response = self.respond(request)
        self.answers.append((request, response))
        return response

    def _refuse(self, request: Request) -> None:
        if random.Random(request.digest).random() < self.refuses:
            raise ContentRefused("stopped by a filter")

    async def _release(self) -> None:
        """Answer one call after the other, each when no more can be asked before it."""
        while self._waiting:
            n_quiet, n_before = 0, self._n_asked
            while n_quiet < _QUIET_TURNS:
                await asyncio.sleep(0)
                n_quiet = n_quiet + 1 if self._n_asked == n_before else 0
                n_before = self._n_asked
            assert self.order is not None
            chosen = list(self._waiting)[self.order(self._draw, list(self._waiting))]
            self._waiting.pop(chosen).set_result(None)
