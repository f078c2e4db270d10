"""What the simulator's server sends where a call is to fail: by kind, as real endpoints have been seen to fail."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from promptopt import protocol
from promptopt.protocol import Asked, Refusal
from promptopt.types import Response, Usage

if TYPE_CHECKING:
    from aiohttp import web

FAULTS: Mapping[str, str] = {
    # What passes: the same call may succeed next time.
    "500": "status 500 with an error object",
    "503": "status 503 with an error object",
    "429": "status 429 with Retry-After: 1",
    "429-bare": "status 429 that does not say when to come back",
    "hang": "no reply; the connection stays open",
    "drop": "the connection is closed without a reply",
    "endless-drip": "the beginning of a reply, byte by byte, and never its end",
    "bad-json": "status 200, JSON cut in the middle",
    "html": "status 200, a page in HTML",
    "empty-choices": "status 200, no choices",
    "error-in-200": "status 200, an error object",
    # What is an answer all the same.
    "drip": "the answer, byte by byte within a second",
    "wrong-type": "the answer, as text/plain",
    "no-usage": "status 200, no usage",
    "null-content": "status 200, a message without content",
    "content-filter": "status 200, no content, stopped by a content filter",
    # What asking again does not mend.
    "content-filter-400": "status 400, code content_filter",
    "too-long": "status 400, code context_length_exceeded",
    "400": "status 400 with an error object",
    "401": "status 401, code invalid_api_key",
    "403": "status 403 with an error object",
    "404": "status 404, code model_not_found",
    "quota": "status 429, code insufficient_quota",
}
# Kinds that send the simulator's own answer.
WHOLE = ("drip", "wrong-type")
HANG_S = 3600.0
_DRIP_S = 1.0
_BYTE_S = 0.2
_PAGE = "<html><head><title>Please wait</title></head><body><h1>Please wait</h1></body></html>\n"
_REFUSALS: Mapping[str, tuple[int, str, str | None]] = {
    "content-filter-400": (400, "the request was stopped by a content filter", "content_filter"),
    "too-long": (400, "this model's maximum context length is exceeded", "context_length_exceeded"),
    "401": (401, "incorrect API key provided", "invalid_api_key"),
    "404": (404, "the model does not exist", "model_not_found"),
    "quota": (429, "you exceeded your current quota", "insufficient_quota"),
    "429-bare": (429, "simulated fault 429", "rate_limit_exceeded"),
}


async def reply(request: web.Request, asked: Asked, kind: str, answer: Response | None) -> web.StreamResponse:
    """Return, or send, the reply of a call that is to fail as `kind` (see FAULTS).

    Args:
        answer: the simulator's answer, for kinds of WHOLE.
    """
    from aiohttp import web

    if kind == "hang":
        await asyncio.sleep(HANG_S)
    if kind in ("hang", "drop"):
        if request.transport is not None:
            request.transport.abort()
        return web.Response()  # reaches nobody
    if kind in _REFUSALS or kind.isdigit():
        status, message, code = _REFUSALS.get(kind) or (int(kind), f"simulated fault {kind}", None)
        return error_reply(Refusal(status, message, code=code, retry_after_s=1.0 if kind == "429" else None))
    if kind == "html":
        return web.Response(text=_PAGE, content_type="text/html")
    if kind == "error-in-200":
        return web.json_response(Refusal(500, "simulated fault in a reply with status 200").body)
    text = json.dumps(_body(asked, kind, answer))
    if kind in ("drip", "endless-drip"):
        return await _drip(request, text.encode(), _DRIP_S / len(text) if kind == "drip" else _BYTE_S)
    content_type = "text/plain" if kind == "wrong-type" else "application/json"
    return web.Response(text=text[:80] if kind == "bad-json" else text, content_type=content_type)


def error_reply(refusal: Refusal) -> web.Response:
    """Return the reply that says why a request is refused."""
    from aiohttp import web

    headers: dict[str, str] = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))  # whole seconds, says HTTP
        headers["Retry-After-Ms"] = str(math.ceil(1000 * refusal.retry_after_s))
    return web.json_response(refusal.body, status=refusal.status, headers=headers)


def _body(asked: Asked, kind: str, answer: Response | None) -> dict[str, Any]:
    """Return the body of a chat completion, with what `kind` takes from it."""
    told = answer or Response("This reply is a simulated fault.", Usage(8, 8), None)
    body = protocol.completion(asked, told)
    choice = body["choices"][0]
    if kind == "empty-choices":
        body["choices"] = []
    elif kind == "no-usage":
        del body["usage"]
    elif kind in ("null-content", "content-filter"):
        choice["message"]["content"] = None
        choice["finish_reason"] = "stop" if kind == "null-content" else "content_filter"
    return body


async def _drip(request: web.Request, data: bytes, pause_s: float) -> web.StreamResponse:
    """Send a reply a byte at a time; one with long pauses never gets to its end."""
    from aiohttp import web

    reply = web.StreamResponse(headers={"Content-Type": "application/json"})
    await reply.prepare(request)
    for i in itertools.count():
        if i >= len(data) and pause_s < _BYTE_S:
            break
        await reply.write(data[i : i + 1] or b" ")
        await asyncio.sleep(pause_s)
    await reply.write_eof()
    return reply
