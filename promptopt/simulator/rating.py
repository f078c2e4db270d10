"""What a judge is shown that rates one reply: the reply, its question, and the range of the number wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from promptopt.simulator.ask import Contract, contract, wish
from promptopt.simulator.index import Index, Row
from promptopt.simulator.reading import QUESTION, groups

REPLY = re.compile(
    r"(?:^|(?<=[\x01\x02]))[ \t#>*_\-=\[<({|\"'`]*(?:the )?(?:(?:start|beginning) of )?(?:the )?"
    r"(?:\w+['’]s )?"
    r"(?:(?:assistant|model|ai|student|candidate|given|generated|predicted|proposed|actual|its|system)"
    r"(?:['’]s)?[ _]+)*(?:response|answer|output|reply|completion|solution|prediction)s?(?![\w])"
    r"(?: (?:to (?:be )?(?:evaluate|rate|grade|judge|score)d?|of the (?:model|assistant)|text|given))?"
    r"[*_\])}>|\"'`#= ]*(?::[ \t*]*|(?<=[\])>])|(?=\n))[*_]*(?=\s*\S)",
    re.IGNORECASE | re.MULTILINE,
)
# A cue that starts the model's own answer shows no reply; an input under such a heading is the reply itself.
_THINK = re.compile(r"\W*(?:let['’]?s|let us|think)\b", re.IGNORECASE)
_ISREPLY = re.compile(r"\b(?:response|answer|output|reply|completion|solution|prediction)s?\b[^\w\n]*\s*$", re.I)
STOP = re.compile(
    r"^[\W_]*(?:the end of|end of|/|rate|grade|score|rating|evaluate|evaluation|rubric|scale|criteria|reference|"
    r"gold|correct|expected|ideal|ground|how|on a scale|give|assign|provide|please|your|reply with|respond|"
    r"return)\b",
    re.IGNORECASE | re.MULTILINE,
)
_WISH = re.compile(
    r"\b(?:rate|grade|score)\s+(?:the|this|that|it|its|how)\b"
    r"|\b(?:give|assign|write|output|provide|return|respond with|reply with|award)\b"
    r"(?:(?!feedback|critique|reason|why)[^.\n]){0,40}\b(?:score|rating|grade|mark)s?\b",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"(?:\b(?:scale|rat\w+|scor\w+|grad\w+|between|from|integer|number|marks?|points)\b[^\n\d]{0,40}?|[(\[])"
    r"(?<![\d.])(?P<low>-?\d+(?:\.\d+)?)(?: ?\([^()\n]{0,30}\))?\s*"
    r"(?:-|–|to|and|through|\.\.+|,)\s*\+?(?P<high>\d+(?:\.\d+)?)(?![\d%])"
    r"|\bout of (?P<top>\d+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rating:
    """A reply to be rated.

    Args:
        rows: the known input that it replies to; () = unknown.
        reply: its text.
        low: the worst number.
        high: the best number, above `low`.
        request: the text around the reply.
        contract: the form of the rating, as `request` wants it.
    """

    rows: tuple[Row, ...]
    reply: str
    low: float
    high: float
    request: str
    contract: Contract


def find_rating(text: str, index: Index) -> Rating | None:
    """Return the reply that `text` wants to be rated by a number; None = there is no such wish."""
    if not _WISH.search(text) or _bounds(text) is None:
        return None  # as for nearly all requests; the inputs need not be looked for
    found = groups(text, index)
    start = found[-1].end if found else 0
    shown = REPLY.search(text, start)
    if shown is None:
        return None
    stop = STOP.search(text, shown.end())
    end = stop.start() if stop and text[shown.end() : stop.start()].strip() else len(text)
    before = text[: found[-1].start] + "some text" if found else ""
    request = f"{before}{text[start : shown.start()]}\n\n{text[end:]}"
    bounds = _bounds(request)
    if bounds is None or not _is_wish(request):
        return None
    rows = (found[-1].row,) if found else ()
    return Rating(rows, text[shown.end() : end], *bounds, request, contract(request, request))


def is_rated(frame: str, earlier: Iterable[str]) -> bool:
    """Return whether a conversation whose last known input is `QUESTION` shows a reply to it to be rated."""
    if not _shows_reply(frame):
        return False
    request = "\n".join((*earlier, frame))
    if _ISREPLY.search(request[: request.rfind(QUESTION)][-80:]):
        return False
    return _bounds(request) is not None and _is_wish(request)


def _shows_reply(frame: str) -> bool:
    shown = REPLY.search(frame, frame.rfind(QUESTION) + 1)
    return shown is not None and not _THINK.match(frame, shown.end())


def _is_wish(request: str) -> bool:
    return _WISH.search(request) is not None and wish(request) != "prompt"


def _bounds(request: str) -> tuple[float, float] | None:
    for found in _RANGE.finditer(request):
        low, high = (0.0, float(found["top"])) if found["top"] else (float(found["low"]), float(found["high"]))
        if low < high:
            return low, high
    return None
