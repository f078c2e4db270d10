"""The command line as tests call it: run in process, an endpoint on this machine, and tables of wrong use."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from promptopt import cli

SUPPORT = Path(__file__).parent.parent / "tasks" / "support" / "prompt.md"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


Runner = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Runner:
    """Return a function that runs the command line in process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)

    def invoke(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["promptopt", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        status = ended.value.code
        return Outcome(status if isinstance(status, int) else 0, said.out, said.err)

    return invoke


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of an OpenAI-compatible server on this machine, and the requests that it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            last = body["messages"][-1]["content"]
            requests.append(last)
            time.sleep(0.004)
            kinds = ("billing", "refund", "delivery")
            text = kinds[len(last) % 3]
            if "</prompt>" in last:
                text = f"<prompt>Sort the message, way {len(requests)}: {{{{message}}}}</prompt>"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "local"}
            payload = json.dumps({**reply, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    server.shutdown()
    server.server_close()
    thread.join()


def optimize(
    *extra: object, prompt: object = SUPPORT, data: object = "support", model: str = "sim"
) -> list[object]:
    return ["optimize", prompt, "--data", data, "--model", model, *extra]


COLOURS = "Name the colour of {{item}}."


@dataclass(frozen=True)
class Wrong:
    """A wrong use: what is written into which file, the command's other words, and what must be said."""

    name: str
    says: str
    words: str = ""
    prompt: str | bytes = COLOURS
    data: str | bytes | None = None
    prompt_path: str = "prompt.md"
    data_path: str = "data.csv"
    model: str = "sim"


def rows(*lines: str, header: str = "item,target", n: int = 60) -> str:
    return "\n".join([header, *(f"thing {i},{('red', 'blue')[i % 2]}" for i in range(n)), *lines]) + "\n"


def check_refused(case: Wrong, run: Runner, folder: Path, endpoint: tuple[str, list[str]]) -> None:
    """Assert that a wrong use ends with status 2 and one message, and that nothing was spent."""
    address, requests = endpoint
    _write(folder / (case.prompt_path if case.prompt_path.startswith("prompt.") else "prompt.md"), case.prompt)
    _write(folder / (case.data_path if case.data is not None else "data.csv"), case.data or rows())
    words = case.words.replace("ENDPOINT", address).split()
    out = () if "--out" in words else ("--out", "here")
    done = run(*optimize(*words, *out, prompt=case.prompt_path, data=case.data_path, model=case.model))
    assert (done.status, done.out) == (cli.EXIT_WRONG_USE, "")
    assert re.search(case.says, done.err), done.err
    assert "Traceback" not in done.err
    if not done.err.startswith("Usage:"):
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1, "one message"
    assert not requests
    assert not (folder / "here/journal.db").exists()


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
