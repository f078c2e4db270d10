"""A server that repeats the keys it was sent, and a search for them in what a run leaves behind."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from loopback import Reply, chat, failure

# Made up; each is looked for in every form.
KEYS = {
    "OPENAI_API_KEY": "sk-proj-Qm7xTz41/vWk+93bLd80",
    "ANTHROPIC_API_KEY": "sk-ant-api03-Rn8yUa52wXl04cMe91",
    "GEMINI_API_KEY": "AIzaSyB-9zVb63xYm15dNf02gPo26eQh37fRi48",
    "AWS_ACCESS_KEY_ID": "AKIAT7AWC74YZN26EOG1",
    "AWS_SECRET_ACCESS_KEY": "u8/BXd85+Zao37fPh24gQi46hRj57iSk68",
    "AWS_SESSION_TOKEN": "v9CYe96AabP48gQi35hRj57",
    "AZURE_API_KEY": "0d7a9c64be1f4835a2069d8e7b3c5f10",
    "HF_TOKEN": "hf_WaDZfBgCbQhRjTkUlVmXn",
}
PATH_TOKEN = "t0k3nInThePath84hRj57iSk68"
SPOILED = 4  # every such answer repeats the keys


def said() -> str:
    """Return what a chatty server says of a call: the keys plain, quoted for a URL, and in base64."""
    lines = [f"{name}: {form}" for name, key in KEYS.items() for form in (key, quote(key, safe=""), encoded(key))]
    return f"Incorrect API key provided: {KEYS['OPENAI_API_KEY']}. Path {PATH_TOKEN}. {'; '.join(lines)}"


def encoded(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


def headers() -> tuple[tuple[str, str], ...]:
    key = KEYS["OPENAI_API_KEY"]
    return (("x-echo-authorization", f"Bearer {key}"), ("x-request-id", key), ("retry-after", "0"))


def answering(n: Callable[[], int]) -> Callable[[dict[str, Any]], Reply]:
    """Return answers whose headers and records hold the keys, some of whose texts do as well."""

    def answer(body: dict[str, Any]) -> Reply:
        text = "<prompt>Sort it: {{message}}</prompt>" if "</prompt>" in str(body["messages"]) else "billing"
        if n() % SPOILED == 0:
            text = f"{said()} {text} {said()}"
        reply = chat(text, model=KEYS["OPENAI_API_KEY"])
        assert isinstance(reply.body, dict)
        return Reply(reply.body | {"id": said(), "system_fingerprint": said()}, headers=headers())

    return answer


def failing(status: int) -> Callable[[dict[str, Any]], Reply]:
    """Return failures whose messages and headers hold the keys."""
    reply = failure(status, said())
    return lambda body: Reply(reply.body, status, headers())


def page(body: dict[str, Any]) -> Reply:
    """Return a page instead of an answer."""
    return Reply(f"<html>{said()}</html>", headers=headers())


def odd(body: dict[str, Any]) -> Reply:
    """Return a whole reply in a form that nobody expects, so that the code which reads it fails."""
    return Reply({"choices": [{"message": {"content": {said(): said()}}}], "usage": said()}, headers=headers())


FAILURES: dict[str, Callable[[dict[str, Any]], Reply]] = {
    **{str(status): failing(status) for status in (400, 401, 403, 404, 429, 500, 503)},
    "page": page,
    "odd": odd,
}


def place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the keys into the environment."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


def forms(key: str) -> Iterator[bytes]:
    """Yield the bytes by which a key is found: in UTF-8 and UTF-16, quoted, in JSON, in base64 at any offset."""
    for text in {key, quote(key, safe=""), quote(key), json.dumps(key)[1:-1], key.replace("/", "\\/")}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            yield text.encode(encoding)
    for i in range(3):  # the letters that do not hang on what stands around
        code = base64.b64encode(b"\0" * i + key.encode())[(0, 2, 3)[i] :].rstrip(b"=")[:-1]
        yield from (code, code.translate(bytes.maketrans(b"+/", b"-_")))


def leaks(data: bytes | str) -> list[str]:
    """Return the names of the keys that some text holds in any form."""
    found = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    keys = {**KEYS, "the path": PATH_TOKEN}
    return [name for name, key in keys.items() if any(form in found for form in forms(key))]


def leaks_below(folder: Path) -> list[str]:
    """Return which files below a folder hold which key, their names included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, f"{folder} is empty"
    return [f"{path.name}: {name}" for path in files for name in leaks(path.read_bytes()) + leaks(path.name)]
