"""The simulator on a port of this machine, which counts what it is asked, and a direct client for it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp import web

from promptopt.errors import ConnectionLost
from promptopt.protocol import Asked
from promptopt.server import ServerOptions, SimulatedService, make_app
from promptopt.simulator import PRICE_IN, PRICE_OUT
from promptopt.types import Example, Request, Response, Usage


class Counting(SimulatedService):
    """A simulator whose answer hangs on the request alone, as a resumed run needs it, with a count of requests."""

    def __init__(self, options: ServerOptions, examples: tuple[Example, ...]) -> None:
        super().__init__(options, examples)
        self.asked: Counter[str] = Counter()
        self.address = ""

    def answer(self, asked: Asked) -> Response:
        """Return the simulator's answer, counted."""
        self.asked[asked.request.digest] += 1
        return self._simulator(asked.request.model).complete(asked.request)

    @property
    def n_asked(self) -> int:
        """Requests so far."""
        return self.asked.total()


@contextmanager
def counted(examples: tuple[Example, ...], latency_ms: float = 10) -> Iterator[Counting]:
    """Serve from a thread until the block ends; half of the latency is jitter."""
    service = Counting(ServerOptions(latency_ms=latency_ms, jitter_ms=latency_ms / 2), examples)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(make_app(service), handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        service.address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


class Direct:
    """A transport that asks such a server without litellm, whose import takes seconds."""

    def __init__(self, address: str) -> None:
        self._url = f"{address}/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the answer to `request`; see promptopt.providers.Transport."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with self._session.post(self._url, json=_body(request)) as reply:
                assert reply.status == 200, await reply.text()
                said = await reply.json()
        except aiohttp.ClientError as error:
            raise ConnectionLost(str(error)) from error
        return _response(said)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _body(request: Request) -> dict[str, Any]:
    return {
        "model": request.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        **({} if request.temperature is None else {"temperature": request.temperature}),
        **({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
    }


def _response(said: Mapping[str, Any]) -> Response:
    choice, used = said["choices"][0], said["usage"]
    usage = Usage(used["prompt_tokens"], used["completion_tokens"])
    cost = usage.input_tokens * PRICE_IN + usage.output_tokens * PRICE_OUT
    top = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs")
    logprobs = None if top is None else tuple((row["token"], row["logprob"]) for row in top)
    return Response(choice["message"]["content"], usage, cost, 0.0, choice["finish_reason"], logprobs)
