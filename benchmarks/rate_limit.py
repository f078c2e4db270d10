"""What share of an endpoint's rate limit a run uses, and how many of its calls are refused.

    python benchmarks/rate_limit.py                      # the table of docs/benchmarks.md, about 45 s

A server on this machine takes 20 calls a second (a bucket that holds 5) and answers after 50 ms; what exceeds
that gets status 429, in one mode with `Retry-After: 1`. It is called through the gateway and litellm, with no
limit set, for 20 s; `used` is the share of what the server would have taken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from promptopt.errors import TransientError
from promptopt.gateway import Call, Gateway
from promptopt.journal import Journal
from promptopt.pacing import Pacing
from promptopt.providers import LitellmTransport, load_litellm
from promptopt.types import Message, Request

REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "red"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
}
REFUSAL = {"error": {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit"}}


@dataclass
class Limited:
    """A server with a bucket of calls."""

    rate: float
    burst: float
    latency_s: float
    retry_after: bool
    n_taken: int = 0
    n_refused: int = 0

    async def serve(self) -> asyncio.Server:
        self._level, self._seen_s = self.burst, time.monotonic()
        return await asyncio.start_server(self._talk, "127.0.0.1", 0)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))
                writer.write(await self._reply())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()  # the client has gone, or the measurement is over

    async def _reply(self) -> bytes:
        now_s = time.monotonic()
        self._level = min(self.burst, self._level + (now_s - self._seen_s) * self.rate)
        self._seen_s = now_s
        if self._level < 1:
            self.n_refused += 1
            return packed(429, REFUSAL, "Retry-After: 1\r\n" if self.retry_after else "")
        self._level -= 1
        self.n_taken += 1
        await asyncio.sleep(self.latency_s)
        return packed(200, REPLY)


def packed(status: int, body: object, headers: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


async def measure(server: Limited, seconds: float, concurrency: int, folder: Path) -> tuple[float, float]:
    """Return the share of the limit that was used, and the share of calls that were refused."""
    listening = await server.serve()
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    with Journal(folder / "journal.db") as journal:
        gateway = Gateway(journal, {"": LitellmTransport(())}, concurrency=concurrency, pacing=Pacing())

        async def ask(i: int) -> None:
            request = Request("m", (Message("user", str(i)),), 16, api_base=url)
            try:
                await gateway.answer(Call(request, bytes.fromhex(request.digest), "task", "search", 60))
            except TransientError as error:
                print("failed for good:", error)

        await ask(-1)  # litellm's first call takes half a second
        await asyncio.sleep(server.burst / server.rate)
        server.n_taken = 0
        tasks = [asyncio.ensure_future(ask(i)) for i in range(round(2 * server.rate * seconds))]
        await asyncio.sleep(seconds)
        n_taken, n_refused = server.n_taken, server.n_refused
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    listening.close()
    return n_taken / (server.rate * seconds), n_refused / max(1, n_taken + n_refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--burst", type=float, default=5)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--concurrency", type=int, default=16)
    args = parser.parse_args()
    load_litellm()
    print("| Retry-After | used | refused |\n|---|---|---|")
    for retry_after in (False, True):
        server = Limited(args.rate, args.burst, args.latency_ms / 1000, retry_after)
        with tempfile.TemporaryDirectory() as folder:
            used, refused = asyncio.run(measure(server, args.seconds, args.concurrency, Path(folder)))
        print(f"| {'1 s' if retry_after else 'none'} | {100 * used:.0f}% | {100 * refused:.1f}% |", flush=True)


if __name__ == "__main__":
    main()
