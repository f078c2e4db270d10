"""The difference of two texts by words, as runs to mark up."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

# Words of both texts above which only the common beginning and end are looked for: the matcher's time grows
# with the product of their numbers.
_MOST_WORDS = 5_000
# Of both texts, up to which the spaces between words are compared by themselves: nicer, and slower.
_MOST_CHARACTERS = 15_000


class Piece(NamedTuple):
    """A run of words: in both texts, removed from the first, or added by the second."""

    kind: Literal["same", "removed", "added"]
    text: str


def pieces(before: str, after: str) -> list[Piece]:
    """Return what turns one text into the other, in order."""
    is_short = len(before) + len(after) < _MOST_CHARACTERS
    old, new = (re.findall(r"\s+|\S+" if is_short else r"\s+|\S+\s?", text) for text in (before, after))
    if len(old) + len(new) > _MOST_WORDS:
        return _by_margins(old, new)
    found = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(Piece("same", "".join(old[i1:i2])))
            continue
        found += [Piece("removed", "".join(old[i1:i2]))] * (i1 < i2) + [Piece("added", "".join(new[j1:j2]))] * (
            j1 < j2
        )
    return found


def _by_margins(old: list[str], new: list[str]) -> list[Piece]:
    n = 0
    while n < min(len(old), len(new)) and old[n] == new[n]:
        n += 1
    m = 0
    while m < min(len(old), len(new)) - n and old[-1 - m] == new[-1 - m]:
        m += 1
    rows = [
        Piece("same", "".join(old[:n])),
        Piece("removed", "".join(old[n : len(old) - m])),
        Piece("added", "".join(new[n : len(new) - m])),
        Piece("same", "".join(old[len(old) - m :])),
    ]
    return [row for row in rows if row.text]
