"""What the peers' programs share: the job on stdin, the result on stdout, and the benchmark's own metric by HTTP.

These programs run in another virtual environment than promptopt's, so nothing of promptopt is imported here.

A job holds `peer`, `base_url` (of the models `task`, `optimizer`, `test`), `seed`, `budget` (answers of the task
model; 0 = no search, the initial prompt is what is returned), `kind`, `initial`, `description`, `train` and `dev`
(rows of id, input, target) and `test` (inputs). The result holds `answers`, one for each test input as the peer's
own code reads it; `prompt`, what was found, as text; `search_s`, `cpu_s` and `test_s`; and `note`.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

THREADS = 16
KEY = "none"  # no key is asked for, but clients want one


class Row(NamedTuple):
    """A question with its right answer; its id is what the metric is asked by."""

    id: str
    input: str
    target: str


class Job:
    """One cell, as the benchmark describes it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.peer: str = given["peer"]
        self.base_url: str = given["base_url"]
        self.seed: int = given["seed"]
        self.budget: int = given["budget"]
        self.kind: str = given["kind"]
        self.initial: str = given["initial"]
        self.description: str = given["description"]
        self.train = [Row(**row) for row in given["train"]]
        self.dev = [Row(**row) for row in given["dev"]]
        self.test: list[str] = given["test"]
        self._ids = {row.input: row.id for row in (*self.train, *self.dev)}
        self._local = threading.local()

    def score(self, question: str, reply: str) -> tuple[float, str]:
        """Return what the benchmark's metric says of a reply to a known question: the score, and words on it."""
        found = self._ask("POST", "/score", {"id": self._ids[question], "reply": reply})
        return float(found["score"]), str(found["feedback"])

    def n_task_calls(self) -> int:
        """Return how many answers of the task model were asked so far."""
        return int(self._ask("GET", "/counts", None)["task"])

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: object) -> str:
        """Return a model's reply, for peers that take any function as a client: litellm takes 10 ms a call."""
        body = {"model": model, "messages": list(messages), **options}
        path = urlsplit(self.base_url).path
        return str(self._ask("POST", f"{path}/chat/completions", body)["choices"][0]["message"]["content"])

    def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=60)
        connection: http.client.HTTPConnection = self._local.connection
        connection.request(method, path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method} {path} gave status {response.status}: {text[:200]!r}")
        found: dict[str, Any] = json.loads(text)
        return found


class Found(NamedTuple):
    """What a search returned.

    Args:
        answer: gives the program's answers to questions, asking the model `test`.
        prompt: the program as text, for readers.
        note: what is worth knowing of the run.
    """

    answer: Callable[[Sequence[str]], list[str]]
    prompt: str
    note: str


def run(search: Callable[[Job], Found]) -> None:
    """Read the job, search, answer the test questions, and write the result as the last line of stdout."""
    out, sys.stdout = sys.stdout, sys.stderr  # what the peer prints is no result
    job = Job(json.load(sys.stdin))
    started, cpu = time.perf_counter(), time.process_time()
    found = search(job)
    searched, cpu = time.perf_counter(), time.process_time() - cpu
    answers = found.answer(job.test)
    tested = time.perf_counter()
    if len(answers) != len(job.test):
        raise RuntimeError(f"{len(answers)} answers to {len(job.test)} questions")
    result = {
        "answers": answers,
        "prompt": found.prompt,
        "note": found.note,
        "search_s": searched - started,
        "cpu_s": cpu,
        "test_s": tested - searched,
    }
    out.write("\n" + json.dumps(result) + "\n")
    out.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that a peer left behind are not waited for
