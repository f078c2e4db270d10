"""The simulator as an OpenAI-compatible server on this machine, with slowness, limits and faults on demand.

Answers are those of the built-in simulator. Where a client samples (temperature above 0), its `seed` tells draws
apart; without one, the n-th equal request gets the n-th draw, whatever else is asked in between.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import ipaddress
import math
import random
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from promptopt import fault, protocol
from promptopt.errors import ConfigError, nearest
from promptopt.fault import FAULTS
from promptopt.protocol import Asked, Refusal
from promptopt.providers import is_simulator
from promptopt.simulator import LANDSCAPES, Simulator, landscape
from promptopt.types import Example, Response

if TYPE_CHECKING:
    from aiohttp import web

_MAX_BODY = 16 * 2**20  # bytes; prompts with many demonstrations are long
_LEAST = 0.001  # of rates and seconds; what is far below makes waits endless
_CLOSE_S = 0.5  # that replies on their way have when the server ends


@dataclass(frozen=True)
class ServerOptions:
    """How the server behaves; the defaults make it instant, without limits or faults.

    Args:
        port: 0 = any free one.
        host: a loopback address, or localhost (which is 127.0.0.1).
        landscape: what the model `sim` is.
        seed: decides which examples are hard, as in `Simulator`; and jitter and faults.
        latency_ms: mean time that an answer takes, in milliseconds.
        jitter_ms: most that it is off the mean, evenly spread; at most `latency_ms`.
        calls_per_second: answers a second, with a burst of as many; None = no limit.
        tokens_per_minute: tokens a minute, in and out, with a burst of as many; None = no limit.
        fault_rate: share of the calls that fail, from 0 to 1.
        faults: kinds of failure (see FAULTS), equally likely; () = 500.
        max_seconds: the server ends by itself after so long; None = it does not.

    Raises:
        ConfigError: a value makes no sense.
    """

    port: int = 0
    host: str = "127.0.0.1"
    landscape: str = "default"
    seed: int = 0
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    calls_per_second: float | None = None
    tokens_per_minute: float | None = None
    fault_rate: float = 0.0
    faults: tuple[str, ...] = ()
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        _ = landscape(self.landscape), self.address
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port is {self.port}; write 1 to 65535, or 0 for any free port")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; it must be at least 0")
        for name in ("latency_ms", "jitter_ms", "fault_rate"):
            _check(name, getattr(self, name), is_right=getattr(self, name) >= 0, wanted="at least 0")
        for name in ("calls_per_second", "tokens_per_minute", "max_seconds"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, is_right=value >= _LEAST, wanted=f"at least {_LEAST}")
        _check(
            "jitter_ms", self.jitter_ms, is_right=self.jitter_ms <= self.latency_ms, wanted="at most --latency-ms"
        )
        _check("fault_rate", self.fault_rate, is_right=self.fault_rate <= 1, wanted="at most 1")
        for kind in self.faults:
            if kind not in FAULTS:
                raise ConfigError(f"--fault {kind!r} does not exist; {nearest(kind, FAULTS)}")
        if self.faults and not self.fault_rate:
            raise ConfigError("--fault needs --fault-rate, the share of calls that fail, such as 0.1")

    @property
    def address(self) -> str:
        """The numeric loopback address to listen on; others can see right answers, and no key is asked for."""
        host = "127.0.0.1" if self.host == "localhost" else self.host
        try:
            is_loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            raise ConfigError(
                f"--host is {self.host!r}; only this machine may reach the simulator: write 127.0.0.1 or ::1"
            )
        return host


def _check(name: str, value: float, *, is_right: bool, wanted: str) -> None:
    if not is_right or not math.isfinite(value):
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be {wanted}, and finite")


class Allowance:
    """An amount that grows with time up to a most, from which calls take (a token bucket); it starts full.

    Args:
        most: what can be saved up.
        per_s: growth in a second.
        clock: gives seconds; replaced in tests.
    """

    def __init__(self, most: float, per_s: float, clock: Callable[[], float]) -> None:
        self._most, self._per_s, self._clock = most, per_s, clock
        self._left, self._seen = most, clock()

    def lack_s(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken, 0 = now; more than the most waits for a full one."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._per_s)
        self._seen = now
        lacking = min(amount, self._most) - self._left
        return lacking / self._per_s if lacking > 1e-9 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount`; where it is more than there is, later calls wait for it."""
        self._left -= amount


class SimulatedService:
    """Answers chat requests with simulators that know the same examples, within limits.

    Args:
        examples: what the simulator is told; without any it answers as to inputs that it does not know.
        clock: gives seconds; replaced in tests.
    """

    def __init__(
        self,
        options: ServerOptions,
        examples: Iterable[Example] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._examples = tuple(examples)
        self._simulators: dict[str, Simulator] = {}
        self._n_asked = collections.Counter[str]()
        # Apart, so that a change of one does not move the others.
        self._latencies, self._faults = (random.Random(f"{options.seed}/{name}") for name in ("latency", "fault"))
        calls, tokens = options.calls_per_second, options.tokens_per_minute
        self._calls = None if calls is None else Allowance(max(1.0, calls), calls, clock)
        self._tokens = None if tokens is None else Allowance(tokens, tokens / 60, clock)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return ("sim", *(f"sim:{name}" for name in LANDSCAPES))

    def answer(self, asked: Asked) -> Response:
        """Return the simulator's answer.

        Raises:
            Refusal: 404 for an unknown model, 429 beyond a limit.
        """
        simulator = self._simulator(asked.request.model)
        if self._calls is not None:
            _refuse_beyond(self._calls, 1, "calls a second")
        request, key = asked.request, asked.request.digest
        is_counted = bool(request.temperature) and not request.sample
        if is_counted and self._n_asked[key]:
            request = replace(request, sample=f"again {self._n_asked[key]}")
        response = simulator.complete(request)
        usage = response.usage
        if self._tokens is not None and usage is not None:
            n_tokens = usage.input_tokens + usage.output_tokens
            _refuse_beyond(self._tokens, n_tokens, "tokens a minute")
            self._tokens.take(n_tokens)
        if self._calls is not None:
            self._calls.take(1)
        if is_counted:
            self._n_asked[key] += 1
        return response

    def latency_s(self) -> float:
        """Return how long the next answer takes."""
        options = self._options
        return (options.latency_ms + options.jitter_ms * self._latencies.uniform(-1, 1)) / 1000

    def fault(self) -> str | None:
        """Return the kind of failure of the next call; None = it succeeds."""
        is_fault, kind = self._faults.random() < self._options.fault_rate, self._faults.random()
        kinds = self._options.faults or ("500",)
        return kinds[int(kind * len(kinds))] if is_fault else None

    def _simulator(self, model: str) -> Simulator:
        short = model.partition(":")[2] if ":" in model else self._options.landscape
        if not is_simulator(model) or short not in LANDSCAPES:
            message = f"model {model[:80]!r} does not exist; {nearest(model, self.models)}"
            raise Refusal(404, message, code="model_not_found", param="model")
        if short not in self._simulators:
            simulator = Simulator(landscape(short), seed=self._options.seed)
            simulator.learn(self._examples)
            self._simulators[short] = simulator
        return self._simulators[short]


def _refuse_beyond(allowance: Allowance, amount: float, what: str) -> None:
    wait_s = allowance.lack_s(amount)
    if wait_s:
        message = f"Rate limit reached ({what}); try again in {math.ceil(wait_s)} s"
        raise Refusal(429, message, code="rate_limit_exceeded", retry_after_s=wait_s)


def run_server(
    options: ServerOptions, examples: Iterable[Example] = (), announce: Callable[[str], None] = print
) -> None:
    """Serve until SIGINT or SIGTERM comes, or the time is over; `announce` gets the address once it listens.

    Raises:
        ConfigError: the port cannot be used, or aiohttp is not installed; nothing was served.
    """
    _check_installed()
    service = SimulatedService(options, examples)

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await serve_until(stop, service, options, announce)

    asyncio.run(serve())


async def serve_until(
    stop: asyncio.Event,
    service: SimulatedService,
    options: ServerOptions,
    announce: Callable[[str], None],
) -> None:
    """Serve until `stop` is set or `options.max_seconds` are over.

    Raises:
        ConfigError: the port cannot be used.
    """
    from aiohttp import web

    address = options.address
    # A client that gives up ends its call, so that hanging ones do not pile up.
    runner = web.AppRunner(
        make_app(service), handler_cancellation=True, shutdown_timeout=_CLOSE_S, access_log=None
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address, options.port).start()
        except OSError as error:
            known = {errno.EADDRINUSE: "is in use", errno.EACCES: "may not be used by you"}
            why = known.get(error.errno or 0, f"cannot be used ({error.strerror})")
            raise ConfigError(
                f"--port {options.port} of {address} {why}; take another one, or 0 for any free port"
            ) from error
        name = f"[{address}]" if ":" in address else address
        announce(f"http://{name}:{runner.addresses[0][1]}/v1")
        try:
            await asyncio.wait_for(stop.wait(), options.max_seconds)
        except TimeoutError:
            return  # the time that was asked for is over
    finally:
        await runner.cleanup()


def make_app(service: SimulatedService) -> web.Application:
    """Return the server as an aiohttp application."""
    from aiohttp import web

    async def chat(request: web.Request) -> web.StreamResponse:
        asked = protocol.read_chat(protocol.parse(await request.read()))
        latency_s, kind = service.latency_s(), service.fault()
        is_answered = kind is None or kind in fault.WHOLE
        answer = service.answer(asked) if is_answered else None
        await asyncio.sleep(latency_s)
        if kind is not None:
            return await fault.reply(request, asked, kind, answer)
        assert answer is not None
        return web.json_response(protocol.completion(asked, answer))

    async def models(_: web.Request) -> web.Response:
        return web.json_response(protocol.model_list(service.models))

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "model": "simulated"})

    async def embeddings(_: web.Request) -> web.Response:
        raise Refusal(
            404, "the simulator gives no embeddings; leave the embedding model out", code="not_supported"
        )

    @web.middleware
    async def explain(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except Refusal as refusal:
            return fault.error_reply(refusal)
        except web.HTTPException as error:
            message = f"{request.method} {request.path}: {error.reason}; see docs/simulator.md for what is served"
            return fault.error_reply(Refusal(error.status, message))
        return response

    app = web.Application(middlewares=[explain], client_max_size=_MAX_BODY)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    return app


def _check_installed() -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "promptopt simulate needs aiohttp; install it with pip install 'promptopt-suite[server]'"
        ) from error
