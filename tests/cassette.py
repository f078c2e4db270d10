"""HTTP exchanges with `promptopt simulate` through litellm: the scenarios, how they are recorded and replayed.

vcrpy stands below litellm's aiohttp transport, and below httpx where litellm is told not to use aiohttp; a
cassette serves both. Requests match by method, path and body: the port differs from recording to recording.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import vcr
from served import served
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.request import Request as Sent

from promptopt.api import prepare
from promptopt.config import Settings, load_examples
from promptopt.errors import ProviderError
from promptopt.gateway import Call, Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Lease, limit_of
from promptopt.providers import LitellmTransport, closing
from promptopt.run import Run
from promptopt.study import SearchSize, Study
from promptopt.types import Budget, Message, Request, Response

ROOT = Path(__file__).parent.parent
CASSETTES = ROOT / "cassettes"
PROMPT = ROOT / "tasks" / "support" / "prompt.md"
NOWHERE = "http://simulator.invalid/v1"  # a name that never resolves (RFC 2606)
_KEPT = {"content-type", "retry-after"}  # of headers; others hold keys, dates, versions, ports


@dataclass
class Stage:
    """What a scenario plays on; `waits` are the pauses between attempts, in seconds."""

    address: str
    folder: Path
    is_live: bool = False
    waits: list[float] = field(default_factory=list)

    async def sleep(self, pause_s: float) -> None:
        """Note the pause, and wait if a real server is to be waited for."""
        self.waits.append(pause_s)
        await asyncio.sleep(pause_s if self.is_live else 0)

    def settings(self, **more: Any) -> Settings:
        """Return settings with which requests are sent in one order only."""
        return Settings("openai/sim", api_base=self.address, out=self.folder, concurrency=1, **more)


@dataclass(frozen=True)
class Scenario:
    """Something to play against a server that was started with `options`."""

    play: Callable[[Stage], Any]
    options: tuple[str, ...] = ("--data", "support")


@dataclass
class Told:
    """What a gateway got: texts, or the names of errors; and how many attempts ended in which way."""

    replies: list[Response | ProviderError]
    attempts: Mapping[str, int]


# Scenarios ----------------------------------------------------------------------------------------


def evaluate(stage: Stage) -> list[tuple[str, float, str | None]]:
    """Evaluate the initial prompt on five examples; return their ids, scores and replies."""
    plan, _ = prepare(PROMPT, "support", stage.settings(optimizer="random"))

    async def run() -> Any:
        with Journal(None) as journal:
            state = Run(plan)._make_state(journal)
            study = Study(state, Lease(limit_of(None, 5, None)), SearchSize(5))
            return await study.evaluate([study.initial], study.task.dev[:5])

    table = asyncio.run(closing(run()))
    ids = [example.id for example in table.examples]
    return list(zip(ids, table.values[0].tolist(), table.outputs[0], strict=True))


def ask_for_logprobs(stage: Stage) -> Told:
    """Ask for the log-probabilities of labels."""
    message = load_examples("support")[0].inputs["message"]
    text = f"Sort the message. Answer with the label only.\n\nMessage: {message}"
    return tell(stage, question(text, stage, top_logprobs=4))


def meet_a_limit(stage: Stage) -> Told:
    """Ask twice where one call in two seconds is allowed."""
    return tell(stage, question("one", stage), question("two", stage))


def meet_an_error(stage: Stage) -> Told:
    """Ask a server whose first reply is a 500."""
    return tell(stage, question("one", stage))


def be_refused(stage: Stage) -> Told:
    """Ask what no server of this protocol answers, then for a model that is not there."""
    wrong = question("one", stage, temperature=5.0)
    return tell(stage, wrong, question("two", stage, model="openai/simulator"))


def optimize(stage: Stage) -> dict[str, Any]:
    """Run a small search with its proof; return what it found and took."""
    options = {"n_dev": "8", "batch_size": "1", "max_shots": "1"}
    settings = stage.settings(optimizer="random", budget=Budget(calls=60), options=options, proof_examples=6)
    plan, front_matter = prepare(PROMPT, "support", settings)
    retry = RetryPolicy(n_attempts=1)
    result = asyncio.run(closing(Run(plan, front_matter=front_matter, retry=retry).execute()))
    assert result.improvement is not None
    assert result.best.dev is not None
    spend = result.spend
    return {
        "status": result.status,
        "best": result.best.prompt,
        "dev": [result.best.dev.score, result.best.dev.n],
        "delta": result.improvement.delta,
        "p_value": result.improvement.p_value,
        "verdict": result.improvement.verdict,
        "spend": [spend.calls, spend.attempts, spend.input_tokens, spend.output_tokens],
    }


SCENARIOS = {
    "evaluation": Scenario(evaluate),
    "logprobs": Scenario(ask_for_logprobs),
    "rate_limit": Scenario(meet_a_limit, ("--calls-per-second", "0.5")),
    # The first draw of this seed is a fault, the second is none.
    "server_error": Scenario(meet_an_error, ("--fault-rate", "0.5", "--fault", "500", "--seed", "4")),
    "refused": Scenario(be_refused),
    "optimize": Scenario(optimize),
}


def question(text: str, stage: Stage, *, model: str = "openai/sim", **settings: Any) -> Request:
    """Return a request of one message."""
    return Request(model, (Message("user", text),), 32, api_base=stage.address, **settings)


def tell(stage: Stage, *requests: Request) -> Told:
    """Put the requests to a gateway, one after the other."""

    async def run() -> Told:
        replies: list[Response | ProviderError] = []
        with Journal(None) as journal:
            gateway = Gateway(
                journal, {"": LitellmTransport(())}, retry=RetryPolicy(3, 0.01, 10), sleep=stage.sleep
            )
            for request in requests:
                try:
                    key = bytes.fromhex(request.digest)
                    replies.append(await gateway.answer(Call(request, key, "task", "search", 20)))
                except ProviderError as error:
                    replies.append(error)
            return Told(replies, journal.attempt_counts())

    return asyncio.run(closing(run()))


# Recording and replaying --------------------------------------------------------------------------


def _bare_request(request: Sent) -> Sent:
    """Return a request without what depends on the machine, and without keys."""
    headers = {name: value for name, value in request.headers.items() if name.lower() in _KEPT}
    path = request.uri.partition("://")[2].partition("/")[2]
    return Sent(request.method, f"{NOWHERE.removesuffix('v1')}{path}", request.body, headers)


def _bare_response(response: dict[str, Any]) -> dict[str, Any]:
    headers = {name: value for name, value in response["headers"].items() if name.lower() in _KEPT}
    return response | {"headers": headers}


RECORDER = vcr.VCR(
    match_on=["method", "path", "body"],
    before_record_request=_bare_request,
    before_record_response=_bare_response,
)


@contextmanager
def replayed(path: Path) -> Iterator[None]:
    """Answer every request from a cassette, with every socket shut.

    Raises:
        AssertionError: at the end, if a request was not in it, a socket was reached for, or a recorded exchange
            was not asked for; also where the code under test took such a failure for an outage.
    """
    wrong: list[str] = []
    shown = CannotOverwriteExistingCassetteException.__init__

    def note_request(self: Any, *args: Any, **kwargs: Any) -> None:
        shown(self, *args, **kwargs)
        wrong.append(f"not in {path.name}: {self}")

    def refuse(self: socket.socket, address: Any) -> None:
        wrong.append(f"reached for {address}")
        raise AssertionError(f"a replay of {path.name} reached for {address}")

    def refuse_name(host: Any, *args: Any, **kwargs: Any) -> None:
        wrong.append(f"looked up {host}")
        raise AssertionError(f"a replay of {path.name} looked up {host}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CannotOverwriteExistingCassetteException, "__init__", note_request)
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "connect_ex", refuse)
        patch.setattr(socket, "getaddrinfo", refuse_name)
        patch.delenv("OPENAI_API_KEY", raising=False)
        with RECORDER.use_cassette(str(path), record_mode="none") as cassette:
            yield
    assert not wrong, "; ".join(wrong) + "; record anew with `make cassettes` if the change is meant"
    assert cassette.all_played, f"{path.name}: {len(cassette)} recorded, {cassette.play_count} asked for"


def replay(name: str, folder: Path) -> tuple[Any, Stage]:
    """Play a scenario from its cassette; return its outcome and its stage."""
    stage = Stage(NOWHERE, folder)
    with replayed(CASSETTES / f"{name}.yaml"):
        return SCENARIOS[name].play(stage), stage


def record(name: str, folder: Path, target: Path = CASSETTES) -> Any:
    """Play a scenario against a server of its own; its cassette is replaced when all of it went well."""
    scenario, fresh = SCENARIOS[name], folder / f"{name}.yaml"
    with served(*scenario.options) as (address, _), RECORDER.use_cassette(str(fresh), record_mode="all"):
        outcome = scenario.play(Stage(address, folder / name, is_live=True))
    target.mkdir(exist_ok=True)
    if isinstance(outcome, dict):
        (target / f"{name}.json").write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, target / fresh.name)
    return outcome
