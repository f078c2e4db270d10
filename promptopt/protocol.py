"""OpenAI's chat protocol on the side of a server: request bodies to requests, responses to reply bodies.

Nothing here knows of HTTP or of the simulator. A body that cannot be honoured is refused, never half obeyed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptopt.types import Message, Request, Response, digest

# OpenAI calls the system's message so for reasoning models.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MOST_TOP_LOGPROBS = 20
_MOST_TEMPERATURE = 2.0
# What a reply without a limit may have; longer than anything that is written.
_NO_LIMIT = 1_000_000
# They would change what a reply holds; left unread, a client would take the reply for something else.
_UNSUPPORTED = ("tools", "functions", "audio", "modalities", "stop", "prediction")
_FINGERPRINT = "simulated"


class Refusal(Exception):
    """A request that is answered with an error object.

    Args:
        status: HTTP status.
        message: what is wrong, and what to do.
        code: OpenAI's word for it, for programs; None = none.
        param: the field that is wrong; None = none.
        retry_after_s: seconds to wait before another try; None = not said.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = {429: "rate_limit_error", 404: "not_found_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A chat request as the client meant it.

    Args:
        request: what to ask the model; `sample` is the client's `seed`, "" without one.
        n_top_logprobs: alternatives to report with the first answer token, 0 to 20; None = no log-probabilities.
    """

    request: Request
    n_top_logprobs: int | None


def parse(raw: bytes) -> Mapping[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        Refusal: 400, it holds none.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON that can be read ({error}); send one JSON object") from error
    if not isinstance(body, dict):
        raise Refusal(400, "the body is JSON, but no object; send an object with model and messages")
    return body


def read_chat(body: Mapping[str, Any]) -> Asked:
    """Return what the body of a chat completion asks for.

    Raises:
        Refusal: 400, with the field that is wrong or not supported.
    """
    _check_supported(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", model, "name a model, such as sim")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", messages, "send a list of at least one message")
    n_top = _top_logprobs(body)
    seed = _whole(body, "seed", -(2**63))
    request = Request(
        model=model,
        messages=tuple(_message(place, message) for place, message in enumerate(messages)),
        max_tokens=_max_tokens(body),
        temperature=_temperature(body),
        top_logprobs=0 if n_top is None else max(1, n_top),
        sample="" if seed is None else str(seed),
    )
    return Asked(request, n_top)


def completion(asked: Asked, response: Response) -> dict[str, Any]:
    """Return the reply body of a chat completion; the same answer gives the same bytes, its date is always 0."""
    usage = response.usage
    body: dict[str, Any] = {
        "id": f"chatcmpl-{digest(asked.request.digest, response.text)}",
        "object": "chat.completion",
        "created": 0,
        "model": asked.request.model,
        "system_fingerprint": _FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": response.text, "refusal": None},
                "logprobs": _logprobs(asked, response),
                "finish_reason": response.finish_reason,
            }
        ],
    }
    if usage is not None:
        body["usage"] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
    return body


def model_list(names: tuple[str, ...]) -> dict[str, Any]:
    """Return the body of the list of models."""
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": _FINGERPRINT} for name in names]
    return {"object": "list", "data": rows}


def _check_supported(body: Mapping[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if body.get(name):
            raise Refusal(400, f"{name} is not supported by the simulator; leave it out", param=name)
    if body.get("stream") not in (None, False):
        raise Refusal(400, "stream is not supported by the simulator; leave it out, or false", param="stream")
    if body.get("n") is not None and (body["n"] != 1 or isinstance(body["n"], bool)):
        raise _wrong("n", body["n"], "the simulator gives 1 choice; ask again for more")
    form = body.get("response_format")
    if form is not None and form != {"type": "text"}:
        message = "response_format is not supported by the simulator, which writes text; leave it out"
        raise Refusal(400, message, param="response_format")


def _message(place: int, message: object) -> Message:
    name = f"messages[{place}]"
    if not isinstance(message, dict):
        raise _wrong(name, message, "send an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{name}.role", role, f"use one of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return Message(_ROLES[role], content)
    if not isinstance(content, list) or not content:
        raise _wrong(f"{name}.content", content, "send text, or a list of text parts")
    return Message(_ROLES[role], "\n".join(_part(f"{name}.content[{i}]", part) for i, part in enumerate(content)))


def _part(name: str, part: object) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, dict) else part
        raise _wrong(name, kind, 'the simulator reads text only: {"type": "text", "text": "..."}')
    return str(part["text"])


def _max_tokens(body: Mapping[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = _whole(body, name, 1)
        if limit is not None:
            return limit
    return _NO_LIMIT


def _temperature(body: Mapping[str, Any]) -> float | None:
    value = body.get("temperature")
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MOST_TEMPERATURE:
        raise _wrong("temperature", value, "send a number from 0 to 2")
    return float(value)


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = body.get("logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise _wrong("logprobs", wanted, "send true or false")
    n_top = _whole(body, "top_logprobs", 0)
    if n_top is not None and n_top > _MOST_TOP_LOGPROBS:
        raise _wrong("top_logprobs", n_top, f"send 0 to {_MOST_TOP_LOGPROBS}")
    if n_top and not wanted:
        raise _wrong("top_logprobs", n_top, "it needs logprobs: true")
    return (n_top or 0) if wanted else None


def _whole(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(name, value, f"send a whole number{'' if least < 0 else f' of at least {least}'}")
    return value


def _wrong(name: str, value: object, remedy: str) -> Refusal:
    shown = json.dumps(value, default=str)
    return Refusal(400, f"{name} is {shown[:80]}; {remedy}", param=name)


def _logprobs(asked: Asked, response: Response) -> dict[str, Any] | None:
    if asked.n_top_logprobs is None or not response.logprobs:
        return None
    rows = [_token(token, value) for token, value in response.logprobs]
    return {"content": [rows[0] | {"top_logprobs": rows[: asked.n_top_logprobs]}], "refusal": None}


def _token(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode("utf-8", "surrogatepass"))}
