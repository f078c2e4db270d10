"""What a judge is shown that checks one reply point by point: the reply, its question, the points, the words.

A request of this kind shows a list of points, a reply under a heading of its own, and asks for a verdict on each
point in words such as yes and no, with or without one between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from promptopt.simulator.ask import Contract, contract
from promptopt.simulator.index import Index, Row
from promptopt.simulator.rating import REPLY, STOP
from promptopt.simulator.reading import QUESTION, groups

_POINT = (
    r"(?:principle|criteri(?:on|um)|criteria|requirement|point|rule|item|check|statement|condition|question|aspect|"
    r"guideline)s?"
)
_EACH = re.compile(
    rf"\b(?:each|every|all(?: of)?(?: the)?|per|single)\b(?: [\w-]+){{0,2}}? {_POINT}\b|\b{_POINT} by {_POINT}\b",
    re.IGNORECASE,
)
# (good, bad, what may stand between them), as requests offer them
_SCALES = (
    ("yes", "no", r"part(?:ly|ial(?:ly)?)|somewhat|unsure|mixed"),
    ("pass", "fail", r"part(?:ly|ial(?:ly)?)|borderline"),
    ("met", "(?:un|not )met", r"part(?:ly|ial(?:ly)?)(?: met)?"),
    ("true", "false", r"part(?:ly|ial(?:ly)?)"),
    ("satisfied", "(?:un|not )satisfied", r"part(?:ly|ial(?:ly)?)(?: satisfied)?"),
)
_QUOTE = r"[\"'`*(\[]*"
_NUMBERED = re.compile(r"^[ \t]*(?:[*_]{2})?(\d{1,2})[.)][ \t]+\S", re.MULTILINE)
_BULLET = re.compile(r"^[-*\u2022][ \t]+\S", re.MULTILINE)
_LINE = re.compile(
    r"(?<!\w)(?P<before>(?:[A-Za-z]+ )?[#(\[]?)(?:\d{1,2}|<\w+>|\{\w+\}|[in](?=[:.)]))"
    r"(?P<after>[)\]]?(?: ?[:.=\-]+ ?| ))"
)


@dataclass(frozen=True)
class Checklist:
    """A reply to be checked.

    Args:
        rows: the known input that it replies to; () = unknown.
        reply: its text.
        n_points: how many verdicts are wanted.
        words: what to say of a point that is met, of one that is not, and of one between; "" = nothing between.
        line: what stands before and after a point's number.
        request: the text around the reply.
        contract: the form of the verdicts, as `request` wants it.
    """

    rows: tuple[Row, ...]
    reply: str
    n_points: int
    words: tuple[str, str, str]
    line: tuple[str, str]
    request: str
    contract: Contract


def find_checklist(text: str, index: Index) -> Checklist | None:
    """Return the reply that `text` wants to be checked point by point; None = there is no such wish."""
    if not is_wish(text):
        return None  # as for nearly all requests; the inputs need not be looked for
    found = groups(text, index)
    place = found[0].end if found else 0
    heading = REPLY.search(text, place)
    if heading is None:
        return None
    start, end, after = _enclosed(text, heading.group(), heading.end())
    asked = [group for group in found if group.end <= heading.start()]
    before = "".join((text[: asked[0].start], "some text", text[asked[-1].end : heading.start()])) if asked else ""
    request = f"{before or text[: heading.start()]}\n\n{text[after:]}"
    words, n_points = _words(request), _n_points(request)
    if words is None or not n_points or not _EACH.search(request):
        return None
    rows = (asked[-1].row,) if asked else ()
    return Checklist(
        rows, text[start:end], n_points, words, _line(request, words), request, contract(request, request)
    )


def is_checked(frame: str, earlier: Iterable[str]) -> bool:
    """Return whether a conversation whose last known input is `QUESTION` shows a reply to it to be checked."""
    request = "\n".join((*earlier, frame))
    if not is_wish(request) or not _n_points(request):
        return False
    asked = frame.rfind(QUESTION)
    # A reply may repeat its question; then the wish for verdicts comes after both.
    return REPLY.search(frame, asked + 1) is not None or bool(REPLY.search(frame) and is_wish(frame[asked + 1 :]))


def is_wish(text: str) -> bool:
    """Return whether `text` asks for a verdict on each of some points."""
    return _EACH.search(text) is not None and _words(text) is not None


def _enclosed(text: str, heading: str, start: int) -> tuple[int, int, int]:
    """Return where the reply under a heading begins and ends, and where the request goes on.

    A heading that is a tag is closed by its own. A line of signs that opens the reply closes it, where it comes
    again. Else the reply ends before a line that speaks of something else, or a blank one before the wish.
    """
    tag = re.search(r"<([\w-]+)>\W*$", heading)
    closing = text.find(f"</{tag[1]}>", start) if tag else -1
    if closing >= 0:
        return start, closing, closing
    opening = re.compile(r"\s*^[ \t]*(?P<line>[^\w\s]\S*)[ \t]*\n", re.MULTILINE).match(text, start)
    closing = text.rfind(f"\n{opening['line']}", opening.end() - 1) if opening else -1
    if opening and closing >= 0:
        return opening.end(), max(opening.end(), closing), closing + 1 + len(opening["line"])
    stop = STOP.search(text, start)
    if stop and text[start : stop.start()].strip():
        return start, stop.start(), stop.start()
    blanks = [match.start() for match in re.finditer(r"\n[ \t]*\n", text) if match.start() > start]
    end = next((place for place in reversed(blanks) if _EACH.search(text, place)), len(text))
    return start, end, end


def _words(text: str) -> tuple[str, str, str] | None:
    for good, bad, between in _SCALES:
        either = rf"(?<!\w){_QUOTE}(?P<one>{good})\b"
        gap = r"[\"'`*)\]]*\s*(?:,|/|\||\bor\b)[\s\"'`*(\[]*(?:or\b[\s\"'`*(\[]*)?"
        middle = rf"(?:(?P<middle>{between})\b{gap})?"
        found = re.search(rf"{either}{gap}{middle}(?P<two>{bad})\b(?:{gap}(?P<last>{between})\b)?", text, re.I)
        if found:
            return found["one"], found["two"], found["middle"] or found["last"] or ""
    return None


def _n_points(text: str) -> int:
    """Return the length of the longest list numbered from 1, or else the number of bullets."""
    longest = n = 0
    for match in _NUMBERED.finditer(text):
        n = n + 1 if int(match[1]) == n + 1 else int(match[1] == "1")
        longest = max(longest, n)
    return longest or len(_BULLET.findall(text))


def _line(request: str, words: tuple[str, str, str]) -> tuple[str, str]:
    """Return what an example of a verdict's line has around its number; `1: word` where there is none."""
    said = re.compile(rf"{_QUOTE}(?:{'|'.join(re.escape(word) for word in words if word)})(?!\w)", re.IGNORECASE)
    found = next((match for match in _LINE.finditer(request) if said.match(request, match.end())), None)
    return (found["before"], found["after"]) if found else ("", ": ")
