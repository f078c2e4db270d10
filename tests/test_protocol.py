"""OpenAI's chat protocol on the side of a server: what is read, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from promptopt.protocol import Refusal, parse, read_chat
from promptopt.types import Message

GOOD: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": 3}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "messages[0].content[0]"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"stream": True}, "stream"),
    ({"tools": [{}]}, "tools"),
    ({"stop": "."}, "stop"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"seed": "x"}, "seed"),
]


@pytest.mark.parametrize(("change", "param"), WRONG, ids=[json.dumps(change) for change, _ in WRONG])
def test_refuses_what_it_cannot_honour(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal, match=r"; ") as caught:
        read_chat(GOOD | change)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"]
)
def test_refuses_bodies_that_are_no_object(raw: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse(raw)
    assert caught.value.status == 400


def test_parts_and_developer_messages_count_as_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "Sort."}, {"role": "user", "content": parts}]
    request = read_chat({"model": "sim", "messages": messages, "max_completion_tokens": 7}).request
    assert request.messages == (Message("system", "Sort."), Message("user", "one\ntwo"))
    assert request.max_tokens == 7
