"""The simulator: a pure function from requests to replies, given a landscape and what it learnt."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from decimal import Decimal

from promptopt.simulator import ask
from promptopt.simulator.answers import Targets, label_logprobs, write_answer
from promptopt.simulator.checklist import is_checked
from promptopt.simulator.comparison import is_asked, shows_pair, sides
from promptopt.simulator.index import Index, Row, find_whole, make_row, uniforms
from promptopt.simulator.landscapes import Landscape
from promptopt.simulator.rating import is_rated
from promptopt.simulator.reach import best_competence
from promptopt.simulator.reading import QUESTION, REPLY, TURN, Reading, read
from promptopt.simulator.writer import Material, write
from promptopt.types import Example, Message, Request, Response, Usage

PRICE_IN = Decimal("0.25") / 1_000_000
"""US dollars for an input token."""
PRICE_OUT = Decimal(2) / 1_000_000
"""US dollars for an output token."""

_TOKEN_CHARS = 4
_MESSAGE_TOKENS = 4  # what chat formats add to each message
_MAX_READINGS = 4096
_UNSURE = "I am not sure what is asked."


def count_tokens(text: str) -> int:
    """Return the number of tokens of `text`: one for each four characters begun."""
    return -(-len(text) // _TOKEN_CHARS)


class Simulator:
    """A deterministic stand-in for an instruction-following LLM.

    Replies depend on the landscape, the seed, what was learnt and the request, on nothing else; in
    particular not on the model's name, so that a served simulator answers as a built-in one.

    Args:
        landscape: how it responds to prompts.
        seed: decides which examples are hard, and for what reason.
    """

    def __init__(self, landscape: Landscape, *, seed: int = 0) -> None:
        """Start without knowing any example."""
        self.landscape = landscape
        self.seed = seed
        self._learnt: dict[tuple[str, ...], Row] = {}
        self._reset()

    def _reset(self) -> None:
        self._index: Index | None = None
        self._targets = Targets([])
        # By prompt: its reading, and whether that it asks for an answer holds whatever the input is.
        self._readings: dict[tuple[tuple[Message, ...], str], tuple[Reading, bool]] = {}
        # Where the last input stood; a guess that saves the search when the next call has the same prompt.
        self._frame = ("", "")

    def learn(self, examples: Iterable[Example]) -> None:
        """Tell it inputs and targets; equal inputs told again replace the former target."""
        for example in examples:
            row = make_row(example, self.landscape, self.seed)
            if row.texts:
                self._learnt[row.texts] = row
        self._reset()

    def complete(self, request: Request) -> Response:
        """Return the reply; latency is 0 and cost is tokens times the simulator's own price."""
        index = self._ready()
        found = self._question(request.messages, index)
        logprobs: tuple[tuple[str, float], ...] | None = None
        if found is None:
            text = self._write(request, index)
        else:
            text, logprobs = self._answer(request, *found)
        limit = request.max_tokens * _TOKEN_CHARS
        is_cut = len(text) > limit
        text = text[:limit]
        n_in = sum(count_tokens(message.content) + _MESSAGE_TOKENS for message in request.messages)
        n_out = count_tokens(text)
        return Response(
            text=text,
            usage=Usage(n_in, n_out),
            cost_usd=n_in * PRICE_IN + n_out * PRICE_OUT,
            finish_reason="length" if is_cut else "stop",
            logprobs=logprobs,
        )

    def accuracy(
        self, messages_for: Callable[[Example], tuple[Message, ...]], examples: Iterable[Example]
    ) -> float:
        """Return the expected share of right and well-formed replies at temperature 0, in [0, 1].

        The expectation is over the jitter of wording only: examples keep their difficulty. Examples
        that it never learnt count as wrong; NaN if there are no examples.
        """
        index, shares = self._ready(), list[float]()
        for example in examples:
            found = self._question(messages_for(example), index)
            if found is None:
                shares.append(0.0)
                continue
            row, reading = found
            jitter = self.landscape.jitter
            right = _below(row.difficulty, jitter, self._competence(row, reading))
            shares.append(right * (1 - _below(row.unruliness, jitter, reading.malformed)))
        return sum(shares) / len(shares) if shares else math.nan

    def best_reachable(self, examples: Iterable[Example]) -> float:
        """Return the expected accuracy of the best prompt there is for these examples, in [0, 1].

        The best over all sets of advice that mends anything (each piece said once, in its shortest
        phrasing), with a format directive, with and without reasoning, and with up to 12 right
        demonstrations, spread evenly over the error types. NaN if there are no examples.
        """
        rows = [make_row(example, self.landscape, self.seed) for example in examples]
        best = best_competence(self.landscape, rows, _below)
        return best / len(rows) if rows else math.nan

    def _ready(self) -> Index:
        if self._index is None:
            rows = self._learnt.values()
            self._targets = Targets([row.target for row in rows if row.target is not None])
            self._index = Index(rows)
        return self._index

    def _question(self, messages: tuple[Message, ...], index: Index) -> tuple[Row, Reading] | None:
        """Return the row that is asked and the reading of the prompt; None = no answer is asked for."""
        content = messages[-1].content if messages else ""
        head, tail = self._frame
        middle = content[len(head) : len(content) - len(tail)]
        is_guess = content.startswith(head) and content.endswith(tail) and len(head) + len(tail) < len(content)
        rows = index.rows(middle) if is_guess else []
        if rows and len(rows[0].texts) == 1 and index.is_plain(content, len(head), middle):
            row, frame, before = rows[0], f"{head}{QUESTION}{tail}", messages[:-1]
        else:
            cut = self._cut(messages, index)
            if cut is None:
                return None
            row, frame, before = cut
            tail = frame[frame.rfind(QUESTION) + 1 :]
        if tail and (self._is_shown(row, tail) or ask.wish(tail) is not None):
            return None
        reading, is_settled = self._readings.get((before, frame), (None, False))
        if not is_settled and _is_judging(row, before, frame, tail):
            return None
        if reading is None:
            reading = self._read(before, frame, index)
        return row, reading

    def _cut(self, messages: tuple[Message, ...], index: Index) -> tuple[Row, str, tuple[Message, ...]] | None:
        # The last message that holds a known input; later ones belong to the tail.
        for place in range(len(messages) - 1, -1, -1):
            content = messages[place].content
            hit = index.last(content)
            if hit is None:
                continue
            row = _asked_row(index.rows(hit.text), messages)
            if len(row.texts) == 1:
                head, tail = content[: hit.start], content[hit.end :]
                if place == len(messages) - 1:
                    self._frame = (head, tail)
                    return row, f"{head}{QUESTION}{tail}", messages[:-1]
                return row, f"{head}{QUESTION}{tail}{_joined(messages[place + 1 :])}", messages[:place]
            contents = [message.content for message in messages]
            for text in sorted(row.texts, key=len, reverse=True):
                _blot(contents, text)
            blotted = [Message(old.role, new) for old, new in zip(messages, contents, strict=True)]
            return row, contents[place] + _joined(tuple(blotted[place + 1 :])), tuple(blotted[:place])
        return None

    def _is_shown(self, row: Row, tail: str) -> bool:
        # After an assistant's reply, the input is part of a chat's history, not a question.
        reply = tail.find(REPLY)
        if reply >= 0 and len(tail) - reply > 40:
            return True
        return row.target is not None and ask.is_followed_by(tail, row.target, self._targets.labels)

    def _read(self, before: tuple[Message, ...], frame: str, index: Index) -> Reading:
        text = _joined(before) + TURN + frame
        salt = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        labels, is_json = self._targets.labels, self._targets.is_json
        reading = read(text, salt, index, self.landscape, labels, is_json)
        if len(self._readings) >= _MAX_READINGS:
            self._readings.clear()
        self._readings[(before, frame)] = (reading, not shows_pair(frame))
        return reading

    def _competence(self, row: Row, reading: Reading) -> float:
        value = reading.competence[row.kind]
        if reading.bias_target is not None:
            value += reading.bias if row.target == reading.bias_target else -reading.bias
        return min(self.landscape.ceiling, max(self.landscape.floor, value))

    def _answer(
        self, request: Request, row: Row, reading: Reading
    ) -> tuple[str, tuple[tuple[str, float], ...] | None]:
        u, v, w, x = uniforms(reading.salt, row.key, n=4)
        jitter = self.landscape.jitter
        difficulty = row.difficulty + jitter * (2 * u - 1)
        unruliness = row.unruliness + jitter * (2 * v - 1)
        if request.temperature and request.temperature > 0:
            noise = self.landscape.sampling_noise * min(request.temperature, 2.0)
            sample = request.sample.encode("utf-8", "surrogatepass")
            u, v, w, x = uniforms(reading.salt, row.key, sample, n=4)
            difficulty += noise * (2 * u - 1)
            unruliness += noise * (2 * v - 1)
        margin = self._competence(row, reading) - _reflected(difficulty)
        is_malformed = _reflected(unruliness) < reading.malformed
        # Models repeat their favourite mistakes: mostly the same wrong answer whatever the prompt.
        favourite = [row.key[0] / 256, row.key[1] / 256]
        wrong = self._targets.wrong(row, favourite if x < 0.7 else [w, u])
        bias_target = reading.bias_target
        if bias_target is not None and bias_target != row.target and v < 4 * reading.bias:
            wrong = bias_target
        right = row.target if row.target is not None else ""
        answer, other = (right, wrong) if margin > 0 else (wrong, right)
        if row.target is None:
            answer, other = row.texts[0][:40], "something else"
        text = write_answer(row, answer, other, reading, is_malformed=is_malformed)
        labels = self._targets.labels
        if not request.top_logprobs or answer not in labels:
            return text, None
        return text, label_logprobs(answer, labels, abs(margin), row, request.top_logprobs)

    def _write(self, request: Request, index: Index) -> str:
        text = _plain(request.messages)
        sample = request.sample if request.temperature and request.temperature > 0 else ""
        latest = _plain(_latest(request.messages))
        material = Material(text, latest, index, self.landscape, self._targets.labels, f"{self.seed}/{sample}")
        return write(material) or _UNSURE


def _joined(messages: tuple[Message, ...]) -> str:
    return "".join((REPLY if role == "assistant" else TURN) + content for role, content in messages)


def _is_judging(row: Row, before: tuple[Message, ...], frame: str, tail: str) -> bool:
    """Return whether replies to the input are shown, to be compared or rated."""
    if len(tail) > 20 and sides(tail, frame) is not None:
        return True
    earlier = [message.content for message in before]
    return is_asked(frame, earlier, row.texts) or is_rated(frame, earlier) or is_checked(frame, earlier)


def _plain(messages: tuple[Message, ...]) -> str:
    return _joined(messages).replace(REPLY, "\n").replace(TURN, "\n").strip()


def _latest(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages after the last reply, and the system's; a reply before is a demonstration."""
    replies = [place for place, message in enumerate(messages) if message.role == "assistant"]
    if not replies or replies[-1] == len(messages) - 1:
        return messages
    last = replies[-1]
    return (*(message for message in messages[:last] if message.role == "system"), *messages[last + 1 :])


def _asked_row(rows: list[Row], messages: tuple[Message, ...]) -> Row:
    if len(rows) == 1:
        return rows[0]
    whole = "\n".join(message.content for message in messages)
    # Of rows that share the text, the one of which most columns are shown; then the last shown.
    return max(rows, key=lambda row: (sum(text in whole for text in row.texts), *map(whole.rfind, row.texts)))


def _blot(contents: list[str], text: str) -> None:
    """Put the question mark for the last stand-alone `text` in the last content that has it."""
    for place in range(len(contents) - 1, -1, -1):
        start = find_whole(contents[place], text)
        if start >= 0:
            contents[place] = contents[place][:start] + QUESTION + contents[place][start + len(text) :]
            return


def _reflected(value: float) -> float:
    # Folding at 0 and 1 keeps a uniform difficulty exactly uniform, so jitter favours nobody.
    return -value if value < 0 else 2 - value if value >= 1 else value


def _below(value: float, jitter: float, bound: float) -> float:
    """Return the chance that `value`, moved by uniform jitter and folded into [0, 1), is below `bound`."""
    if jitter <= 0:
        return float(value < bound)
    low, high = value - jitter, value + jitter
    first = min(high, bound) - max(low, -bound)
    second = min(high, 2 + bound) - max(low, 2 - bound)
    return (max(0.0, first) + max(0.0, second)) / (2 * jitter)
