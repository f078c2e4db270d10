"""The frozen records that every floor speaks in.

Glossary: a *prompt* is an instruction with demonstrations; a *candidate* is a prompt with its origin;
a *cell* is one candidate on one example; scores lie in [0, 1], higher is better; cost is US dollars.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["task", "optimizer", "judge", "embedding"]
Phase = Literal["search", "proof"]

KEEP_MARK = re.compile(r"<!-- /?keep -->")


def digest(*parts: object) -> str:
    """Return 32 hex digits that identify `parts`, which must be serialisable as JSON."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return digest_of_bytes(text.encode("utf-8", "surrogatepass"))


def digest_of_bytes(raw: bytes) -> str:
    """Return 32 hex digits that identify `raw`."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


class Message(NamedTuple):
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration: the input columns that are shown, and the reply to imitate."""

    inputs: tuple[tuple[str, str], ...]
    output: str


@dataclass(frozen=True)
class Prompt:
    """An instruction text with `{{placeholders}}`, and ordered demonstrations.

    `instruction` is the body of a prompt file: it may hold `system:`/`user:` parts and
    `<!-- keep -->` marks, which are never rendered.
    """

    instruction: str
    demos: tuple[Demo, ...] = ()

    @cached_property
    def id(self) -> str:
        """Digest of everything that rendering depends on."""
        return digest(KEEP_MARK.sub("", self.instruction), [(d.inputs, d.output) for d in self.demos])


@dataclass(frozen=True)
class Candidate:
    """A prompt with its origin; `parents` are candidate ids, `operator` names what made it."""

    prompt: Prompt
    parents: tuple[str, ...] = ()
    operator: str = "initial"
    note: str = ""

    @property
    def id(self) -> str:
        """The prompt's id: two candidates that render alike are one."""
        return self.prompt.id


@dataclass(frozen=True, slots=True)
class Image:
    """An image of an example; two with the same identity are the same image.

    Args:
        identity: digest of its bytes, or its address on the web.
        kind: media type; "" = on the web, not looked at.
        source: absolute path of the file, data URL, or address; never journaled.
    """

    identity: str
    kind: str
    source: str = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """What the image is called for readers: the last part of its path or address."""
        return "data URL" if self.source.startswith("data:") else PurePath(self.source).name

    @property
    def is_file(self) -> bool:
        """Whether it is read from a file when it is sent."""
        return self.kind != "" and not self.source.startswith("data:")


@dataclass(frozen=True)
class Example:
    """One row of data: an id, its input columns as text, and the target (None = no label).

    `also_right` are further targets: an answer that is right for any of them is right. `images` are shown to the
    task model with the user message.
    """

    id: str
    inputs: Mapping[str, str] = field(hash=False)
    target: str | None = None
    also_right: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()

    @property
    def identity(self) -> tuple[object, ...]:
        """All that tells this row from others, to be digested; as ever where it has one target and no images."""
        more = (self.also_right,) if self.also_right else ()
        images = (["images", *(image.identity for image in self.images)],) if self.images else ()
        return self.id, dict(self.inputs), self.target, *more, *images

    @property
    def targets(self) -> tuple[str, ...]:
        """All that is right, the target first; () = no label."""
        return () if self.target is None else (self.target, *self.also_right)


@dataclass(frozen=True, slots=True)
class Score:
    """What a metric says of one reply.

    Args:
        value: in [0, 1], higher is better.
        feedback: words on what was wrong, for strategies that reflect; None = none.
        is_parsed: False if no answer could be found in the reply (`value` is then 0).
    """

    value: float
    feedback: str | None = None
    is_parsed: bool = True


class Metric(Protocol):
    """Scores one reply to one example.

    Obligations: pure and deterministic; `value` in [0, 1]; an unparseable reply scores 0 with
    `is_parsed=False`; an exception means that the metric is broken and ends the run.
    """

    @property
    def name(self) -> str:
        """The name shown to users and journaled."""
        ...

    def score(self, reply: str, example: Example) -> Score:
        """Return the score of `reply`, the model's whole text, on `example`."""
        ...


@runtime_checkable
class JudgedMetric(Metric, Protocol):
    """A metric whose scores a judge model gives: one more call for each reply, at temperature 0.

    Obligations: `rating_request` and `read_rating` are pure and deterministic; the request shows nothing of the
    prompt that made the reply. `score` is never called where there is a judge; it raises TaskError.
    """

    def rating_request(self, reply: str, example: Example) -> tuple[Message, ...]:
        """Return what the judge is asked about `reply`, which may be hostile text and is not blank."""
        ...

    def read_rating(self, said: str) -> Score | None:
        """Return the score that the judge's reply means; None = it cannot be read, and is asked for once more."""
        ...


@runtime_checkable
class LabelMetric(Protocol):
    """What a metric has besides if its answers are classes: then macro-F1 is reported beside the score."""

    def classes(self, reply: str, example: Example) -> tuple[str, str | None]:
        """Return the right class and the one that `reply` names; None = it names none, or several."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; cached tokens lie within input, reasoning tokens within output."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Request:
    """One call to a model.

    Args:
        model: name as the user gave it (litellm's, or `sim`).
        messages: chat messages, rendered.
        max_tokens: upper limit of output tokens.
        temperature: sampling temperature; None = the model takes none, its answers are noisy.
        top_logprobs: log-probabilities of the first answer token to ask for; 0 = none.
        api_base: address of an OpenAI-compatible server; None = the provider's own.
        sample: tells apart repeated draws of the same request; "" where answers are not sampled.
        is_embedding: ask for the vector of each message instead of a reply; the answer is a JSON list of them.
        options: further settings of the provider by name, sorted; values as JSON.
        images: go with the last user message, before its text.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = 0.0
    top_logprobs: int = 0
    api_base: str | None = None
    sample: str = ""
    is_embedding: bool = False
    options: tuple[tuple[str, str], ...] = ()
    images: tuple[Image, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Digest of all that the answer may depend on."""
        settings = (self.max_tokens, self.temperature, self.top_logprobs, self.api_base, self.sample)
        kind = ("embedding",) if self.is_embedding else ()
        options = (self.options,) if self.options else ()
        images = (["images", *(image.identity for image in self.images)],) if self.images else ()
        return digest(self.model, self.messages, settings, *kind, *options, *images)


@dataclass(frozen=True)
class Response:
    """A model's answer.

    Args:
        text: the reply; "" if the model said nothing.
        usage: tokens as reported; None = the endpoint did not say.
        cost_usd: dollars; None = unknown, which is not free.
        latency_s: seconds from sending to the whole reply.
        finish_reason: stop, length, content_filter or what the provider said.
        logprobs: (token, natural log-probability) of the first answer token, best first; None = not given.
    """

    text: str
    usage: Usage | None
    cost_usd: Decimal | None
    latency_s: float = 0.0
    finish_reason: str = "stop"
    logprobs: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True)
class Budget:
    """Upper limits of a whole run, every role and the proof included; None = no limit.

    Args:
        usd: US dollars.
        calls: answers used.
        tokens: input plus output tokens.
        seconds: wall-clock seconds, over all sessions of the run.
    """

    usd: Decimal | float | None = None
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Scores of candidates on examples.

    Args:
        candidates: C candidates.
        examples: E examples.
        values: float[C, E], NaN = not evaluated or missing.
        outputs: the replies behind the scores, [C][E]; None = no reply.
        feedback: the metric's words, [C][E]; None = none.
    """

    candidates: tuple[Candidate, ...]
    examples: tuple[Example, ...]
    values: NDArray[np.float64]
    outputs: tuple[tuple[str | None, ...], ...] = ()
    feedback: tuple[tuple[str | None, ...], ...] = ()

    def means(self) -> tuple[float, ...]:
        """Return each candidate's mean score over its evaluated examples (NaN if there is none)."""
        rows = (row[row == row] for row in self.values)
        return tuple(float(row.mean()) if row.size else float("nan") for row in rows)
