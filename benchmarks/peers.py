"""Prompt optimizers of other packages on the simulated worlds, over HTTP, each in an environment of its own.

The budget N is in answers of the task model during the search; the optimizer model's are counted apart and not
limited. Every peer has its defaults, and its own knob for the budget; how many calls it took is counted, more or
less than N (see peer_programs/ for the details):

- `gepa`: `max_metric_calls` = N, checked between its steps.
- `dspy-gepa`: the same, through dspy's own classes.
- `dspy-miprov2`: `auto` = None; candidates and trials in the ratio that dspy recommends, as many as fit N; where
  those of `auto="light"` do not fit with the whole of dev, a part of dev.
- `dspy-bootstrap` (BootstrapFewShotWithRandomSearch): as many candidate programs as fit N; at least six, on a part
  of dev.
- `promptolution-capo`, `promptolution-opro`: steps until N answers were asked for, at least one.
- `promptolution-capo-fitted`: CAPO's first step alone may take 2,500 answers; here `max_n_blocks_eval` is lowered
  until that step fits N, down to one block.

Budget 0 means no search: the initial prompt as the peer would send it. Test scores are those of 500 answers that
the peer's code gives with the program that it found, by the same metric as in the search. Everything is simulated.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from aiohttp import web
from search import Cell, Measured, Usage, make_task
from worlds import WORLDS, World, roughen

from promptopt.protocol import Asked, Refusal, completion, parse, read_chat
from promptopt.server import ServerOptions, SimulatedService, make_app
from promptopt.simulator import Simulator
from promptopt.task import Task
from promptopt.types import Example, Response

PROGRAMS = Path(__file__).parent / "peer_programs"
PEERS = {  # name: virtual environment, which is also the program's and the requirements' name
    "gepa": "gepa",
    "dspy-gepa": "dspy",
    "dspy-miprov2": "dspy",
    "dspy-bootstrap": "dspy",
    "promptolution-capo": "promptolution",
    "promptolution-capo-fitted": "promptolution",
    "promptolution-opro": "promptolution",
}
MODELS = ("task", "optimizer", "test")
COUNTED = ("task", "optimizer")
TIMEOUT_S = 1800.0


class PeerService(SimulatedService):
    """A world's model under three names, with counts of the answers by name.

    Args:
        world: says whether the optimizer model is rough.
        simulator: knows the task.
        transcript: gets the optimizer model's requests and replies, one JSON object a line; None = nowhere.
    """

    def __init__(self, world: World, simulator: Simulator, transcript: Path | None = None) -> None:
        super().__init__(ServerOptions())
        self._world, self._model, self._transcript = world, simulator, transcript
        self.calls, self.input_tokens, self.output_tokens = (collections.Counter[str]() for _ in range(3))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return MODELS

    def answer(self, asked: Asked) -> Response:
        """Return the answer, counted; what the optimizer model says is roughened where the world wants it.

        Raises:
            Refusal: 404 for an unknown model.
        """
        request, response = asked.request, super().answer(asked)
        if request.model == "optimizer" and self._world.is_rough:
            response = replace(response, text=roughen(response.text, request.digest))
        usage = response.usage
        assert usage is not None
        self.calls[request.model] += 1
        self.input_tokens[request.model] += usage.input_tokens
        self.output_tokens[request.model] += usage.output_tokens
        if request.model == "optimizer" and self._transcript is not None:
            line = {"request": [tuple(message) for message in request.messages], "reply": response.text}
            with self._transcript.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return response

    def _simulator(self, model: str) -> Simulator:
        if model not in MODELS:
            raise Refusal(404, f"model {model[:80]!r} does not exist", code="model_not_found", param="model")
        return self._model


def application(service: PeerService, task: Task) -> web.Application:
    """Return the server: the models, `POST /score` by the task's metric, and `GET /counts`.

    Below /peers it is told of `response_format` and pays no heed to it, as many small servers; /v1 refuses it.
    """
    examples: dict[str, Example] = {example.id: example for example in (*task.train, *task.dev)}

    async def score(request: web.Request) -> web.Response:
        asked = await request.json()
        found = task.metric.score(asked["reply"], examples[asked["id"]])
        return web.json_response({"score": found.value, "feedback": found.feedback or "The answer is right."})

    async def counts(_: web.Request) -> web.Response:
        return web.json_response({name: service.calls[name] for name in COUNTED})

    async def chat(request: web.Request) -> web.Response:
        body = {key: value for key, value in parse(await request.read()).items() if key != "response_format"}
        asked = read_chat(body)
        return web.json_response(completion(asked, service.answer(asked)))

    app = make_app(service)
    app.router.add_post("/peers/v1/chat/completions", chat)
    app.router.add_post("/score", score)
    app.router.add_get("/counts", counts)
    return app


@contextlib.contextmanager
def served(service: PeerService, task: Task) -> Iterator[str]:
    """Serve on a free port of this machine, from a thread; yield the address of the models."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        runner = web.AppRunner(application(service, task), shutdown_timeout=0.5, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield f"http://127.0.0.1:{port}/peers/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def environment(folder: Path) -> dict[str, str]:
    """Return what a peer's process sees: homes and caches in a folder of its own, no way out of this machine."""
    nowhere = "http://127.0.0.1:9"
    places = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "DSPY_CACHEDIR", "HF_HOME", "MPLCONFIGDIR")
    return {
        "PATH": os.environ.get("PATH", ""),
        "LANG": "C.UTF-8",
        **{name: str(folder) for name in places},
        "OPENAI_API_KEY": "none",
        **{
            name: nowhere
            for proxy in ("HTTP", "HTTPS", "ALL")
            for name in (f"{proxy}_PROXY", f"{proxy.lower()}_proxy")
        },
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


def run_program(job: dict[str, Any], venvs: Path, timeout_s: float) -> dict[str, Any]:
    """Return the result of the peer's program.

    Raises:
        RuntimeError: it failed, or took too long; with the end of what it wrote to stderr.
    """
    name = PEERS[job["peer"]]
    python, program = venvs / name / "bin" / "python", PROGRAMS / f"run_{name}.py"
    folder = Path(tempfile.mkdtemp(prefix="promptopt-peer-"))
    try:
        process = subprocess.Popen(
            [str(python), "-u", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment(folder),
            text=True,
            encoding="utf-8",
        )
        try:
            out, err = process.communicate(json.dumps(job), timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"no result within {timeout_s:.0f} s") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            raise RuntimeError(f"status {process.returncode}; stderr ends in:\n{err[-3000:]}")
        result: dict[str, Any] = json.loads(out.rstrip().rpartition("\n")[2])
        return {**result, "stderr": err}
    finally:
        shutil.rmtree(folder)


def measure(
    world: str,
    seed: int,
    budget: int,
    peer: str,
    venvs: Path,
    transcripts: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Measured:
    """Run one peer on one world.

    Args:
        budget: answers of the task model; 0 = no search.
        venvs: folder of virtual environments, see `make_venvs`.
        transcripts: folder for what the optimizer model was asked and what the peer printed; None = not kept.

    Raises:
        RuntimeError: the peer failed.
    """
    place = WORLDS[world]
    kind = place.kinds[seed % len(place.kinds)]
    task = make_task(kind, seed)
    stem = f"{world}-{seed}-{budget}-{peer}"
    transcript = None if transcripts is None else transcripts / f"{stem}.jsonl"
    if transcript is not None:
        transcript.parent.mkdir(parents=True, exist_ok=True)
        transcript.write_text("")
    service = PeerService(place, place.simulator(task, seed), transcript)
    rows = {
        name: [{"id": e.id, "input": e.inputs["input"], "target": e.target} for e in split]
        for name, split in (("train", task.train), ("dev", task.dev))
    }
    with served(service, task) as base_url:
        job = {
            "peer": peer,
            "base_url": base_url,
            "seed": seed,
            "budget": budget,
            "kind": kind,
            "initial": task.initial.instruction,
            "description": task.description,
            **rows,
            "test": [example.inputs["input"] for example in task.test],
        }
        result = run_program(job, venvs, timeout_s)
    print(f"{stem}: {result['note']}", file=sys.stderr)
    if transcripts is not None:
        notes = {key: value for key, value in result.items() if key not in ("answers", "stderr")}
        (transcripts / f"{stem}.json").write_text(json.dumps(notes, indent=1))
        (transcripts / f"{stem}.log").write_text(result["stderr"])
    scores = [task.metric.score(text, e).value for text, e in zip(result["answers"], task.test, strict=True)]
    usage = {
        role: Usage(service.calls[role], service.input_tokens[role], service.output_tokens[role])
        for role in COUNTED
    }
    return Measured(Cell(world, seed, budget, peer), mean(scores), round(result["search_s"], 2), usage)


def make_venvs(venvs: Path, names: Sequence[str]) -> None:
    """Make the virtual environments that are not there yet, with what peer_programs/NAME.txt asks for."""
    for name in names:
        folder = venvs / name
        if (folder / "ready").exists():
            continue
        if folder.exists():
            sys.exit(f"{folder} is there, but was not made by this program to the end; remove it, or name another")
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "-r",
            str(PROGRAMS / f"{name}.txt"),
        ]
        subprocess.run(pip, check=True)
        (folder / "ready").touch()
