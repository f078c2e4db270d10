"""What a judge is shown: two replies to one question or to several, and the text that asks for a verdict.

Replies stand under headings that name their side: "Answer A to question 2:", "### Response 1", "Output (b)",
"[The Start of Assistant A's Answer]", `<reply_b>`, `[[ ## response_a ## ]]`, "# A". Headings in turn (A, B, A, B)
are one pair for each question; one A and one B may hold a set of replies, cut at the known inputs or at numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from promptopt.simulator.ask import Contract, contract, wish
from promptopt.simulator.heading import NOUN, Head, Pair, Pairing, alternatives, enclosed, heads, pairings
from promptopt.simulator.index import Index, Row
from promptopt.simulator.reading import QUESTION, Group, groups

_TEMPLATE = re.compile(r"\W*\{[\w .]+\}\W*")

_STRONG = re.compile(
    r"\b(?:better|prefer\w*|compar\w+|winner|wins|verdict|judge|judging|superior|pairwise|evaluat\w+)\b"
    rf"|\b{NOUN} [(\"']?[A1][)\"']? or {NOUN} [(\"']?[B2]\b",
    re.IGNORECASE,
)
_WEAK = re.compile(r"\b(?:which|better|best|prefer|choose|compare|winner|judge|pick|select)", re.IGNORECASE)
# That there are two is said somewhere: "both answers", "assistants A and B", "A/B", "[[A]]", "1 or 2".
_BOTH = re.compile(rf"\b(?:two|both|pair of|either)\b[^.\n]{{0,40}}\b{NOUN}\b", re.IGNORECASE)
_NAMED = {
    is_numeric: re.compile(
        rf"\[\[{one}\b|(?<![\w.]){one}['\"`\])]* ?(?:/|\||,|or|and|vs\.?|versus) ?(?:{NOUN} )?"
        rf"['\"`\[(]*{two}(?!\w|\.\w)",
        re.IGNORECASE,
    )
    for is_numeric, one, two in ((False, "A", "B"), (True, "(?:1|one|first)", "(?:2|two|second)"))
}
_ASKING = re.compile(
    r"\b(?:which|whose|who)\b.{0,60}\b(?:better|best|prefer\w*|stronger|wins?)\b|\b(?:verdict|winner|judge|compare|prefer|tie)\b"
    r"|\b(?:say|state|choose|pick|select|decide|determine|evaluate)\b.{0,80}\b(?:better|best|question|response|answer)"
    r"|^\W*(?:respond|reply|return|output|provide|give|write|name|your task|for each|for every|now)\b[^:\n]{10}"
    r"|^\W*format:",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"^\W*(?:the )?(?:reference|gold|golden|correct|expected|ideal|ground[ -]truth)\b[^\n:]{0,40}(?::|$)",
    re.IGNORECASE,
)
_NEXT_QUESTION = re.compile(
    r"^\W*(?:question|input|item|pair|example|case|problem|query|q)s?[ _]*#?\d{1,3}\b",
    re.IGNORECASE | re.MULTILINE,
)
_ITEM = re.compile(
    r"^\W*(?:(?:question|answer|response|reply|output|item|q|a)[ _]*#?)?(\d{1,3})[.:)\]]+", re.I | re.M
)


@dataclass(frozen=True)
class Item:
    """Two replies to the same question.

    Args:
        rows: the known inputs that both reply to, mostly one; () = unknown.
        replies: the texts, first side first.
    """

    rows: tuple[Row, ...]
    replies: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """Pairs of replies and what is wanted to be said about them.

    Args:
        names: what the sides are called, such as ("A", "B").
        items: the pairs, in order, at least one.
        request: the text around the replies, known inputs left out.
        contract: the form of the reply, as `request` wants it.
    """

    names: tuple[str, str]
    items: tuple[Item, ...]
    request: str
    contract: Contract


def find(text: str, index: Index) -> Comparison | None:
    """Return what `text` asks to be compared; None = nothing, or a prompt is wanted."""
    headed = heads(text) if _WEAK.search(text) else []
    if not headed and not (_COMPARE.search(text) and _SIDES.search(text)):
        return None  # as for nearly all requests; the inputs need not be looked for
    found = tuple(groups(text, index))
    inside = [group for group in found if index.rows(text[group.start : group.end])]
    shown = [head for head in headed if not any(group.start <= head.start < group.end for group in inside)]
    compared = [_compared(text, pairing, found) for pairing in pairings(shown)]
    fits = [comparison for comparison in compared if comparison is not None]
    known = [comparison for comparison in fits if any(item.rows for item in comparison.items)]
    return next(iter(known + fits), None) or _loose(text, found)


def is_asked(frame: str, earlier: Iterable[str], texts: Sequence[str]) -> bool:
    """Return whether a conversation whose last known input is `QUESTION` shows two replies to it to compare.

    Args:
        frame: the text around the input, from its message on.
        earlier: the messages before.
        texts: the input's own texts; one repeated inside a reply stands in front of the pair too.
    """
    signs = _signs(frame)
    contents = (frame, *earlier)
    return any(
        (place is None or any(text in frame[:place] for text in texts))
        and any(_STRONG.search(content) for content in contents)
        and any(_says_two(content, is_numeric) for content in contents)
        for place, is_numeric in signs
    )


def _says_two(text: str, is_numeric: bool) -> bool:
    return bool(_BOTH.search(text) or _NAMED[is_numeric].search(text))


def shows_pair(frame: str) -> bool:
    """Return whether `frame` has headings of two replies, so that `is_asked` may depend on the input."""
    return bool(_signs(frame))


@lru_cache(maxsize=256)
def _signs(frame: str) -> tuple[tuple[int | None, bool], ...]:
    """Return where the question must be seen again (None = need not), and if names are numbers, by style."""
    asked = frame.rfind(QUESTION)
    found = []
    for pairing in pairings(heads(frame)):
        one, two = pairing.pairs[-1]
        if frame[one.end : two.start].strip() and frame[two.end :].strip():
            found.append((None if one.start > asked else two.start, one.is_numeric))
    return tuple(found)


def _compared(text: str, pairing: Pairing, found: tuple[Group, ...]) -> Comparison | None:
    pairs = [pair for pair in pairing.pairs if not _TEMPLATE.fullmatch(text[pair[0].end : pair[1].start])]
    if not pairs:
        return None
    one, two = sorted(pairs[-1], key=lambda head: head.side)
    ends = pairing.ends
    stop = enclosed(text, pairs[-1][1], ends) or _before_request(text, pairs[-1][1].end)
    if len(pairs) > 1:
        items = _in_turn(text, pairs, ends, found, stop)
    else:
        items = _sets(text, pairs[0], ends, found, stop)
    request = f"{_without(text, 0, pairs[0][0].start, found)}\n\n{_without(text, stop, len(text), found)}"
    if not items or (one.is_numeric and not _says_two(request, True)):
        return None
    first, second = (head.name.upper() if len(head.name) == 1 else head.name.lower() for head in (one, two))
    gaps = _with_gaps(request, (first, second))
    return _checked(Comparison((first, second), tuple(items), request, contract(gaps, gaps)))


def _with_gaps(request: str, names: tuple[str, str]) -> str:
    """Return the request with the tags of verdicts' examples dropped, or emptied to look like gaps to fill."""
    either = "|".join(map(re.escape, names))
    is_line = re.compile(rf"\W*\d+\W+(?:{either})\b")
    request = re.sub(rf"<\w+>(?=[ \t]*[:.)=\-][ \t]*\W?(?:{either})\b)|<(?:{either})>", "1", request)

    def emptied(match: re.Match[str]) -> str:
        tag, inside = match.groups()
        return f"<{tag}>...</{tag}>" if alternatives(inside, names) or is_line.match(inside) else match.group()

    return re.sub(r"<([\w-]+)>([^<>]{1,200})</\1>", emptied, request)


def _checked(comparison: Comparison) -> Comparison | None:
    is_offered = alternatives(comparison.request, comparison.names) is not None
    if not is_offered and (wish(comparison.request) == "prompt" or not _WEAK.search(comparison.request)):
        return None
    return comparison


def _before_request(text: str, start: int) -> int:
    """Return where the last reply ends: before a paragraph, or else a line, that asks or gives the answer."""
    place, paragraph, is_first = start, start, True
    for line in text[start:].splitlines(keepends=True):
        if not line.strip():
            paragraph = place + len(line)
        elif is_first and not _is_offer(line):
            is_first = False
        elif _ASKING.search(line) or _REFERENCE.search(line) or _is_offer(line):
            return paragraph if text[start:paragraph].strip() else place
        place += len(line)
    return len(text)


def _is_offer(line: str) -> bool:
    return any(alternatives(line, names) for names in (("A", "B"), ("1", "2"))) and bool(_WEAK.search(line))


def _in_turn(
    text: str, pairs: list[Pair], ends: list[Head], found: tuple[Group, ...], last_stop: int
) -> list[Item]:
    """Return an item for each pair, whose question stands before it."""
    asked = _questions(pairs, found)
    items = []
    for place, (one, two) in enumerate(pairs):
        stop = last_stop
        if place + 1 < len(pairs):
            following = asked[place + 1]
            limit = following.start if following else pairs[place + 1][0].start
            mark = _NEXT_QUESTION.search(text, two.end, limit)
            stop = enclosed(text, two, ends) or (mark.start() if mark else limit)
        texts = (text[one.end : enclosed(text, one, ends) or two.start], text[two.end : stop])
        group = asked[place]
        items.append(Item((group.row,) if group else (), _ordered(one, texts)))
    return items


def _questions(pairs: list[Pair], found: tuple[Group, ...]) -> list[Group | None]:
    """Return the last known input before each pair and after the one before."""
    asked: list[Group | None] = []
    floor, former = 0, None
    for one, two in pairs:
        last = next((group for group in reversed(found) if floor <= group.start < one.start), None)
        # A reply that repeats its own question is no new question.
        is_echo = last is not None and last.row is former
        asked.append(None if is_echo else last)
        floor, former = two.end, last.row if last else None
    return asked


def _ordered(one: Head, texts: tuple[str, str]) -> tuple[str, str]:
    return texts if one.side == 0 else (texts[1], texts[0])


def _sets(text: str, pair: Pair, ends: list[Head], found: tuple[Group, ...], stop: int) -> list[Item]:
    """Return the items under one pair of headings; [] if a numbered list of answers only looks like a pair."""
    one, two = pair
    spans = ((one.end, enclosed(text, one, ends) or two.start), (two.end, stop))
    before = list({id(group.row): group.row for group in found if group.start < one.start}.values())
    at_inputs = [_at_inputs(text, span, found) for span in spans]
    first, second = at_inputs
    is_shared = bool(first) and list(first) == list(second)
    if is_shared and (len(first) > 1 or not before):
        rows = {id(group.row): group.row for group in found}
        return [Item((rows[key],), _ordered(one, (first[key], second[key]))) for key in first]
    if one.is_numeric and first and not is_shared:
        return []
    texts = (text[slice(*spans[0])], text[slice(*spans[1])])
    parts = [_at_numbers(part, len(before)) for part in texts]
    if len(parts[0]) == len(parts[1]) > 1:
        known = [(row,) for row in before] if len(before) == len(parts[0]) else [()] * len(parts[0])
        return [Item(row, _ordered(one, both)) for row, both in zip(known, zip(*parts, strict=True), strict=True)]
    # Inputs that stand in front for another reason (an example of the task) have no reply here.
    is_single = max(len(part.strip().splitlines()) for part in texts) < len(before)
    return [Item(tuple(before[-1:] if is_single else before), _ordered(one, texts))]


def _at_inputs(text: str, span: tuple[int, int], found: tuple[Group, ...]) -> dict[int, str]:
    """Return the texts after the known inputs in a span, by the identity of their rows, first ones only."""
    inside = [group for group in found if span[0] <= group.start < span[1]]
    stops = [*(group.start for group in inside), span[1]][1:]
    parts: dict[int, str] = {}
    for group, stop in zip(inside, stops, strict=True):
        parts.setdefault(id(group.row), text[group.end : stop])
    return parts


def _at_numbers(text: str, n_expected: int) -> list[str]:
    """Return the parts of a list numbered from 1, or the paragraphs or lines if they are as many as expected."""
    starts: list[re.Match[str]] = []
    for match in _ITEM.finditer(text):
        if int(match.group(1)) == len(starts) + 1:
            starts.append(match)
    if len(starts) > 1:
        stops = [match.start() for match in starts[1:]] + [len(text)]
        return [text[match.end() : stop] for match, stop in zip(starts, stops, strict=True)]
    for pattern in (r"\n\s*\n", r"\n"):
        parts = [part for part in re.split(pattern, text.strip()) if part.strip()]
        if len(parts) == n_expected:
            return parts
    return []


def _without(text: str, start: int, stop: int, found: tuple[Group, ...]) -> str:
    """Return a span with words in the place of known inputs, lest tags around them look empty."""
    pieces = []
    for group in found:
        if start <= group.start < stop:
            pieces += [text[start : group.start], "some text"]
            start = min(group.end, stop)
    return "".join((*pieces, text[start:stop])).strip()


_SIDE = r"\b(?:response|answer|output|reply|candidate|assistant|completion|solution)s?(?: set)?[ _]+"
_SIDES = re.compile(_SIDE + r"['\"]?(?P<a>[A1])\b.*" + _SIDE + r"['\"]?(?P<b>[B2])\b", re.DOTALL | re.IGNORECASE)
_COMPARE = re.compile(r"\b(?:which|better|prefer|choose|compare|winner|judge|pick)", re.IGNORECASE)


@lru_cache(maxsize=20_000)
def _compares(tail: str) -> bool:
    return _COMPARE.search(tail) is not None


def sides(tail: str, whole: str) -> tuple[str, str, str, str] | None:
    """Return name and text of the two replies that `whole` asks to choose from; None = no such wish.

    Looser than headings: names may stand anywhere in a line.
    """
    if not _compares(tail):
        return None
    found = _SIDES.search(whole)
    if found is None:
        return None
    first = re.search(_SIDE + r"['\"]?" + found.group("a") + r"\b", whole, re.IGNORECASE)
    names = (found.group("a").upper(), found.group("b").upper())
    if first is None or names not in (("A", "B"), ("1", "2")):
        return None
    second = re.search(_SIDE + r"['\"]?" + found.group("b") + r"\b", whole[first.end() :], re.IGNORECASE)
    if second is None:
        return None
    middle = first.end() + second.start()
    return names[0], whole[first.end() : middle], names[1], whole[middle:]


def _loose(text: str, found: tuple[Group, ...]) -> Comparison | None:
    tail = text[found[-1].end :] if found else text
    pair = sides(tail, text)
    if pair is None:
        return None
    first, one, second, two = pair
    names = (first, second)
    if wish(tail) == "prompt" and alternatives(tail, names) is None:
        return None
    rows = tuple({id(group.row): group.row for group in found}.values())
    return Comparison(names, (Item(rows, (one, two)),), text, contract(tail, text))
