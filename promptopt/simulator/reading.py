"""What a prompt says, apart from the one input that it asks about: advice, format, demonstrations.

A conversation becomes one text in which `QUESTION` stands for the input that is asked about, so that all
calls of one prompt share one reading, which is worked out once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from promptopt.simulator.ask import wanted_fields
from promptopt.simulator.concepts import REASONING, concepts_of
from promptopt.simulator.index import Index, Row, answer_in
from promptopt.simulator.landscapes import Landscape

QUESTION = "\x00"  # the input that is asked about
REPLY = "\x01"  # an assistant's message begins
TURN = "\x02"  # any other message begins

_CUE = re.compile(r"^[\s*_'\",(\])}|]*(?:[A-Za-z][\w ]{0,20}['\"*_]*)?\s*(?::|->|=>|=)\s*['\"]?")
_DANGLING = re.compile(r"(?:\n+[^\n]{0,30}:[*_ ]*)+\s*$")
_TAG = re.compile(r"<(final_answer|answer|output|result|label|response|category|prediction)>", re.IGNORECASE)
_THOUGHT = re.compile(r"reason|rationale|thought|thinking|explanation|analysis", re.IGNORECASE)
_ANSWER_LINE = re.compile(
    r"(?:end|finish|clos|conclud|write|reply|respond|format|form|line|put|giv|stat|as|with)\w*\b[^.\n]{0,80}?"
    r"['\"`*(]*\b(?:final )?answer:",
    re.IGNORECASE,
)
_MAX_OUTPUT = 2500  # characters after a known input in which its output is looked for


@dataclass(frozen=True)
class Format:
    """The form of a reply.

    Args:
        before: text before the answer.
        after: text after it.
        source: asked = the prompt says it; shown = demonstrations do; cue = the conversation ends in a
            label such as "Answer:"; none = the model is left to itself.
        thought: text before the reasoning, for forms that have a place for it; "" = none.
    """

    before: str = ""
    after: str = ""
    source: str = "none"
    thought: str = ""


class Group(NamedTuple):
    """A known input at [start, end) of some text."""

    row: Row
    start: int
    end: int


@dataclass(frozen=True)
class Shown:
    """A demonstration in a conversation: the row, where it stands, and whether its output is right."""

    row: Row
    start: int
    end: int
    output: str
    is_right: bool
    is_reasoned: bool


@dataclass(frozen=True)
class Reading:
    """What decides how a prompt fares; equal for all inputs that it is asked about.

    Args:
        competence: by error type, chance of a right answer; without the bias towards a label.
        malformed: chance that no answer can be extracted from a reply.
        format: the form of a well-formed reply.
        is_reasoning: the reply shows reasoning first.
        bias_target: the demonstrations' most frequent target; None = there is no bias.
        bias: competence that examples of this target gain and others lose.
        salt: digest of the whole text.
    """

    competence: tuple[float, ...]
    malformed: float
    format: Format
    is_reasoning: bool
    bias_target: str | None
    bias: float
    salt: bytes


def demonstrations(text: str, index: Index) -> Iterator[Shown]:
    """Yield the known inputs in `text` that are followed by an output, in order."""
    found = groups(text, index)
    for place, (row, start, end) in enumerate(found):
        limit = found[place + 1].start if place + 1 < len(found) else len(text)
        asked = text.find(QUESTION, end, limit)
        limit = min(end + _MAX_OUTPUT, asked if asked >= 0 else limit)
        output, stop = _output(text, end, limit, row.target or "")
        if not output:
            continue
        target = row.target or output
        is_right = _same(answer_in(output), target) or _same(output.split("\n")[-1], target)
        yield Shown(row, start, stop, output, is_right, len(output) > len(target) + 60)


def groups(text: str, index: Index) -> list[Group]:
    """Return the known inputs in `text`, in order; columns of one row in succession are one input."""
    found: list[tuple[list[Row], int, int]] = []
    for hit in index.hits(text):
        rows = index.rows(hit.text)
        if found:
            # Identity, not equality: rows are few and comparing texts is slow.
            shared = [row for row in found[-1][0] if any(row is other for other in rows)]
            if shared and len(shared[0].texts) > 1 and hit.text != text[found[-1][1] : found[-1][2]]:
                found[-1] = (shared, found[-1][1], hit.end)
                continue
        found.append((rows, hit.start, hit.end))
    return [Group(rows[0], start, end) for rows, start, end in found]


def _output(text: str, start: int, limit: int, target: str) -> tuple[str, int]:
    region = text[start:limit]
    reply = region.find(REPLY)
    if reply >= 0:
        # In a chat the reply is the output, whatever stands between the input and the turn's end.
        ends = [place for place in (region.find(TURN, reply), region.find(REPLY, reply + 1)) if place >= 0]
        stop = min(ends, default=len(region))
        return region[reply + 1 : stop].strip(), start + stop
    turn = region.find(TURN)
    region = region if turn < 0 else region[:turn]
    cue = _CUE.match(region)
    skip = cue.end() if cue else len(region) - len(region.lstrip(" \n\t\"'"))
    body = region[skip:]
    found = body.lower().find(target.lower()) if target else 0
    stop = body.find("\n\n", max(found, 0))
    body = body if stop < 0 else body[:stop]
    body = _DANGLING.sub("", body)
    if len(body) > 1500:
        return "", start
    return body.strip(" \n\t\"'"), start + skip + len(body)


def _same(text: str, target: str) -> bool:
    return text.strip(" .\"'*").lower() == target.strip(" .\"'*").lower()


def find_format(instruction: str, demos: tuple[Shown, ...]) -> Format:
    """Return the form of reply that a prompt asks for, or else shows, or else suggests by its end."""
    tail = instruction[instruction.rfind(QUESTION) + 1 :]
    fields = wanted_fields(tail)
    answers = [name for name in fields if name != "completed"]
    if answers:
        return _sections(answers, "completed" in fields)
    marked = _marked(instruction, "asked")
    if marked is not None:
        return marked
    # Outputs are the model's own words or the user's; what most of the last ones do is the form.
    shown = [_marked(demo.output, "shown") or Format(source="shown") for demo in demos[-3:]]
    if shown:
        is_open = demos[-1].is_reasoned and shown[-1].before == ""
        return Format() if is_open else shown[-1]
    if re.search(r"(?:^|[\n.])[^\n.]{0,30}[:>]\W*$", tail):
        return Format(source="cue")
    return Format()


def _sections(names: list[str], is_closed: bool) -> Format:
    heads = [name for name in names[:-1] if _THOUGHT.search(name)]
    after = "\n\n[[ ## completed ## ]]" if is_closed else ""
    thought = f"[[ ## {heads[0]} ## ]]\n" if heads else ""
    return Format(f"[[ ## {names[-1]} ## ]]\n", after, "asked", thought)


def _marked(text: str, source: str) -> Format | None:
    tags = _TAG.findall(text)
    if tags:
        tag = next((name for name in tags if "answer" in name.lower()), tags[-1])
        return Format(f"<{tag}>", f"</{tag}>", source)
    if "\\boxed" in text:
        return Format("\\boxed{", "}", source)
    if "####" in text:
        return Format("#### ", "", source)
    if _ANSWER_LINE.search(text) or (source == "shown" and re.search(r"\banswer:", text, re.IGNORECASE)):
        return Format("Answer: ", "", source)
    return None


def read(
    text: str, salt: bytes, index: Index, landscape: Landscape, labels: tuple[str, ...], is_json: bool
) -> Reading:
    """Return the reading of a conversation in which `QUESTION` stands for the input.

    Args:
        labels: all labels, if the targets are few; () = free answers.
        is_json: whether targets are JSON.
    """
    demos = tuple(demonstrations(text, index))
    instruction = _without(text, demos)
    form = find_format(instruction, demos)
    concepts = set(concepts_of(instruction))
    if form.thought or (demos and sum(demo.is_reasoned for demo in demos) * 2 > len(demos)):
        concepts.add("step_by_step")
    if "only_answer" in concepts and not form.before:
        # Told to write nothing else, a model cannot reason in its reply, and gains nothing from it.
        concepts -= REASONING
    is_reasoning = bool(concepts & REASONING) and not landscape.is_flat
    malformed = _malformed(landscape, form, concepts, is_reasoning)
    lowered = instruction.lower()
    if form.source == "none" and not is_reasoning:
        # Naming the labels, or the notation, is half a format directive.
        if 2 <= len(labels) <= 12 and all(label.lower() in lowered for label in labels):
            malformed *= 0.6
        malformed *= 0.5 if is_json and "json" in lowered else 1.0
    n_tokens = len("\n".join(dict.fromkeys(instruction.split("\n")))) / 4
    bias_target, bias = _bias(landscape, demos, labels)
    return Reading(
        competence(landscape, frozenset(concepts), n_tokens, demos),
        malformed,
        form,
        is_reasoning,
        bias_target,
        bias,
        salt,
    )


def _without(text: str, demos: tuple[Shown, ...]) -> str:
    pieces, start = [], 0
    for demo in demos:
        pieces.append(text[start : demo.start])
        start = demo.end
    pieces.append(text[start:])
    return "".join(pieces).replace(REPLY, "\n").replace(TURN, "\n")


def _malformed(landscape: Landscape, form: Format, concepts: set[str], is_reasoning: bool) -> float:
    if landscape.is_flat or form.before.startswith("[[ ##"):
        return 0.0
    if form.before:
        return landscape.unruly
    if is_reasoning:
        return 1 - landscape.marker
    if "only_answer" in concepts or form.source == "shown":
        return landscape.unruly
    share = landscape.chatty * (0.5 if "concise" in concepts else 1.0)
    return max(landscape.unruly, share * (0.3 if form.source == "cue" else 1.0))


def competence(
    landscape: Landscape, concepts: frozenset[str], n_tokens: float, demos: tuple[Shown, ...]
) -> tuple[float, ...]:
    """Return the chance of a right answer by error type, in [floor, ceiling]."""
    right = [demo for demo in demos if demo.is_right]
    n_wrong = len(demos) - len(right)
    counts = Counter(demo.row.kind for demo in right)
    reasoned = sum(demo.is_reasoned for demo in right) / len(right) if right else 0.0
    factor = 1 + (landscape.demo_reasoned - 1) * reasoned
    cost = landscape.token_cost * max(0.0, n_tokens - landscape.free_tokens) / 100
    cost += landscape.demo_cost * max(0, len(demos) - landscape.free_demos)
    cost += landscape.demo_wrong * min(n_wrong, 4)
    values = []
    for place, kind in enumerate(landscape.error_types):
        value = kind.base - cost
        value += sum(mend.gain for mend in kind.mends if concepts.issuperset(mend.concepts))
        value -= sum(loss for name, loss in kind.harms if name in concepts)
        own, other = 0.5 ** counts[place], 0.5 ** (len(right) - counts[place])
        value += kind.demo_gain * factor * (1 - own + landscape.demo_spread * own * (1 - other))
        values.append(min(landscape.ceiling, max(landscape.floor, value)))
    return tuple(values)


def _bias(landscape: Landscape, demos: tuple[Shown, ...], labels: tuple[str, ...]) -> tuple[str | None, float]:
    if len(labels) < 2 or not demos or not landscape.label_bias:
        return None, 0.0
    counts = Counter(demo.row.target for demo in demos)
    # Ties go to the label that stands first in the sorted list, so that order of demos is no matter.
    top = max(labels, key=lambda label: counts[label])
    lopsided = max(0.0, counts[top] / len(demos) - 1 / len(labels)) / (1 - 1 / len(labels))
    return top, landscape.label_bias * lopsided * min(1.0, len(demos) / 4)
