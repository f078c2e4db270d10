"""Scores that a judge model gives: each reply is rated by a call of its own, after the answer and before the cell.

The judge is asked at temperature 0, so a rating is identified by its request alone, as a task answer is: the same
reply to the same example is rated once, whichever prompt made it. A rating that cannot be read is asked for once
more; after that, as after a failed call, the cell is missing data and no score of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from promptopt.asking import RunState, ask_all
from promptopt.errors import ProviderError, RatingUnread
from promptopt.gateway import Call
from promptopt.ledger import Amount, Lease
from promptopt.providers import ModelSpec
from promptopt.types import Example, JudgedMetric, Message, Response, Score, digest

ANSWER_BYTES_PER_TOKEN = 5  # English prose has 4 to 5
_PLEA = (
    "This could not be read. Send the verdicts again, in exactly the form that was asked for, and nothing besides."
)


@dataclass(frozen=True, slots=True)
class Rating:
    """What a judge says of one reply.

    Args:
        keys: identities of the answers behind it: the rating, and its repair; () = none was needed.
        score: None = there is none, see `error`.
        error: why the rating is missing.
        gap: identity under which the missing rating is journaled.
    """

    keys: tuple[bytes, ...]
    score: Score | None
    error: ProviderError | None = None
    gap: bytes = b""


def rater(judge: ModelSpec) -> ModelSpec:
    """Return the judge as it rates: at temperature 0, where votes are drawn; None where the model takes none."""
    return replace(judge, temperature=None if judge.temperature is None else 0.0)


def worst_rating(metric: JudgedMetric, judge: ModelSpec, example: Example, max_tokens: int) -> Amount:
    """Return the most that a rating is likely to take, of a reply of `max_tokens` that is not known yet."""
    spec = rater(judge)
    return spec.worst_case(spec.request(metric.rating_request(_longest(max_tokens), example)))


def worst_repair(metric: JudgedMetric, judge: ModelSpec, example: Example, max_tokens: int) -> Amount:
    """Return the most that asking for such a rating once more is likely to take; it shows the first one too."""
    spec = rater(judge)
    asked = metric.rating_request(_longest(max_tokens), example)
    return spec.worst_case(spec.request(_repair(asked, _longest(judge.max_tokens))))


def worst_score(metric: JudgedMetric, judge: ModelSpec, example: Example, max_tokens: int) -> Amount:
    """Return the most that a score is likely to take: a rating, and its repair."""
    row = (metric, judge, example, max_tokens)
    return worst_rating(*row).plus(worst_repair(*row))


def _longest(max_tokens: int) -> str:
    return "x" * (ANSWER_BYTES_PER_TOKEN * max_tokens)


async def rate_all(
    state: RunState,
    lease: Lease,
    place: str,
    metric: JudgedMetric,
    replies: Sequence[tuple[str, Example]],
    sample: str = "",
) -> list[Rating]:
    """Return the judge's ratings of replies to examples, in order; a blank reply scores 0 unseen.

    Args:
        place: names this batch, and no other of the run.
        sample: tells a repeated rating from the first, which is "".

    Raises:
        BudgetExhausted: they do not all fit; those that did have been answered and kept.
    """
    asked = [metric.rating_request(*row) if row[0].strip() else None for row in replies]
    first = await _ask(state, lease, place, asked, sample)
    repairs: list[tuple[Message, ...] | None] = []
    for messages, outcome in zip(asked, first, strict=True):
        said = outcome[1].text if outcome and isinstance(outcome[1], Response) else None
        is_read = messages is None or said is None or metric.read_rating(said) is not None
        repairs.append(None if is_read else _repair(messages or (), said or ""))
    second = await _ask(state, lease, place, repairs, sample)
    ids = [example.id for _, example in replies]
    return [_rating(metric, *row) for row in zip(ids, first, second, strict=True)]


_Asked = tuple[bytes, Response | ProviderError]


async def _ask(
    state: RunState, lease: Lease, place: str, asked: Sequence[tuple[Message, ...] | None], sample: str
) -> list[_Asked | None]:
    """Return key and outcome of each conversation; None stays None."""
    calls = [None if messages is None else _call(state, messages, sample) for messages in asked]
    sent = [call for call in calls if call is not None]
    outcomes = iter(await ask_all(state, lease, place, sent) if sent else [])
    return [None if call is None else (call.key, next(outcomes)) for call in calls]


def _call(state: RunState, messages: tuple[Message, ...], sample: str) -> Call:
    request = rater(state.models["judge"]).request(messages, f"{state.seed}/0")
    if sample:
        request = replace(request, sample=f"{request.sample}/{sample}")
    return state.call(request, "judge", keeps_request=True)


def _repair(asked: tuple[Message, ...], said: str) -> tuple[Message, ...]:
    # Some endpoints refuse an empty message.
    return (*asked, Message("assistant", said.strip() or "(no text)"), Message("user", _PLEA))


def _rating(metric: JudgedMetric, example_id: str, first: _Asked | None, second: _Asked | None) -> Rating:
    if first is None:
        return Rating((), Score(0.0, "the reply is empty", is_parsed=False))
    rows = [row for row in (first, second) if row is not None]
    keys = tuple(key for key, _ in rows)
    key, outcome = rows[-1]
    if isinstance(outcome, ProviderError):
        return Rating(keys, None, outcome, key)
    score = metric.read_rating(outcome.text)
    if score is not None:
        return Rating(keys, score)
    error = RatingUnread(
        f"the judge rated a reply to example {example_id!r} twice in a form that cannot be read (last: "
        f"{' '.join(outcome.text.split())[:80]!r}); take another --judge-model, or a plainer rubric"
    )
    # Not under a call's own key: its answer is there and paid, and a resumed run reads it again.
    return Rating(keys, None, error, bytes.fromhex(digest("unread rating", key.hex())))
