"""Headings of the replies that a judge is shown: which side they name, and how they pair up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

NOUN = (
    r"(?:response|answer|output|reply|replie|candidate|assistant|completion|solution|model|system|set|group|"
    r"generation|result|prediction|summary|translation|version)s?"
)
"""Words for a reply, or for who gives it."""

# \x01 and \x02 begin the messages of a conversation that is one text.
_OPEN = r"(?:^|(?<=[\x01\x02]))(?P<open>[ \t#>*_\-=\[<({|\"'`]*)"
_CLOSE = r"(?P<close>[ \t*_\])}>|\"'`#=]*)(?P<colon>:?)[*_\"'`]*(?P<eol>[ \t]*(?=\n|\Z))?"
_NUMBERED = r"(?:(?:question|item|pair|example|case|input|q)?[ _]?#?\d{1,3}[.,):\-]*[ \t]*)?"
_REST = (
    rf"(?:['’]s)?(?:[ _,\-]+(?:{NOUN}|to|for|of|on|in|the|this|text|question|item|input|pair|example|case|is|are|"
    r"says?|said|wrote|replied|gave|starts?|begins?|follows?|below|no\.|number|#?\d{1,3})\b)*"
    r"(?: ?\([^()\n]{0,40}\))?"
)
_HEAD = re.compile(
    rf"{_OPEN}{_NUMBERED}(?P<end>/|(?:the )?end of )?(?:the )?(?:(?:start|beginning|begin) of )?(?:the )?(?:"
    rf"(?:{NOUN}[ _\-]+(?:(?:set|of|from|by|no\.|number)[ _\-]+)?){{1,2}}"
    r"(?P<name>#?\d{0,3}(?-i:[A-D])\d{0,3}|#?\d{1,2}|one|two|(?<=[_\-])[a-d]|[(\[\"'](?:[A-D]|\d)[)\]\"'])"
    rf"|{NOUN}(?P<joined>(?<=[a-z])(?-i:[A-D])|\d)"
    rf"|(?P<ordinal>first|second|third|1st|2nd|3rd)[ _\-]+{NOUN}"
    rf"|(?P<owner>(?-i:[A-D]))['’]s[ _]+{NOUN}"
    rf"|(?P<bare>(?-i:[A-D])))(?!\w){_REST}{_CLOSE}",
    re.IGNORECASE | re.MULTILINE,
)
_KINDS = ("name", "joined", "ordinal", "owner", "bare")
_PLACES = {"a": 0, "b": 1, "c": 2, "d": 3, "one": 0, "two": 1, "first": 0, "second": 1, "third": 2}


class Head(NamedTuple):
    """A heading at [start, end).

    `side` is 0 or 1, or more for a third reply; `name` is what the side is called; `style` is the kind of
    name and the signs before it; `is_end` says that it closes a reply ("[The End of Assistant A's Answer]").
    """

    start: int
    end: int
    side: int
    name: str
    style: tuple[str, str]
    is_end: bool

    @property
    def is_numeric(self) -> bool:
        """Whether the name is a number, which lists of other things have too."""
        return self.name.isdigit() or self.name.lower() in ("one", "two")


Pair = tuple[Head, Head]


class Pairing(NamedTuple):
    """Pairs of headings in one style, in order, and the marks in that style that close a reply."""

    pairs: list[Pair]
    ends: list[Head]


def heads(text: str) -> list[Head]:
    """Return all headings in `text` that name a side, each at the start of a line."""
    return [_head(match) for match in _HEAD.finditer(text) if _is_heading(match)]


def _is_heading(match: re.Match[str]) -> bool:
    opening, closing = match.group("open", "close")
    if match.group("bare") and not any(sign in opening for sign in "#*[<="):
        return False
    is_closed = match.group("colon") or match.group("eol") is not None
    return bool(is_closed) or any(sign in closing for sign in "]>")


def _head(match: re.Match[str]) -> Head:
    kind = next(key for key in _KINDS if match.group(key))
    name = re.sub(r"^\d+(?=[A-D])|(?<=[A-D])\d+$|\W|(?<=\d)(?:st|nd|rd)$", "", match.group(kind))
    side = int(name) - 1 if name.isdigit() else _PLACES[name.lower()]
    scheme = "bare" if kind == "bare" else "number" if name.isdigit() else "word" if len(name) > 1 else "letter"
    style = (scheme, match.group("open").strip())
    return Head(match.start(), match.end(), side, name, style, bool(match.group("end")))


def pairings(found: Iterable[Head]) -> list[Pairing]:
    """Return the pairs of each style of heading, letters first and bare ones last; lists of three are none."""
    by_style: dict[tuple[str, str], list[Head]] = {}
    for head in found:
        by_style.setdefault(head.style, []).append(head)
    ranked = sorted(by_style, key=lambda style: (style[0] == "bare", style[0] != "letter"))
    paired = [_paired(by_style[style]) for style in ranked]
    return [pairing for pairing in paired if pairing.pairs]


def _paired(own: list[Head]) -> Pairing:
    starts = [head for head in own if not head.is_end]
    pairs, place = list[Pair](), 0
    while place + 1 < len(starts):
        one, two = starts[place : place + 2]
        if {one.side, two.side} == {0, 1}:
            pairs.append((one, two))
            place += 1
        place += 1
    is_list = any(head.side > 1 for head in own)
    return Pairing([] if is_list else pairs, [head for head in own if head.is_end])


def enclosed(text: str, head: Head, ends: list[Head]) -> int | None:
    """Return where the reply under a heading is closed by a mark of its own; None = by none."""
    tag = re.match(r"[ \t]*<([\w\-]+)>", text[head.start : head.end])
    if tag:
        place = text.find(f"</{tag.group(1)}>", head.end)
        return place if place >= 0 else None
    return next((end.start for end in ends if end.start >= head.end and end.side == head.side), None)


def alternatives(text: str, names: tuple[str, str]) -> tuple[str, str] | None:
    """Return the two names as `text` last offers them ("Output (a) or Output (b)"); None = it does not."""
    first, second = map(re.escape, names)
    pattern = (
        rf"(?<!\w)(?P<noun>(?:[A-Za-z]+[ _])?)(?P<o>[(\[{{]*)(?P<first>{first})(?!\w)(?P<c>[)\]}}]*)['\"`*]*\s*"
        rf"(?:,|/|\||\bor\b)\s*(?:or\s+)?['\"`*]*(?P=noun)(?P=o)(?P<second>{second})(?!\w)(?P=c)"
    )
    found = list(re.finditer(pattern, text, re.IGNORECASE))
    if not found:
        return None
    noun, opening, closing = found[-1].group("noun", "o", "c")
    one, two = (f"{noun}{opening}{found[-1].group(key)}{closing}" for key in ("first", "second"))
    return one, two
