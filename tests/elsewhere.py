"""The transport, with the providers' addresses replaced by one on this machine."""

from __future__ import annotations

import asyncio
from typing import Any

from loopback import Loopback, Reply

from promptopt.providers import LitellmTransport, load_litellm
from promptopt.types import Message, Request, Response

ASKED = (Message("user", "hello"),)


class Elsewhere(LitellmTransport):
    """Sends litellm to `address`, its own arguments for that, in each provider's manner."""

    def __init__(self, address: dict[str, Any]) -> None:
        super().__init__(())
        self.address = address

    def _arguments(self, request: Request) -> dict[str, Any]:
        return super()._arguments(request) | self.address


async def close_clients() -> None:
    """Close the connections that litellm keeps for this event loop, or they would warn in a later test."""
    litellm = load_litellm()
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    await close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()
    await asyncio.sleep(0)


def ask(server: Loopback, model: str, reply: Reply, *, timeout_s: float = 10) -> Response:
    """Send one request to a provider's API that the server plays; it must be hit exactly once."""
    server.answer = lambda body: reply
    before = len(server.bodies)
    root = server.url.removesuffix("/v1")
    provider = model.partition("/")[0]
    path = {"anthropic": "", "gemini": "", "cohere_chat": "/v2/chat"}.get(provider, "/v1")

    async def main() -> Response:
        async with asyncio.timeout(20):
            transport = Elsewhere({"api_base": root + path, "api_key": "sk-example"})
            try:
                return await transport.send(Request(model, ASKED, 64, temperature=None), timeout_s)
            finally:
                await close_clients()

    try:
        return asyncio.run(main())
    finally:
        assert len(server.bodies) == before + 1
