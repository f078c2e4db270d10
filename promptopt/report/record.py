"""What a report tells of a run, as plain frozen records; how it is shown is not their concern.

Candidates are named by number, in the order of their birth; 0 is the initial prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from promptopt.result import Result
from promptopt.types import Candidate, Example


@dataclass(frozen=True)
class Entry:
    """A candidate, and how it did.

    Args:
        parents: numbers of its parents, as far as they are journaled.
        dev: mean score on the dev examples that it was scored on, in [0, 1]; None = on none, or no scores.
        n_dev: how many these are.
        tokens: estimated tokens of the prompt without an example's input.
        calls: answers that the run had used when it was first scored; None = unknown.
        usd: dollars that these had cost; None = unknown.
        is_accepted: whether it was the best so far at some time.
    """

    number: int
    candidate: Candidate
    parents: tuple[int, ...]
    dev: float | None
    n_dev: int
    tokens: int
    calls: int | None
    usd: Decimal | None
    is_accepted: bool


@dataclass(frozen=True)
class Said:
    """What a model was asked to write at a step, and what it wrote."""

    asked: str
    reply: str


@dataclass(frozen=True)
class Step:
    """An ancestor of the best prompt, or that itself.

    Args:
        feedback: what was said of its parent before it was written; "" = nothing that the journal has.
        said: what the models that write were asked on the way to it, in order; () = it was not written.
    """

    entry: Entry
    feedback: str
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Arm:
    """A candidate in a race.

    Args:
        n_seen: examples that it was compared on.
        is_out: whether it left before the end.
        killer: number of the candidate that it fell behind; None = unknown.
        reason: why it left; "" = it did not.
    """

    number: int
    n_seen: int
    is_out: bool
    killer: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Heat:
    """A race.

    Args:
        looks: examples seen at the end of each block that was run.
        n_pool: examples that it could have taken.
        keep: how many arms it was to leave.
    """

    arms: tuple[Arm, ...]
    looks: tuple[int, ...]
    n_pool: int
    keep: int


@dataclass(frozen=True)
class Twig:
    """A node of a search tree; `reward` in [0, 1]."""

    number: int
    parent: int | None
    depth: int
    reward: float


@dataclass(frozen=True)
class Round:
    """A round of a search by verdicts; `number` None = nothing was written that could be tried."""

    i_round: int
    number: int | None
    wins: int | None
    losses: int | None
    ties: int | None
    is_accepted: bool


@dataclass(frozen=True)
class Change:
    """A test example on which the two prompts differ.

    Args:
        example: None = its row is not in the journal.
        before: the initial prompt's reply, or why there is none.
        after: the best prompt's.
        scores: of both; None = there are none.
    """

    example_id: str
    is_fixed: bool
    example: Example | None
    before: str
    after: str
    scores: tuple[float | None, float | None]


@dataclass(frozen=True)
class Use:
    """What an answer to a prompt takes, on average over `n` examples; None = unknown."""

    n: int
    input_tokens: float | None
    output_tokens: float | None
    usd_per_1000: Decimal | None


@dataclass(frozen=True)
class Spending:
    """Answers used by a role in a phase; `usd` None = a price is unknown."""

    role: str
    phase: str
    calls: int
    usd: Decimal | None
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Story:
    """A run as its folder tells it.

    Args:
        name: of the folder.
        result: what `result.json` says; None = the run has not ended.
        identity: the configuration that the journal holds.
        task: name and description, metric, numbers of rows of each split.
        simulated: roles that the built-in simulator plays.
        models: name of the model of each role.
        entries: all candidates by number.
        best: number of the best prompt so far.
        proposals: numbers of the best prompts so far, in order.
        lineage: the ancestors of the best prompt and that itself, oldest first.
        n_ancestors: how many there are in all, shown or not.
        uses: cost of using the initial and the best prompt, on the same examples; None = not both are known.
        uses_split: which split `uses` is of.
        attempts: live calls by how they ended.
        refused: candidates that were refused before they cost anything, by reason.
        config: the text of config.toml; "" = there is none.
        is_scored: whether answers have scores.
    """

    name: str
    result: Result | None
    identity: Mapping[str, Any]
    task: Mapping[str, Any]
    simulated: tuple[str, ...]
    models: Mapping[str, str]
    started_at: str
    elapsed_s: float
    entries: tuple[Entry, ...]
    best: int
    proposals: tuple[int, ...]
    lineage: tuple[Step, ...]
    n_ancestors: int
    heats: tuple[Heat, ...]
    twigs: tuple[Twig, ...]
    rounds: tuple[Round, ...]
    changes: tuple[Change, ...]
    uses: tuple[Use, Use] | None
    uses_split: str
    spending: tuple[Spending, ...]
    attempts: Mapping[str, int]
    refused: Mapping[str, int]
    config: str
    front_matter: str
    is_scored: bool
