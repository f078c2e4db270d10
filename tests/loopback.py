"""An OpenAI-compatible server on 127.0.0.1 whose replies a test writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An HTTP reply; `body` is sent as JSON unless it is text; `hangs_s` waits, `drops` hangs up."""

    body: Any = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    hangs_s: float = 0.0
    drops: bool = False


@dataclass
class Loopback:
    """What a server was asked, and how it answers: by a function of the request's body."""

    answer: Callable[[dict[str, Any]], Reply]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)


def chat(text: str | None = "red", *, usage: Any = (10, 5), model: str = "my-model", **choice: Any) -> Reply:
    """Return a plain chat completion; `usage` is (input, output), a dict, or None for none."""
    message = {"role": "assistant", "content": text, **choice.pop("message", {})}
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
    }
    if isinstance(usage, tuple):
        n_in, n_out = usage
        usage = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
    if usage is not None:
        body["usage"] = usage
    return Reply(body)


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """Return an error reply in OpenAI's form."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return Reply(body, status, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[Loopback]:
    """Run a server until the block ends."""
    loopback = Loopback(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20
        # Headers and body leave in two writes; with Nagle's algorithm each reply would take 40 ms.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:  # the name that http.server calls
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with loopback.lock:
                loopback.bodies.append(body)
                loopback.paths.append(self.path)
                reply = loopback.answer(body)
            loopback.closing.wait(reply.hangs_s)
            if reply.drops:
                self.close_connection = True
                return
            is_text = isinstance(reply.body, str)
            data = (reply.body if is_text else json.dumps(reply.body)).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/html" if is_text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in reply.headers:
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # the client gave up waiting

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """Say nothing when a client hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    loopback.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        loopback.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
